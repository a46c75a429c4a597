"""What a reader of one file format takes and gives; the table of all formats is in `formats.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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


@dataclass(frozen=True, eq=False)
class PointCloud:
    """The points of a file and what it says of each, by name.

    Attributes:
        points: (N, 3) float64, in the file's own units.
        normals: (N, 3) float64 of length 1, or 0 for a point without one.
        colors: (N, 3) float64, red, green and blue in 0 to 1, whatever their type in the file.
        intensity: (N,) float64, in the file's own units.
        labels: (N,) int64.
        reasons: For a name above that is None although the file has columns like it: why they
            cannot be used, or cannot be told apart.
    """

    points: NDArray[np.float64]
    normals: NDArray[np.float64] | None = None
    colors: NDArray[np.float64] | None = None
    intensity: NDArray[np.float64] | None = None
    labels: NDArray[np.int64] | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.points)


PointArray: TypeAlias = NDArray[np.generic]
"""(N, 3 or more) numbers without names: x, y, z, and what `columns.py` takes the others for."""


@dataclass(frozen=True)
class Format:
    """How the files of one suffix are read.

    Readers and checkers see all bytes of the file, and its path only to find what it refers to.
    The reader has to bear any content, but it need not check what every mesh and every cloud is
    checked for afterwards: shapes, finite coordinates, faces that refer to vertices, an area.
    A reader of points gives a `PointCloud` if the file names its columns (`cloud_from_fields` makes
    one), else the array.

    Attributes:
        kind: "mesh" if the files belong into a tree of meshes, "cloud" if they hold points.
        read: Takes the path and the content to the triangles or the points. Raises `FormatError`,
            or any exception that parsing runs into; an ImportError means a missing extra.
        check: Called with the same before `read`, for a parser that trusts the content: raises
            `FormatError` if that would take too much memory or read other files.
        found_in_folders: Whether `find_cloud_files` takes such files from a folder; False for a
            suffix that files of any kind have.
        up_axis: The axis that points up by the specification of the format, if it says.
    """

    kind: Literal["mesh", "cloud"]
    read: Callable[[Path, bytes], MeshArrays | PointCloud | PointArray]
    check: Callable[[Path, bytes], None] | None = None
    found_in_folders: bool = True
    up_axis: Literal["x", "y", "z"] | None = None


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
