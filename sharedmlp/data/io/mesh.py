"""Read a mesh file, or say what is wrong with it and where."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sharedmlp.data.errors import DataError
from sharedmlp.data.io.gltf import GltfError, check_gltf
from sharedmlp.data.io.off import OffError, check_off
from sharedmlp.data.io.plain_off import read_plain_off

if TYPE_CHECKING:
    import trimesh

# What trimesh reads by itself, with memory in proportion to the file. Its readers of COLLADA, 3MF,
# 3DXML, archives and others, there where further packages are, unfold whatever a small file nests:
# entities of XML, instances of instances, compressed files.
_SUFFIXES = frozenset({".off", ".obj", ".ply", ".stl", ".stl_ascii", ".glb", ".gltf", ".xyz"})
# The sum of all face areas over the squared size of the mesh: below it, rounding is all there is.
_SMALLEST_RELATIVE_AREA = 1e-12


class MeshReadError(DataError):
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
    """The file name endings that `read_mesh` reads, lower case, with their dot.

    Raises:
        ImportError: where trimesh is not installed.
    """
    require_trimesh()
    return _SUFFIXES


def check_regular(path: Path) -> None:
    """Raise a MeshReadError where a path is no file but a device, say, which may have no end."""
    if path.exists() and not path.is_file():
        raise MeshReadError(path, "is no regular file")


def read_file(path: Path) -> bytes:
    """The content of a file; raises a MeshReadError where it cannot be had."""
    check_regular(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise MeshReadError(path, f"cannot be opened: {error.strerror or error}") from error


def read_mesh(path: str | Path) -> trimesh.Trimesh:
    """Read one mesh from an OFF, OBJ, PLY, STL or glTF file (.glb, .gltf).

    Materials and textures are not read, nor any other file but the buffers that a glTF file names
    in its own folder. The vertices and faces come as they are in the file: nothing is merged or
    dropped. Polygons are cut into triangles. Of a format that holds a scene, all meshes are put
    into one.

    Args:
        path: the file; its ending names the format.

    Returns:
        A mesh with finite vertices, at least one face and positive area.

    Raises:
        MeshReadError: where the file cannot be opened or parsed, is of another format or would take
            more memory than a mesh does, or where an OFF file does not
            hold what its header says, a vertex is not finite, a face refers to a vertex that is
            not there, or there is no face or no area to sample from.
        ImportError: where trimesh is not installed.
    """
    require_trimesh()
    import trimesh

    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise MeshReadError(
            path,
            f"trimesh cannot read it here: expected one of {', '.join(sorted(_SUFFIXES))}; other "
            "formats have to be converted",
        )
    content = read_file(path)
    promised = 0
    try:
        if suffix == ".off":
            mesh, promised = _read_off(content)
        else:
            resolver = None
            if suffix in (".glb", ".gltf"):
                check_gltf(path, content)
                resolver = trimesh.resolvers.FilePathResolver(str(path))
            # Not from the path: a reader that asks a file for 4 GB gets room for them first.
            mesh = trimesh.load_scene(
                io.BytesIO(content),
                file_type=suffix[1:],
                resolver=resolver,
                process=False,
                skip_materials=True,
            ).to_mesh()
            if suffix == ".ply":
                promised = _promised_ply_faces(content)
    except (OffError, GltfError) as error:
        raise MeshReadError(path, str(error)) from None
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


def _promised_ply_faces(content: bytes) -> int:
    """The face count in a PLY header; of a text file cut short, trimesh reads what is there."""
    header = content[:65536].partition(b"end_header")[0]
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
