"""Read a mesh file, or say what is wrong with it and where."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sharedmlp.data.io.base import MeshArrays, MeshReadError, require_trimesh
from sharedmlp.data.io.formats import read_arrays

if TYPE_CHECKING:
    import trimesh

# The sum of all face areas over the squared size of the mesh: below it, rounding is all there is.
_SMALLEST_RELATIVE_AREA = 1e-12


def read_mesh(path: str | Path) -> trimesh.Trimesh:
    """Read one mesh from an OFF, OBJ, PLY, STL or glTF file (.glb, .gltf).

    Materials and textures are not read, nor any other file but the buffers that a glTF file names
    in its own folder. The vertices and faces come as they are in the file, glTF with y up as its
    specification has it: nothing is merged or dropped. Polygons are cut into triangles, concave
    ones too (`polygons.cut_into_triangles`). If the format holds a scene, all of its meshes are put
    into one. Every format is held against its own text or header: counts, bounds, references.

    Args:
        path: The file; its suffix names the format, one of `formats.FORMATS`.

    Returns:
        A mesh with finite vertices, at least one face and positive area.

    Raises:
        MeshReadError: If the file cannot be opened or parsed, is of another format, holds points
            and no faces, or would take more memory than a mesh does; if it does not hold what it
            promises itself, is compressed or cut short; if a vertex is not finite, a face refers to
            a vertex that is missing, or there is no face or no area to sample from. A `DataError`.
        ImportError: If trimesh is not installed.
    """
    require_trimesh()
    path = Path(path)
    arrays = read_arrays(path)
    if not isinstance(arrays, MeshArrays):
        raise MeshReadError(
            path, f"a point cloud: {len(arrays):,} points and no faces, expected a mesh"
        )
    return make_mesh(path, arrays)


def make_mesh(path: Path, arrays: MeshArrays) -> trimesh.Trimesh:
    """Return the checked mesh of the triangles that a reader gave.

    Raises:
        MeshReadError: As `read_mesh` does.
    """
    import trimesh

    _check_mesh(path, *arrays)
    mesh = trimesh.Trimesh(*arrays, process=False)
    area, size = float(mesh.area), float(np.linalg.norm(np.ptp(arrays.vertices, axis=0)))
    if not area > _SMALLEST_RELATIVE_AREA * size**2:
        raise MeshReadError(
            path,
            f"all {len(mesh.faces)} faces together have no area ({area:g} at a size of {size:g}), "
            "nothing to sample",
        )
    return mesh


def _check_mesh(path: Path, vertices: NDArray[Any], faces: NDArray[Any]) -> None:
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
