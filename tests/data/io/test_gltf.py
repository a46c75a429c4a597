"""glTF: what is read as its specification says, and what is refused with its name."""

import json

import numpy as np
import pytest

from sharedmlp.data import MeshReadError, read_mesh

from .gltf_files import BOX, DRACO, FACES, Builder, box, glb, mesh
from .meshes import assert_is_box, write


def read(tmp_path, document, name="a.gltf"):
    content = document if isinstance(document, bytes) else json.dumps(document)
    return read_mesh(write(tmp_path / name, content))


def test_a_box_in_every_container(tmp_path):
    assert read(tmp_path, box()).vertices.tolist() == BOX.tolist()
    builder = Builder()
    document = box(builder, uri=None)
    mesh = read(tmp_path, glb(document, builder.data), "a.glb")
    assert mesh.faces.ravel().tolist() == FACES.tolist()
    assert_is_box(read(tmp_path, glb(document, builder.data) + b"more", "a.glb"))
    assert_is_box(read(tmp_path, glb(document, builder.data), "a.gltf"))
    assert_is_box(read(tmp_path, b"\xef\xbb\xbf" + json.dumps(box()).encode()))


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("my%20box.bin", "my box.bin"),
        ("my box.bin", "my box.bin"),
        ("k%C3%B6rper.bin", "körper.bin"),
        ("100%25.bin", "100%.bin"),
        ("a%20b.bin", "a%20b.bin"),
        ("sub/a.bin", "sub/a.bin"),
        ("./a.bin", "a.bin"),
    ],
)
def test_names_of_buffers(uri, name, tmp_path):
    builder = Builder()
    document = box(builder, uri=uri)
    (tmp_path / "sub").mkdir()
    write(tmp_path / name, builder.data)
    assert_is_box(read(tmp_path, document))


def test_percent_encoding_leads_nowhere_else(tmp_path):
    builder = Builder()
    (tmp_path / "in").mkdir()
    box(builder)
    write(tmp_path / "a.bin", builder.data)
    for uri in ("..%2Fa.bin", "%2e%2e/a.bin", "%00", "..%5Ca.bin"):
        with pytest.raises(MeshReadError, match="which is no file in its folder"):
            read(tmp_path / "in", box(uri=uri))


@pytest.mark.parametrize(
    ("mode", "corners", "triangles"),
    [
        (4, [0, 1, 2, 2, 1, 3], [[0, 1, 2], [2, 1, 3]]),
        (5, [0, 1, 2, 3], [[0, 1, 2], [2, 1, 3]]),
        (5, [0, 1, 2, 3, 6], [[0, 1, 2], [2, 1, 3], [2, 3, 6]]),
        (6, [0, 1, 3, 2], [[0, 1, 3], [0, 3, 2]]),
    ],
)
def test_modes(mode, corners, triangles, tmp_path):
    for kind in ("u1", "u2", "u4"):
        builder = Builder()
        positions = builder.accessor(BOX)
        indices = builder.accessor(np.array(corners, kind))
        mesh_ = read(tmp_path, builder.document(meshes=[mesh(positions, indices, mode=mode)]))
        assert mesh_.faces.tolist() == triangles
        # Without indices the vertices themselves are the corners.
        builder = Builder()
        positions = builder.accessor(BOX[corners])
        mesh_ = read(tmp_path, builder.document(meshes=[mesh(positions, mode=mode)]))
        np.testing.assert_array_equal(mesh_.triangles, BOX[np.array(triangles)])


def test_points_and_lines_are_left_out(tmp_path):
    builder = Builder()
    positions, faces = builder.accessor(BOX), builder.accessor(FACES)
    others = [mesh(positions, mode=mode)["primitives"][0] for mode in range(4)]
    parts = [*others, *mesh(positions, faces)["primitives"]]
    assert_is_box(read(tmp_path, builder.document(meshes=[{"primitives": parts}])))
    document = builder.document(meshes=[{"primitives": others}])
    with pytest.raises(MeshReadError, match="holds lines and points and no faces"):
        read(tmp_path, document)


def test_sparse_values(tmp_path):
    builder = Builder()
    wrong = BOX.copy()
    wrong[[2, 7]] = 9
    replaced = {
        "count": 2,
        "indices": {"bufferView": builder.view(b"\2\7"), "componentType": 5121},
        "values": {"bufferView": builder.view(BOX[[2, 7]].tobytes())},
    }
    positions = builder.accessor(wrong, sparse=replaced, min=[0, 0, 0], max=[1, 2, 3])
    document = builder.document(meshes=[mesh(positions, builder.accessor(FACES))])
    mesh_ = read(tmp_path, document)
    np.testing.assert_array_equal(mesh_.vertices, BOX)
    # Without a view the others are zeros; indices may be sparse too.
    del document["accessors"][0]["bufferView"]
    document["accessors"][0].update(max=[1, 2, 3])
    np.testing.assert_array_equal(read(tmp_path, document).vertices[[2, 7]], BOX[[2, 7]])
    assert np.count_nonzero(read(tmp_path, document).vertices) == 4
    for indices in (b"\7\2", b"\2\2", b"\2\10"):
        start = document["bufferViews"][0]["byteOffset"]
        builder.data = builder.data[:start] + indices + builder.data[start + 2 :]
        changed = builder.document(meshes=document["meshes"])
        with pytest.raises(MeshReadError, match="expected increasing sparse indices below 8"):
            read(tmp_path, changed)


@pytest.mark.parametrize("kind", ["i1", "u1", "i2", "u2"])
@pytest.mark.parametrize("normalized", [True, False])
def test_quantized_positions(kind, normalized, tmp_path):
    builder = Builder()
    most = np.iinfo(kind).max
    padded = np.zeros((8, 4), kind)
    padded[:, :3] = np.round(BOX / 3 * most) if normalized else BOX
    view = builder.view(padded.tobytes(), byteStride=padded.itemsize * 4)
    positions = builder.accessor(padded[:, :3], bufferView=view, normalized=normalized)
    document = builder.document(
        meshes=[mesh(positions, builder.accessor(FACES))],
        nodes=[{"mesh": 0, "scale": [3, 3, 3]}] if normalized else [{"mesh": 0}],
        extensionsUsed=["KHR_mesh_quantization"],
        extensionsRequired=["KHR_mesh_quantization"],
    )
    mesh_ = read(tmp_path, document)
    tolerance = 3 / most if normalized else 1e-7
    np.testing.assert_allclose(mesh_.vertices, BOX, atol=tolerance)
    assert mesh_.extents[2] == pytest.approx(3)


def test_several_parts_share_and_interleave_their_values(tmp_path):
    builder = Builder()
    both = np.concatenate([BOX, BOX[:, ::-1]], axis=1)
    view = builder.view(both.astype("<f4").tobytes(), byteStride=24)
    first = builder.accessor(BOX, bufferView=view)
    second = builder.accessor(BOX, bufferView=view, byteOffset=12)
    halves = [builder.accessor(FACES[:18]), builder.accessor(FACES[18:])]
    parts = [mesh(first, half)["primitives"][0] for half in halves]
    document = builder.document(
        meshes=[{"primitives": parts}, mesh(second, builder.accessor(FACES))]
    )
    mesh_ = read(tmp_path, document)
    assert_is_box(mesh_)
    assert len(mesh_.vertices) == 8
    document["nodes"] = [{"mesh": 1}]
    assert_is_box(read(tmp_path, document), (3, 2, 1))


def test_nodes_and_their_places(tmp_path):
    half = np.sqrt(0.5)
    nodes = [
        {"children": [1], "translation": [10, 0, 0]},
        {"children": [2], "rotation": [0, 0, half, half]},  # x becomes y
        {"mesh": 0, "scale": [2, 1, 1]},
        {"mesh": 0, "matrix": [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 5, 1]},
        {"mesh": 0, "translation": [99, 0, 0]},
    ]
    document = box(nodes=nodes, scenes=[{"nodes": [4]}, {"nodes": [0, 3]}], scene=1)
    mesh_ = read(tmp_path, document)
    np.testing.assert_allclose(mesh_.bounds, [[0, 0, 0], [10, 2, 8]], atol=1e-6)
    turned = mesh_.vertices[:8]
    np.testing.assert_allclose(
        turned, np.column_stack([10 - BOX[:, 1], 2 * BOX[:, 0], BOX[:, 2]]), atol=1e-6
    )
    np.testing.assert_allclose(mesh_.vertices[8:], BOX + np.array([0, 0, 5]))
    del document["scene"]  # the first one
    np.testing.assert_allclose(read(tmp_path, document).vertices, BOX + np.array([99, 0, 0]))
    del document["scenes"]  # all roots
    assert len(read(tmp_path, document).faces) == 36
    del document["nodes"]  # the meshes themselves
    assert_is_box(read(tmp_path, document))


def test_what_is_mirrored_keeps_its_outside(tmp_path):
    outwards = read(tmp_path, box()).volume
    mirrored = read(tmp_path, box(nodes=[{"mesh": 0, "scale": [-1, 1, 1]}]))
    assert mirrored.volume == pytest.approx(outwards)
    assert mirrored.vertices[:, 0].min() == -1


def test_skins_and_morph_targets(tmp_path):
    builder = Builder()
    attributes = {
        "POSITION": builder.accessor(BOX),
        "JOINTS_0": builder.accessor(np.array([[0, 1, 0, 0]] * 4 + [[1, 0, 0, 0]] * 4, "u1")),
        "WEIGHTS_0": builder.accessor(np.array([[1, 0, 0, 0]] * 8, "f4")),
    }
    shift = np.eye(4, dtype="f4")
    shift[3, 2] = 100  # by columns: it moves z
    inverse = builder.accessor(np.stack([np.eye(4, dtype="f4").ravel(), shift.ravel()]))
    primitive = {"attributes": attributes, "indices": builder.accessor(FACES)}
    document = builder.document(
        meshes=[{"primitives": [primitive]}],
        nodes=[
            {"mesh": 0, "skin": 0, "translation": [77, 0, 0]},  # which a skin leaves out
            {"translation": [0, 0, 1], "children": [2]},
            {"translation": [1, 0, -101]},
        ],
        skins=[{"joints": [1, 2], "inverseBindMatrices": inverse}],
        scenes=[{"nodes": [0, 1]}],
    )
    moved = BOX + np.array([[0, 0, 1]] * 4 + [[1, 0, 0]] * 4)
    np.testing.assert_allclose(read(tmp_path, document).vertices, moved)
    builder = Builder()
    targets = [{"POSITION": builder.accessor(BOX)}, {"POSITION": builder.accessor(-BOX)}]
    meshes = [mesh(builder.accessor(BOX), builder.accessor(FACES), targets=targets)]
    for weights, factor in (([], 1), ([0, 0], 1), ([1, 0.5], 1.5)):
        document = builder.document(meshes=[{**meshes[0], "weights": weights}])
        np.testing.assert_allclose(read(tmp_path, document).vertices, factor * BOX)
    document["nodes"] = [{"mesh": 0, "weights": [0, 3]}]
    np.testing.assert_allclose(read(tmp_path, document).vertices, -2 * BOX)


DEEP = box(nodes=[*({"children": [i + 1]} for i in range(30_000)), {"mesh": 0}])


def test_extensions_that_change_no_triangle_are_served(tmp_path):
    required = ["KHR_materials_unlit", "KHR_texture_transform", "KHR_mesh_quantization"]
    assert_is_box(read(tmp_path, box(extensionsRequired=required)))
    # What Draco compresses may stand beside it as it is.
    document = box()
    document["meshes"][0]["primitives"][0]["extensions"] = DRACO
    assert_is_box(read(tmp_path, document))
    assert_is_box(read(tmp_path, DEEP))


def test_bounds_may_be_rounded(tmp_path):
    builder = Builder()
    positions = builder.accessor(BOX / 3, min=[0, 0, 0], max=[0.333, 0.667, 1])
    document = builder.document(meshes=[mesh(positions, builder.accessor(FACES))])
    assert_is_box(read(tmp_path, document), (1 / 3, 2 / 3, 1), 22 / 9)
