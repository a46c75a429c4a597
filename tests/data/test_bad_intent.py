"""Files made to exhaust memory, to read other files or to run code: refused with a message.

Beside what is tested where the formats are: OFF (`test_off.py`, `test_off_fuzz.py`), archives
(`test_modelnet.py`), headers of `.npy` (`test_clouds.py`).
"""

import base64
import io
import json
import os
import pickle  # noqa: TID251 - to write what must not be read
import struct
import sys
import tracemalloc
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh

from sharedmlp.data import (
    MeshReadError,
    prepare_mesh_tree,
    prepare_modelnet40_normals,
    read_cloud,
    read_hdf5,
    read_mesh,
)

from .io.meshes import TETRAHEDRON, write
from .test_hdf5 import DATA, LABEL, h5py, write_file, write_set

GB = 1 << 30
POSITIONS = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], dtype="<f4").tobytes()


def gltf(**changes):
    """One triangle; a change replaces a part."""
    uri = "data:application/octet-stream;base64," + base64.b64encode(POSITIONS).decode()
    tree = {
        "asset": {"version": "2.0"},
        "buffers": [{"byteLength": 36, "uri": uri}],
        "bufferViews": [{"buffer": 0, "byteLength": 36}],
        "accessors": [{"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
        "nodes": [{"mesh": 0}],
        "scenes": [{"nodes": [0]}],
        "scene": 0,
    }
    return json.dumps({**tree, **changes})


def accessor(count, **more):
    return {"componentType": 5126, "count": count, "type": "VEC3", **more}


USED = accessor(3, bufferView=0)


def glb(content, json_length=None):
    data = content.encode()
    data += b" " * (-len(data) % 4)
    header = struct.pack("<4sII", b"glTF", 2, 20 + len(data))
    return header + struct.pack("<I4s", json_length or len(data), b"JSON") + data


BUFFER = {"byteLength": 36}
THREE = {"scenes": [{"nodes": [0, 1, 2]}]}
NESTED = "".join(
    f'<!ENTITY {name} "{f"&{inner};" * 10}">' for inner, name in pairwise("abcdefghijkl")
)
LAUGHS = f"""<?xml version="1.0"?>
<!DOCTYPE lolz [<!ENTITY a "ha">{NESTED}]>
<COLLADA xmlns="http://www.collada.org/2005/11/COLLADASchema" version="1.4.1"><asset>&l;</asset>
</COLLADA>
"""
OUTSIDE = '<!DOCTYPE x [<!ENTITY l SYSTEM "file:///etc/passwd">]><COLLADA>&l;</COLLADA>'


def bomb(name):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name, b"0" * 10_000_000)
    return content.getvalue()


MESHES = {
    "22 bytes": ("a.glb", b"glTF\2\0\0\0\x16\0\0\0\xff\xff\xff\xffJSON{}", "is cut short"),
    "zeros": ("a.gltf", gltf(accessors=[accessor(10**12)]), "asks for about"),
    "zeros in a glb": ("a.glb", glb(gltf(accessors=[accessor(10**12)])), "asks for about"),
    "sparse zeros": (
        "a.gltf",
        gltf(
            accessors=[
                accessor(
                    4 * 10**7,
                    sparse={
                        "count": 1,
                        "indices": {"bufferView": 0, "componentType": 5125},
                        "values": {"bufferView": 0},
                    },
                )
            ]
        ),
        "40000000 zeros are more than the file can refer to",
    ),
    "aliases": ("a.gltf", gltf(accessors=[accessor(2 * 10**8, bufferView=0)] * 2), "asks for"),
    "views": ("a.gltf", gltf(bufferViews=[{"buffer": 0, "byteLength": GB}] * 3), "asks for about"),
    "nodes": ("a.gltf", gltf(accessors=[accessor(10**6)], nodes=[{"mesh": 0}] * 200), "asks for"),
    "primitives": (
        "a.gltf",
        gltf(
            accessors=[accessor(10**6)],
            meshes=[{"primitives": [{"attributes": {"POSITION": 0}}] * 200}],
        ),
        "asks for about",
    ),
    "zeros for nobody": ("a.gltf", gltf(accessors=[USED, accessor(10**12)]), "asks for about"),
    "negative": (
        "a.gltf",
        gltf(accessors=[USED, accessor(10**12), accessor(-(10**12))]),
        "expected a count, found -1000000000000",
    ),
    "no number": ("a.gltf", gltf(accessors=[accessor(1e30)]), "expected a count, found 1e"),
    "above": ("a.gltf", gltf(buffers=[{**BUFFER, "uri": "../secret.bin"}]), "no file in its"),
    "absolute": ("a.gltf", gltf(buffers=[{**BUFFER, "uri": "/etc/passwd"}]), "no file in its"),
    "a link": ("a.gltf", gltf(buffers=[{**BUFFER, "uri": "link.bin"}]), "no file in its folder"),
    "the web": ("a.gltf", gltf(buffers=[{**BUFFER, "uri": "http://localhost/x"}]), "no file in"),
    "another encoding": ("a.gltf", gltf().encode("utf-16"), "its JSON cannot be read"),
    "depth": ("a.gltf", "[" * 100_000, "its JSON cannot be read"),
    "entities": ("a.dae", LAUGHS, "expected one of .*converted"),
    "an outside entity": ("a.dae", OUTSIDE, "expected one of"),
    "entities in xaml": ("a.xaml", LAUGHS, "expected one of"),
    "entities in a zip": ("a.3mf", bomb("3D/3dmodel.model"), "expected one of"),
    "3dxml": ("a.3dxml", bomb("Manifest.xml"), "expected one of"),
    "zae": ("a.zae", bomb("a.dae"), "expected one of"),
    "a zip": ("a.zip", bomb("a.off"), "expected one of"),
    "json": ("a.json", "{}", "expected one of"),
    "an svg": ("a.svg", LAUGHS, "expected one of"),
    "ply counts": (
        "a.ply",
        "ply\nformat binary_little_endian 1.0\nelement vertex 1000000000000\nproperty float x\n"
        "property float y\nproperty float z\nelement face 1000000000000\n"
        "property list uint uint vertex_indices\nend_header\n" + "\x7f" * 48,
        "promises 1000000000000 records of 'vertex'",
    ),
    "ply lists": (
        "a.ply",
        b"ply\nformat binary_little_endian 1.0\nelement face 2\n"
        b"property list uint uint vertex_indices\nend_header\n" + b"\xff" * 64,
        "promises 2 records of 'face', but the file ends after 0",
    ),
    "many empty ply lists": (
        "a.ply",
        b"ply\nformat binary_little_endian 1.0\nelement face 100001\n"
        b"property list uchar int vertex_indices\nend_header\n\1" + b"\0" * 100_000,
        "promises 100001 records of 'face', but the file ends after",
    ),
    "ply text": (
        "a.ply",
        "ply\nformat ascii 1.0\nelement vertex 1000000000000\nproperty float x\nproperty float y\n"
        "property float z\nelement face 99999999\nproperty list int int vertex_indices\n"
        "end_header\n0 0 0\n",
        "promises 1000000000000 records of 'vertex', but the file ends after 1",
    ),
    "stl count": ("a.stl", b"\0" * 80 + b"\xff\xff\xff\xff" + b"\0" * 50, "no area"),
    "obj index": (
        "a.obj",
        "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 4000000000\n",
        "refers to vertex 4000000000",
    ),
    "off": ("a.off", "OFF\n1000000000000 1000000000000 0\n0 0 0\n", "promises 1000000000000"),
    "text": ("a.txt", b"\0" * 1000, "no array of numbers"),
    "an npy that is an npz": ("a.npy", bomb("a.npy"), "the magic string is not correct"),
    "an npy of ones": ("a.npy", b"\x93NUMPY\1\0\xff\xff{", "EOF: reading array header"),
}


@pytest.mark.parametrize("case", MESHES)
def test_none_of_these_takes_room_or_reads_another_file(tmp_path, case):
    name, content, message = MESHES[case]
    folder = tmp_path / "inside"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(POSITIONS)
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    path = write(folder / name, content)
    tracemalloc.start()
    try:
        with pytest.raises(MeshReadError, match=message) as error:
            read_cloud(path, 8, seed=0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert error.value.path == path
    assert "MemoryError" not in error.value.reason
    assert peak < 30e6


def test_gltf_with_a_file_beside_it_is_read(tmp_path):
    (tmp_path / "a.bin").write_bytes(POSITIONS)
    path = tmp_path / "a.gltf"
    path.write_text(gltf(buffers=[{**BUFFER, "uri": "a.bin"}], nodes=[{"mesh": 0}] * 3, **THREE))
    assert len(read_mesh(path).faces) == 3
    trimesh.creation.icosphere(subdivisions=5).export(tmp_path / "b.glb")
    assert len(read_mesh(tmp_path / "b.glb").faces) == 20_480


def test_gltf_opens_no_pictures(tmp_path, monkeypatch):
    asked = []
    resolver = trimesh.resolvers.FilePathResolver
    monkeypatch.setattr(resolver, "get", lambda _, name: asked.append(name))
    texture = {"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}
    primitive = {"attributes": {"POSITION": 0}, "material": 0}
    content = gltf(
        images=[{"uri": "a.png"}],
        textures=[{"source": 0}],
        materials=[texture],
        meshes=[{"primitives": [primitive]}],
    )
    assert len(read_mesh(write(tmp_path / "a.gltf", content)).faces) == 1
    assert not asked


@pytest.mark.parametrize(
    "part", [{"nodes": [{}] * 300}, {"meshes": [{"primitives": [{"attributes": {}}] * 300}]}]
)
def test_many_small_parts_of_gltf_count_too(tmp_path, monkeypatch, part):
    monkeypatch.setattr("sharedmlp.data.io.gltf_document._MOST_BYTES", 1 << 20)
    with pytest.raises(MeshReadError, match=r"asks for about [12]\d{6} bytes"):
        read_mesh(write(tmp_path / "a.gltf", gltf(**part)))


def test_obj_reads_no_materials(tmp_path, monkeypatch):
    """Not those of its folder, and none elsewhere."""
    (tmp_path / "in").mkdir()
    (tmp_path / "out.mtl").write_text("newmtl m\nmap_Kd secret.png\n")
    path = tmp_path / "in" / "a.obj"
    faces = "v 0 0 0\nv 1 0 0\nv 0 1 0\nusemtl m\nf 1 2 3\n"
    path.write_text(f"mtllib ../out.mtl\n{faces}")
    asked = []
    monkeypatch.setattr(
        trimesh.resolvers.FilePathResolver, "get", lambda _, name: asked.append(name)
    )
    assert len(read_mesh(path).faces) == 1
    path.write_text(faces.replace("v 0", "mtllib ../out.mtl\nv 0", 1))
    assert len(read_mesh(path).faces) == 1
    assert not asked


@pytest.mark.skipif(sys.platform == "win32", reason="has none")
@pytest.mark.parametrize("suffix", [".off", ".ply", ".npy", ".txt"])
def test_pipes_and_devices_are_no_files(tmp_path, suffix):
    os.mkfifo(tmp_path / f"a{suffix}")
    (tmp_path / f"b{suffix}").symlink_to("/dev/zero")
    for name in "ab":
        with pytest.raises(MeshReadError, match="is no regular file"):
            read_cloud(tmp_path / f"{name}{suffix}", 8, seed=0)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("suffix", [".npy", ".off", ".glb", ".ply", ".txt"])
def test_a_pickle_is_not_unpickled(tmp_path, suffix):
    (tmp_path / f"a{suffix}").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    with pytest.raises(MeshReadError):
        read_cloud(tmp_path / f"a{suffix}", 8, seed=0)
    np.save(tmp_path / "b.npy", np.array([Bomb(tmp_path / "ran")], dtype=object))
    with pytest.raises(MeshReadError, match="got dtype object"):
        read_cloud(tmp_path / "b.npy", 8, seed=0)
    assert not (tmp_path / "ran").exists()


def test_a_cache_with_a_pickle_in_it_is_made_anew(tmp_path):
    root = tmp_path / "tree"
    path = root / "a" / "train" / "a.off"
    path.parent.mkdir(parents=True)
    path.write_text(TETRAHEDRON)
    options: dict[str, Any] = {"pool_size": 8, "num_workers": 0, "progress": False}
    expected = np.array(prepare_mesh_tree(root, "train", **options).points)
    (points,) = root.rglob("points.npy")
    size = points.stat().st_size
    np.save(points, np.array([Bomb(tmp_path / "ran")], dtype=object))
    with points.open("ab") as file:
        file.truncate(size)  # of the length that the index tells
    pool = prepare_mesh_tree(root, "train", **options)
    np.testing.assert_array_equal(pool.points, expected)
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def hdf5_set(tmp_path):
    return write_set(tmp_path / "set")


def make_claim(file, **options):
    file.create_dataset("data", (10**9, 10**6, 3), "f4", chunks=(1, 64, 3), **options)
    file["label"] = LABEL


def make_large_chunk(file):
    chunks = (5_000_000, 5, 3)
    data = file.create_dataset(
        "data", (2, 5, 3), "f4", chunks=chunks, maxshape=(None, 5, 3), compression="gzip"
    )
    # What a chunk of zeros shrinks to is written as it is, or making it would take the memory.
    data.id.write_direct_chunk((0, 0, 0), b"\x78\x9c" + b"\0" * 1000)
    file["label"] = LABEL


def make_external_link(file):
    file["data"] = h5py.ExternalLink("ply_data_train0.h5", "data")
    file["label"] = LABEL


def make_soft_link(file):
    file["other"] = h5py.ExternalLink("ply_data_train0.h5", "/")
    file["data"] = h5py.SoftLink("/other/data")
    file["label"] = LABEL


def make_external_storage(file):
    file.create_dataset("data", (2, 5, 3), "f4", external=[("ply_data_train0.h5", 0, 120)])
    file["label"] = LABEL


def make_virtual(file):
    layout = h5py.VirtualLayout((2, 5, 3), "f4")
    layout[:] = h5py.VirtualSource("ply_data_train0.h5", "data", (4, 5, 3))[:2]
    file.create_virtual_dataset("data", layout)
    file["label"] = LABEL


def make_group(file):
    file.create_group("data")
    file["label"] = LABEL


def make_references(file):
    file.create_dataset("data", (2, 5, 3), h5py.ref_dtype)
    file["label"] = LABEL


def make_strings(file):
    file["data"] = np.full((2, 5, 3), b"1.0")
    file["label"] = LABEL


def make_many_labels(file):
    file["data"] = DATA
    file.create_dataset("label", (2, 1), "u1", chunks=(2 * 10**9, 1), maxshape=(None, 1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (make_claim, r"claims 12000000000000000 bytes, more than 100 times the 0"),
        (make_large_chunk, "claims 300000000 bytes, more than 100 times the 1"),
        (make_external_link, "expected 'data' to be an array in the file itself"),
        (make_soft_link, "expected 'data' to be an array in the file itself"),
        (make_external_storage, "expected 'data' to be an array in the file itself"),
        (make_virtual, "expected 'data' to be an array in the file itself"),
        (make_group, "expected 'data' to be an array in the file itself"),
        (make_references, "floating point, got shape"),
        (make_strings, "floating point, got shape"),
        (make_many_labels, "'label' of shape .* claims 2000000000 bytes"),
    ],
)
def test_hdf5_that_claims_or_names_what_is_not_in_it(hdf5_set, make, message):
    with h5py.File(hdf5_set / "ply_data_test0.h5", "w") as file:
        make(file)
    with pytest.raises(ValueError, match=message):
        read_hdf5(hdf5_set, "test")


def test_what_shrinks_as_coordinates_do_is_read(hdf5_set):
    points = np.random.default_rng(0).normal(size=(2, 4096, 3)).round(2).astype("f4")
    with h5py.File(hdf5_set / "ply_data_test0.h5", "w") as file:
        file.create_dataset("data", data=points, compression="gzip")
        file.create_dataset("label", data=LABEL, compression="gzip")
    np.testing.assert_array_equal(read_hdf5(hdf5_set, "test").points, points)


@pytest.mark.parametrize("name", ["../secret.h5", "/etc/passwd", "a/../../secret.h5", ".."])
def test_lists_of_hdf5_files_lead_nowhere_else(hdf5_set, name):
    write_file(hdf5_set.parent / "secret.h5", data=DATA, label=LABEL)
    (hdf5_set / "test_files.txt").write_text(f"{name}\n")
    with pytest.raises(FileNotFoundError, match=r"named by test_files\.txt but missing"):
        read_hdf5(hdf5_set, "test")


@pytest.mark.parametrize("name", ["..", "a/../..", "/", "a\\..\\.."])
def test_lists_of_resampled_clouds_lead_nowhere_else(tmp_path, name):
    root = tmp_path / "root"
    root.mkdir()
    for path in (tmp_path / f"{name}_1.txt", root / name / f"{name}_1.txt"):
        if path.resolve().is_relative_to(tmp_path) and path.parent.is_dir():
            path.write_text("0,0,0,0,0,1\n1,0,0,0,0,1\n")
    (root / "modelnet40_shape_names.txt").write_text(f"{name}\n")
    (root / "modelnet40_train.txt").write_text(f"{name}_1\n")
    with pytest.raises((ValueError, FileNotFoundError), match=r"belongs to no class|missing"):
        prepare_modelnet40_normals(root, "train", pool_size=2, progress=False)
