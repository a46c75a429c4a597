"""glTF files of the box, part by part."""

import base64
import json
import struct
from typing import Any

import numpy as np

from .meshes import BOX_FACES, BOX_VERTICES

BOX = np.array(BOX_VERTICES, dtype="<f4")
FACES = np.array(BOX_FACES, dtype="<u2").ravel()
CODES = {"i1": 5120, "u1": 5121, "i2": 5122, "u2": 5123, "u4": 5125, "f4": 5126}
DRACO = {"KHR_draco_mesh_compression": {"bufferView": 0, "attributes": {"POSITION": 0}}}
TYPES = {1: "SCALAR", 3: "VEC3", 4: "VEC4", 16: "MAT4"}


class Builder:
    """Collects arrays in one buffer."""

    def __init__(self) -> None:
        self.data = b""
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []

    def view(self, data: bytes, **more: Any) -> int:
        """Add a view of data; return its number."""
        self.data += b"\0" * (-len(self.data) % 4)
        start = len(self.data)
        self.data += data
        self.views.append({"buffer": 0, "byteOffset": start, "byteLength": len(data), **more})
        return len(self.views) - 1

    def accessor(self, array: Any, **more: Any) -> int:
        """Add an accessor of an array; return its number."""
        array = np.asarray(array)
        kind = array.dtype.str[1:]
        part = {
            "bufferView": self.view(array.astype("<" + kind).tobytes()),
            "componentType": CODES[kind],
            "count": len(array),
            "type": TYPES[array[0].size if len(array) else 1],
            **more,
        }
        self.accessors.append({key: value for key, value in part.items() if value is not None})
        return len(self.accessors) - 1

    def document(self, *, uri: str | None = "data", **changes: Any) -> dict[str, Any]:
        """Return the JSON; a change replaces a part."""
        buffer: dict[str, Any] = {"byteLength": len(self.data)}
        if uri == "data":
            code = base64.b64encode(self.data).decode()
            buffer["uri"] = "data:application/octet-stream;base64," + code
        elif uri is not None:
            buffer["uri"] = uri
        return {
            "asset": {"version": "2.0"},
            "buffers": [buffer],
            "bufferViews": self.views,
            "accessors": self.accessors,
            "nodes": [{"mesh": 0}],
            "scenes": [{"nodes": [0]}],
            "scene": 0,
            **changes,
        }


def mesh(positions: int, indices: int | None = None, **more: Any) -> dict[str, Any]:
    """Return a mesh of one part."""
    primitive: dict[str, Any] = {"attributes": {"POSITION": positions}, **more}
    if indices is not None:
        primitive["indices"] = indices
    return {"primitives": [primitive]}


def box(builder: Builder | None = None, **changes: Any) -> dict[str, Any]:
    """Return the document of the box; a change replaces a part."""
    builder = builder or Builder()
    meshes = [mesh(builder.accessor(BOX), builder.accessor(FACES))]
    return builder.document(**{"meshes": meshes, **changes})


def glb(document: dict[str, Any], chunk: bytes = b"") -> bytes:
    """Return a `.glb` file."""
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    chunk += b"\0" * (-len(chunk) % 4)
    size = 20 + len(text) + (8 + len(chunk) if chunk else 0)
    content = struct.pack("<4sIII4s", b"glTF", 2, size, len(text), b"JSON") + text
    return content + (struct.pack("<I4s", len(chunk), b"BIN\0") + chunk if chunk else b"")
