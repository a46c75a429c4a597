"""The document of a glTF file: its container, its JSON and what it asks for.

The JSON may claim any number of zeros, name one piece of data a million times, put one mesh into a
scene as often, and name other files: all that is held against a bound before anything is made.
"""

import json
import struct
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from sharedmlp.data.io.base import FormatError
from sharedmlp.data.io.text import one_line, shorten

# A mesh of ten million triangles asks for less.
_MOST_BYTES = 1 << 31
COMPONENTS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
# Of one number in a mesh; of a node or a mesh, however small.
_BYTES_A_NUMBER = 4
_BYTES_A_VALUE = 16
_BYTES_AN_OBJECT = 4096

_MAGIC = b"glTF"
_KINDS = ("accessors", "bufferViews", "buffers", "meshes", "nodes", "scenes", "skins")
_COMPRESSIONS = {
    "KHR_draco_mesh_compression": "Draco",
    "EXT_meshopt_compression": "meshoptimizer",
    "KHR_meshopt_compression": "meshoptimizer",
}
# Extensions that change no triangle, by the start of their names, and the one that is served.
_SERVED = (
    *("KHR_materials_", "KHR_texture_", "KHR_lights_", "KHR_xmp", "KHR_animation_", "KHR_audio"),
    *("EXT_texture_", "EXT_lights_", "EXT_materials_", "EXT_mesh_features", "EXT_structural_"),
    *("MSFT_texture_", "MSFT_packing_", "ADOBE_materials_", "KHR_mesh_quantization"),
)


class GltfDocument(NamedTuple):
    """A glTF file before its buffers are read.

    Attributes:
        tree: The JSON, an object, whose `_KINDS` are lists of objects.
        chunk: The binary chunk of a `.glb` file, if it has one.
        folder: Where the files lie that it names.
        num_bytes: The size of the file.
    """

    tree: dict[str, Any]
    chunk: bytes | None
    folder: Path
    num_bytes: int

    def parts(self, kind: str) -> list[dict[str, Any]]:
        """Return all parts of a kind, such as "meshes"."""
        parts: list[dict[str, Any]] = self.tree.get(kind, [])
        return parts

    def part(self, kind: str, index: Any) -> dict[str, Any]:
        """Return a part that another one refers to."""
        parts = self.parts(kind)
        if not _is_integer(index) or not 0 <= index < len(parts):
            raise FormatError(f"it refers to {kind}[{_show(index)}], but has {len(parts)} of them")
        part: dict[str, Any] = parts[index]
        return part


def read_document(path: Path, content: bytes) -> GltfDocument:
    """Read a `.gltf` or `.glb` file as far as its JSON.

    Raises:
        FormatError: If it is no glTF 2.0, is cut short or requires an extension that is not served.
    """
    chunk, num_bytes = None, len(content)
    if content.startswith(_MAGIC):
        content, chunk = _split_chunks(content)
    try:
        # As the format says; json alone would guess the encoding.
        tree = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise FormatError(
            f"it is no glTF: its JSON cannot be read ({one_line(str(error))})"
        ) from error
    if not isinstance(tree, dict):
        raise FormatError(f"it is no glTF: expected an object of JSON, found {_show(tree)}")
    asset = tree.get("asset", {})
    version = asset.get("version", "2.0") if isinstance(asset, dict) else None
    if not isinstance(version, str) or not version.startswith("2."):
        raise FormatError(f"it is of version {_show(version)} of glTF, expected 2.0")
    for name in get_list(tree, "extensionsRequired"):
        if not isinstance(name, str) or not name.startswith(_SERVED):
            raise (
                compressed(name)
                if isinstance(name, str) and name in _COMPRESSIONS
                else FormatError(f"it requires the extension {_show(name)}, which is not read")
            )
    for kind in _KINDS:
        parts = tree.get(kind, [])
        if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
            raise FormatError(f"{kind}: expected a list of objects, found {_show(parts)}")
    return GltfDocument(tree, chunk, path.parent, num_bytes)


def compressed(extension: str) -> FormatError:
    """Return the error for a part that only an extension could unfold."""
    return FormatError(
        f"it is compressed with {_COMPRESSIONS[extension]} ({extension}), which is not read: save "
        "it without compression"
    )


def find_compression(part: dict[str, Any]) -> str | None:
    """Return the extension that a part is compressed with, if it is."""
    extensions = get_object(part, "extensions")
    return next((name for name in _COMPRESSIONS if name in extensions), None)


def check_size(document: GltfDocument) -> None:
    """Hold what a document asks for against a bound.

    Raises:
        FormatError: If it would take more than 2 GiB, or names a file that is not in its folder.
    """
    asked = count_named_bytes(document) + _asked_bytes(document)
    if asked > _MOST_BYTES:
        raise FormatError(
            f"it asks for about {asked} bytes, expected at most {_MOST_BYTES}: its counts are "
            "wrong, or it is made to exhaust memory"
        )


def get_count(part: dict[str, Any], key: str, default: int | None = None) -> int:
    """Return a whole number of 0 or more.

    Raises:
        FormatError: If it is none, or missing without a default.
    """
    value = part.get(key, default)
    # One below zero would make up for others.
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise FormatError(f"{key}: expected a count, found {_show(value)}")
    return value


def get_list(part: dict[str, Any], key: str) -> list[Any]:
    """Return a list, empty if it is missing."""
    value = part.get(key, [])
    if not isinstance(value, list):
        raise FormatError(f"{key}: expected a list, found {_show(value)}")
    return value


def get_object(part: dict[str, Any], key: str) -> dict[str, Any]:
    """Return an object, empty if it is missing."""
    value = part.get(key, {})
    if not isinstance(value, dict):
        raise FormatError(f"{key}: expected an object, found {_show(value)}")
    return value


def find_file(folder: Path, uri: str) -> Path:
    """Return the file that a document names, which may be percent-encoded.

    Raises:
        FormatError: If it is no file in the document's folder.
    """
    for name in (uri, unquote(uri)):
        named = folder / name if "\0" not in name else folder
        if named.is_file() and named.resolve().is_relative_to(folder.resolve()):
            return named
    raise FormatError(f"it refers to {shorten(uri)}, which is no file in its folder")


def get_primitives(mesh: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the parts of a mesh, each of one material."""
    primitives = get_list(mesh, "primitives")
    if not all(isinstance(primitive, dict) for primitive in primitives):
        raise FormatError(f"primitives: expected objects, found {_show(primitives)}")
    return primitives


def _split_chunks(content: bytes) -> tuple[bytes, bytes | None]:
    """Return the JSON of a `.glb` file and its binary chunk."""
    if len(content) < 20:
        raise FormatError(f"it has {len(content)} bytes: the file is cut short")
    version, length, json_length = struct.unpack_from("<III", content, 4)
    if version != 2 or content[16:20] != b"JSON":
        raise FormatError(f"it is binary glTF of version {version}, expected 2 and JSON first")
    if length > len(content) or 20 + json_length > length:
        raise FormatError(
            f"its header promises {length} bytes and {json_length} of JSON, found {len(content)}: "
            "the file is cut short"
        )
    start = 20 + json_length
    chunk = None
    if length - start >= 8:
        (size,) = struct.unpack_from("<I", content, start)
        if start + 8 + size > length:
            raise FormatError(
                f"its second chunk promises {size} bytes, found {length - start - 8}: the file is "
                "cut short"
            )
        if content[start + 4 : start + 8] == b"BIN\0":
            chunk = content[start + 8 : start + 8 + size]
    return content[20:start], chunk


def count_named_bytes(document: GltfDocument) -> int:
    """Return the sizes of the files that are named, as often as they are named."""
    size = 0
    for buffer in document.parts("buffers"):
        uri = buffer.get("uri", "data:")
        if not isinstance(uri, str):
            raise FormatError(f"uri: expected text, found {_show(uri)}")
        if not uri.startswith("data:"):
            size += find_file(document.folder, uri).stat().st_size
    return size


def _asked_bytes(document: GltfDocument) -> int:
    """Return how many bytes its parts take, each copied."""
    size = sum(get_count(view, "byteLength") for view in document.parts("bufferViews"))
    counts = []
    for accessor in document.parts("accessors"):
        counts.append(get_count(accessor, "count"))
        size += counts[-1] * COMPONENTS.get(str(accessor.get("type")), 16) * _BYTES_A_NUMBER
    meshes = [_mesh_bytes(mesh, counts) for mesh in document.parts("meshes")]
    size += sum(meshes)
    for node in document.parts("nodes"):
        size += _BYTES_AN_OBJECT
        if "mesh" in node:
            document.part("meshes", node["mesh"])
            size += meshes[node["mesh"]]
    return size


def _mesh_bytes(mesh: dict[str, Any], counts: list[int]) -> int:
    size = 0
    for primitive in get_primitives(mesh):
        named = [*get_object(primitive, "attributes").values(), primitive.get("indices")]
        for target in get_list(primitive, "targets"):
            named += target.values() if isinstance(target, dict) else []
        known = [index for index in named if _is_integer(index) and 0 <= index < len(counts)]
        size += _BYTES_AN_OBJECT + sum(counts[index] for index in known) * _BYTES_A_VALUE
    return size


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
