"""glTF files, whose demands are held against a bound before a parser that trusts them sees them.

The JSON may claim any number of zeros, name one piece of data a million times, put one mesh into a
scene as often, and name other files.
"""

import json
import struct
from pathlib import Path
from typing import Any

from sharedmlp.data.io.base import FormatError, MeshArrays
from sharedmlp.data.io.trimesh_reader import load_with_trimesh

# A mesh of ten million triangles asks for less.
_MOST_BYTES = 1 << 31
_COMPONENTS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
# Of one number in a mesh; of a node or a mesh, however small.
_BYTES_A_NUMBER = 4
_BYTES_A_VALUE = 16
_BYTES_AN_OBJECT = 4096


def check_gltf(path: Path, content: bytes) -> None:
    """Hold what a glTF file asks for against a bound.

    Args:
        path: The file; the files that it names have to be in its folder.
        content: Its bytes, of `.gltf` or `.glb`.

    Raises:
        FormatError: If it would take more than 2 GiB, or names a file that is not in its folder.
        Exception: Whatever reading JSON runs into.
    """
    if path.suffix.lower() == ".glb":
        (length,) = struct.unpack_from("<I", content, 12)
        content = content[20 : 20 + length]
    tree = json.loads(content.decode("utf-8"))  # as trimesh does; json alone would guess
    asked = _named_bytes(path.parent, tree) + _asked_bytes(tree)
    if asked > _MOST_BYTES:
        raise FormatError(
            f"it asks for about {asked} bytes, expected at most {_MOST_BYTES}: its counts are "
            "wrong, or it is made to exhaust memory"
        )


def read_gltf(path: Path, content: bytes) -> MeshArrays:
    """Read all meshes of a scene as one, after `check_gltf`; buffers may be files in its folder."""
    import trimesh

    resolver = trimesh.resolvers.FilePathResolver(str(path))
    return load_with_trimesh(content, path.suffix.lower(), resolver)


def _named_bytes(folder: Path, tree: dict[str, Any]) -> int:
    """Return the sizes of the files that are named, as often as they are named."""
    size = 0
    for buffer in tree.get("buffers", []):
        uri = buffer.get("uri", "data:")
        if uri.startswith("data:"):
            continue
        named = folder / uri
        if not named.resolve().is_relative_to(folder.resolve()) or not named.is_file():
            raise FormatError(f"it refers to {uri!r}, which is no file in its folder")
        size += named.stat().st_size
    return size


def _asked_bytes(tree: dict[str, Any]) -> int:
    """Return how many bytes its parts take, each copied."""
    counts = [_count(accessor["count"]) for accessor in tree.get("accessors", [])]
    size = sum(_count(view["byteLength"]) for view in tree.get("bufferViews", []))
    for count, accessor in zip(counts, tree.get("accessors", []), strict=True):
        size += count * _COMPONENTS[accessor["type"]] * _BYTES_A_NUMBER
    meshes = [_mesh_bytes(mesh, counts) for mesh in tree.get("meshes", [])]
    size += sum(meshes)
    for node in tree.get("nodes", []):
        size += _BYTES_AN_OBJECT + (meshes[node["mesh"]] if "mesh" in node else 0)
    return size


def _mesh_bytes(mesh: dict[str, Any], counts: list[int]) -> int:
    size = 0
    for primitive in mesh["primitives"]:
        named = [*primitive["attributes"].values(), primitive.get("indices")]
        values = sum(counts[index] for index in named if index is not None)
        size += _BYTES_AN_OBJECT + values * _BYTES_A_VALUE
    return size


def _count(value: Any) -> int:
    if not isinstance(value, int) or value < 0:  # one below zero would make up for others
        raise FormatError(f"expected a count, found {value!r}")
    return value
