"""glTF that is not read: the sentence says why."""

from typing import Any

import pytest

from sharedmlp.data import MeshReadError

from .gltf_files import DRACO, Builder, box, glb, mesh
from .test_gltf import read


def changed(kind, index=0, **more):
    """The box, one part of it changed; None takes a value out."""
    document = box()
    part = {**document[kind][index], **more}
    document[kind][index] = {key: value for key, value in part.items() if value is not None}
    return document


COMPRESSED = changed("accessors", bufferView=None)
COMPRESSED["meshes"][0]["primitives"][0]["extensions"] = DRACO
MESHOPT = changed("bufferViews", extensions={"EXT_meshopt_compression": {}})
MESHOPT["buffers"] = [{"byteLength": 500}]
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


@pytest.mark.parametrize("length", [4, 12, 19, 24, 200, -100, -1])
def test_a_glb_cut_short_anywhere_is_refused(length, tmp_path):
    builder = Builder()
    content = glb(box(builder, uri=None), builder.data)
    with pytest.raises(MeshReadError, match="cut short"):
        read(tmp_path, content[:length], "a.glb")
