"""glTF: what is read as its specification says, and what is refused with its name."""

import json
from typing import Any

import numpy as np
import pytest

from sharedmlp.data import MeshReadError, read_mesh

from .gltf_files import BOX, FACES, Builder, box, glb, mesh
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


def changed(kind, index=0, **more):
    """The box, one part of it changed; None takes a value out."""
    document = box()
    part = {**document[kind][index], **more}
    document[kind][index] = {key: value for key, value in part.items() if value is not None}
    return document


DRACO = {"KHR_draco_mesh_compression": {"bufferView": 0, "attributes": {"POSITION": 0}}}
COMPRESSED = changed("accessors", bufferView=None)
COMPRESSED["meshes"][0]["primitives"][0]["extensions"] = DRACO
MESHOPT = changed("bufferViews", extensions={"EXT_meshopt_compression": {}})
MESHOPT["buffers"] = [{"byteLength": 500}]
DEEP = box(nodes=[*({"children": [i + 1]} for i in range(30_000)), {"mesh": 0}])

BAD: dict[str, tuple[Any, str]] = {
    "Draco": (COMPRESSED, "it is compressed with Draco (KHR_draco_mesh_compression)"),
    "Draco, required": (box(extensionsRequired=["KHR_draco_mesh_compression"]), "with Draco"),
    "meshoptimizer": (MESHOPT, "it is compressed with meshoptimizer (EXT_meshopt_compression)"),
    "another extension": (box(extensionsRequired=["FOO_bar"]), "requires the extension 'FOO_bar'"),
    "glTF 1": (box(asset={"version": "1.0"}), "it is of version '1.0' of glTF, expected 2.0"),
    "no JSON": (b"hello", "it is no glTF: its JSON cannot be read"),
    "no object": (b"[]", "it is no glTF: expected an object of JSON"),
    "a maximum below": (
        changed("accessors", max=[1, 2, 2]),
        "accessors[0]: its max is [1.0, 2.0, 2.0]",
    ),
    "a maximum above": (
        changed("accessors", max=[1, 2, 4]),
        "but that of its values is [1.0, 2.0, 3.0]",
    ),
    "a minimum": (changed("accessors", min=[0, 0, 1]), "accessors[0]: its min is [0.0, 0.0, 1.0]"),
    "a maximum of indices": (changed("accessors", 1, max=[8]), "accessors[1]: its max is [8.0]"),
    "a maximum of two numbers": (changed("accessors", max=[1, 2]), "expected 3 numbers as its max"),
    "a view too short": (
        changed("bufferViews", byteLength=95),
        "do not fit the 95 bytes of bufferV",
    ),
    "a view beyond its buffer": (
        changed("bufferViews", 1, byteOffset=97),
        "bytes 97 to 169 of a buf",
    ),
    "a buffer too short": (changed("buffers", byteLength=169), "promises 169 bytes, found 168"),
    "a buffer without data": (changed("buffers", uri=None), "buffers[0] has no data"),
    "a buffer that is no base64": (
        changed("buffers", uri="data:;base64,!"),
        "a data URI cannot be",
    ),
    "an accessor of no data": (changed("accessors", bufferView=None), "accessors[0] names no data"),
    "another type": (changed("accessors", type="VEC2"), "expected the type VEC3, found 'VEC2'"),
    "no component type": (
        changed("accessors", componentType=5124),
        "expected a componentType among",
    ),
    "an index too large": (
        changed("accessors", count=7),
        "a face refers to vertex 7, but there are 7",
    ),
    "signed indices": (
        changed("accessors", 1, componentType=5122),
        "accessors[1]: expected unsigned",
    ),
    "a corner too few": (changed("accessors", 1, count=35), "35 corners are no triangles"),
    "a stride too small": (changed("bufferViews", byteStride=4), "8 values of 12 bytes, 4 apart"),
    "no such view": (changed("accessors", bufferView=9), "it refers to bufferViews[9], but has 2"),
    "no such mesh": (box(nodes=[{"mesh": 1}]), "it refers to meshes[1], but has 1 of them"),
    "a mesh of -1": (box(nodes=[{"mesh": -1}]), "it refers to meshes[-1], but has 1 of them"),
    "no such scene": (box(scene=3), "it refers to scenes[3], but has 1 of them"),
    "no positions": (
        box(meshes=[{"primitives": [{"attributes": {}}]}]),
        "a part of a mesh has no POSI",
    ),
    "a mode of 7": (box(meshes=[mesh(0, 1, mode=7)]), "expected a mode of 0 to 6, found 7"),
    "two parents": (
        box(nodes=[{"children": [2]}, {"children": [2]}, {"mesh": 0}]),
        "a child of two",
    ),
    "a circle": (box(nodes=[{"children": [1]}, {"children": [0]}]), "its nodes form a circle"),
    "itself": (box(nodes=[{"mesh": 0, "children": [0]}]), "its nodes form a circle"),
    "a node shown twice": (box(scenes=[{"nodes": [0, 0]}]), "nodes: names a node twice"),
    "a parent and its child": (
        box(nodes=[{"children": [1]}, {"mesh": 0}], scenes=[{"nodes": [0, 1]}]),
        "its scene shows a node twice",
    ),
    "no rotation": (
        box(nodes=[{"mesh": 0, "rotation": [0, 0, 0, 0]}]),
        "its rotation is no quatern",
    ),
    "a scale of two": (
        box(nodes=[{"mesh": 0, "scale": [1, 1]}]),
        "expected 3 numbers as its scale",
    ),
    "a matrix of words": (
        box(nodes=[{"mesh": 0, "matrix": ["a"] * 16}]),
        "16 numbers as its matrix",
    ),
    "meshes that are none": (box(meshes=[1]), "meshes: expected a list of objects, found [1]"),
    "an empty scene": (box(scenes=[{}]), "there are no faces: no mesh in the scene that it shows"),
    "a scale of 0": (box(nodes=[{"mesh": 0, "scale": [0, 0, 0]}]), "no area"),
}


@pytest.mark.parametrize("case", BAD)
def test_gltf_that_has_to_be_refused(case, tmp_path):
    document, message = BAD[case]
    with pytest.raises(MeshReadError) as caught:
        read(tmp_path, document)
    assert message in caught.value.reason
    assert "\n" not in caught.value.reason
    assert len(caught.value.reason) < 300


def test_extensions_that_change_no_triangle_are_served(tmp_path):
    required = ["KHR_materials_unlit", "KHR_texture_transform", "KHR_mesh_quantization"]
    assert_is_box(read(tmp_path, box(extensionsRequired=required)))
    # What Draco compresses may stand beside it as it is.
    document = box()
    document["meshes"][0]["primitives"][0]["extensions"] = DRACO
    assert_is_box(read(tmp_path, document))
    assert_is_box(read(tmp_path, DEEP))


@pytest.mark.parametrize("length", [4, 12, 19, 24, 200, -100, -1])
def test_a_glb_cut_short_anywhere_is_refused(length, tmp_path):
    builder = Builder()
    content = glb(box(builder, uri=None), builder.data)
    with pytest.raises(MeshReadError, match="cut short"):
        read(tmp_path, content[:length], "a.glb")


def test_bounds_may_be_rounded(tmp_path):
    builder = Builder()
    positions = builder.accessor(BOX / 3, min=[0, 0, 0], max=[0.333, 0.667, 1])
    document = builder.document(meshes=[mesh(positions, builder.accessor(FACES))])
    assert_is_box(read(tmp_path, document), (1 / 3, 2 / 3, 1), 22 / 9)
