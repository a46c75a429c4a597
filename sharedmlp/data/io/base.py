"""What a reader of one file format takes and gives; the table of all formats is in `formats.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sharedmlp.data.errors import DataError
from sharedmlp.utils.optional_imports import require_modules


class MeshReadError(DataError):
    """Raised when a file of a mesh or of points cannot be used.

    Attributes:
        path: The file.
        reason: What is wrong, and where: the line of an OFF file, else the vertex, face or point.
    """

    def __init__(self, path: str | Path, reason: str) -> None:
        # Both arguments reach the base class, so that the error survives the way back from a
        # worker process.
        super().__init__(path, reason)
        self.path = Path(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class FormatError(ValueError):
    """Raised by readers and checkers when the content is not sound; the message says why.

    `read_arrays` adds the path and raises a `MeshReadError`.
    """


class MeshArrays(NamedTuple):
    """The triangles of a mesh, as they are in the file.

    Attributes:
        vertices: (V, 3) floating point.
        faces: (F, 3) integers, positions in the vertices.
    """

    vertices: NDArray[Any]
    faces: NDArray[Any]


PointArray: TypeAlias = NDArray[np.generic]
"""(N, 3 or more) numbers: x, y, z, and in columns 3 to 5, if there are any, the normal."""


@dataclass(frozen=True)
class Format:
    """How the files of one suffix are read.

    Readers and checkers see all bytes of the file, and its path only to find what it refers to.
    The reader has to bear any content, but it need not check what every mesh and every cloud is
    checked for afterwards: shapes, finite coordinates, faces that refer to vertices, an area.

    Attributes:
        kind: "mesh" if the files belong into a tree of meshes, "cloud" if they hold points.
        read: Takes the path and the content to the triangles or the points. Raises `FormatError`,
            or any exception that parsing runs into.
        check: Called with the same before `read`, for a parser that trusts the content: raises
            `FormatError` if that would take too much memory or read other files.
        found_in_folders: Whether `find_cloud_files` takes such files from a folder; False for a
            suffix that files of any kind have.
    """

    kind: Literal["mesh", "cloud"]
    read: Callable[[Path, bytes], MeshArrays | PointArray]
    check: Callable[[Path, bytes], None] | None = None
    found_in_folders: bool = True


def read_file(path: Path) -> bytes:
    """Return the content of a file.

    Raises:
        MeshReadError: If the file cannot be opened, or is a device, say, which may have no end.
    """
    if path.exists() and not path.is_file():
        raise MeshReadError(path, "is no regular file")
    try:
        return path.read_bytes()
    except OSError as error:
        raise MeshReadError(path, f"cannot be opened: {error.strerror or error}") from error


def require_trimesh() -> None:
    """Raise an ImportError that names the extra to install if trimesh is missing."""
    require_modules("trimesh", extra="train", purpose="Reading or making meshes")
