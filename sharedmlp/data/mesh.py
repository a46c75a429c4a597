"""Read a mesh file, or say what is wrong with it and where."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sharedmlp.data.off import OffError, check_off
from sharedmlp.data.plain_off import read_plain_off

if TYPE_CHECKING:
    import trimesh

# The sum of all face areas over the squared size of the mesh: below it, rounding is all there is.
_SMALLEST_RELATIVE_AREA = 1e-12


class MeshReadError(ValueError):
    """A mesh file that cannot be used.

    Attributes:
        path: the file.
        reason: what is wrong, and where: the line of an OFF file, else the vertex or face.
    """

    def __init__(self, path: str | Path, reason: str) -> None:
        # Both arguments reach the base class, so that the error survives the way back from a
        # worker process.
        super().__init__(path, reason)
        self.path = Path(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def require_trimesh() -> None:
    """Raise an ImportError that names the remedy where trimesh is not installed."""
    try:
        import trimesh  # noqa: F401
    except ImportError as error:
        raise ImportError("Meshes need trimesh: pip install 'sharedmlp[train]'") from error


def mesh_suffixes() -> frozenset[str]:
    """The file name endings that `read_mesh` can read here, lower case, with their dot.

    Some of trimesh's readers need further packages; those count where they are installed.
    """
    require_trimesh()
    from trimesh.exchange.load import mesh_formats

    return frozenset(f".{name}" for name in mesh_formats())


def read_mesh(path: str | Path) -> trimesh.Trimesh:
    """Read one mesh from a file in any format that trimesh reads.

    The vertices and faces come as they are in the file: nothing is merged or dropped. Polygons
    are cut into triangles. Of a format that holds a scene, all meshes are put into one.

    Args:
        path: the file; its ending names the format.

    Returns:
        A mesh with finite vertices, at least one face and positive area.

    Raises:
        MeshReadError: where the file cannot be opened or parsed, or where an OFF file does not
            hold what its header says, a vertex is not finite, a face refers to a vertex that is
            not there, or there is no face or no area to sample from.
        ImportError: where trimesh is not installed.
    """
    require_trimesh()
    import trimesh

    path = Path(path)
    promised = 0
    try:
        if path.suffix.lower() == ".off":
            mesh, promised = _read_off(path.read_bytes())
        else:
            mesh = trimesh.load_scene(path, process=False).to_mesh()
            if path.suffix.lower() == ".ply":
                promised = _promised_ply_faces(path)
    except OffError as error:
        raise MeshReadError(path, str(error)) from None
    except OSError as error:
        raise MeshReadError(path, f"cannot be opened: {error.strerror or error}") from error
    except Exception as error:  # the loaders of trimesh raise whatever their parsing runs into
        reason = f"trimesh cannot read it ({type(error).__name__}: {error})"
        raise MeshReadError(path, reason) from error
    if len(mesh.faces) < promised:
        raise MeshReadError(
            path,
            f"{len(mesh.faces)} triangles could be read where the header promises faces for "
            f"{promised} or more: the file is cut short or its counts are wrong",
        )
    _check_mesh(path, np.asarray(mesh.vertices), np.asarray(mesh.faces))
    area, size = float(mesh.area), float(np.linalg.norm(np.ptp(mesh.vertices, axis=0)))
    if not area > _SMALLEST_RELATIVE_AREA * size**2:
        raise MeshReadError(
            path,
            f"all {len(mesh.faces)} faces together have no area ({area:g} at a size of {size:g}), "
            "nothing to sample",
        )
    return mesh


def _read_off(content: bytes) -> tuple[trimesh.Trimesh, int]:
    """The mesh of an OFF file, and how many triangles its faces make."""
    import trimesh

    plain = read_plain_off(content)
    if plain is not None:
        return trimesh.Trimesh(plain.vertices, plain.faces, process=False), len(plain.faces)
    checked = check_off(content)
    scene = trimesh.load_scene(io.StringIO(checked.text), file_type="off", process=False)
    return scene.to_mesh(), checked.num_triangles


def _promised_ply_faces(path: Path) -> int:
    """The face count in a PLY header; of a text file cut short, trimesh reads what is there."""
    with path.open("rb") as file:
        header = file.read(65536).partition(b"end_header")[0]
    count = re.search(rb"^\s*element\s+face\s+(\d{1,18})\s*$", header, re.MULTILINE)
    return int(count[1]) if count else 0


def _check_mesh(path: Path, vertices: np.ndarray, faces: np.ndarray) -> None:
    """Check what any format can get wrong; vertices (V, 3), faces (F, 3)."""
    if len(faces) == 0:
        raise MeshReadError(path, "there are no faces (a point cloud or an empty file?)")
    # Also false for NaN. Beyond float32 the samples would be infinite.
    usable = np.abs(vertices) < np.finfo(np.float32).max
    if not usable.all():
        worst = int(np.argmin(usable.all(axis=1)))
        raise MeshReadError(
            path,
            f"vertex {worst} (of {len(vertices)}, from 0) is not finite in float32: "
            f"{vertices[worst].tolist()}",
        )
    outside = (faces < 0) | (faces >= len(vertices))
    if outside.any():
        worst = int(np.argmax(outside.any(axis=1)))
        raise MeshReadError(
            path,
            f"face {worst} (of {len(faces)}, from 0) refers to vertices {faces[worst].tolist()}, "
            f"but there are {len(vertices)}",
        )
