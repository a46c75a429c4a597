"""The one table of file formats: a suffix, its reader and its checker.

A further format is a line here and a reader (`base.Format` says what that takes and gives);
`read_mesh`, `read_cloud`, `find_cloud_files` and `prepare_mesh_tree` then take its files.
"""

from __future__ import annotations

from pathlib import Path

from sharedmlp.data.io.base import (
    Format,
    FormatError,
    MeshArrays,
    MeshReadError,
    PointArray,
    PointCloud,
    read_file,
    require_trimesh,
)
from sharedmlp.data.io.gltf import read_gltf
from sharedmlp.data.io.hdf5_cloud import read_hdf5_cloud
from sharedmlp.data.io.kitti import read_kitti
from sharedmlp.data.io.las import read_las
from sharedmlp.data.io.obj import read_obj
from sharedmlp.data.io.off import read_off
from sharedmlp.data.io.pcd import read_pcd
from sharedmlp.data.io.ply import read_ply
from sharedmlp.data.io.point_text import read_pts, read_text
from sharedmlp.data.io.points import read_npy, read_npz
from sharedmlp.data.io.signatures import recognize_content
from sharedmlp.data.io.stl import read_stl
from sharedmlp.data.io.text import one_line

# No COLLADA, 3MF, 3DXML and archives: their readers unfold whatever a small file nests, entities of
# XML, instances of instances, compressed files.
FORMATS: dict[str, Format] = {
    ".off": Format("mesh", read_off),
    ".obj": Format("mesh", read_obj),
    ".ply": Format("mesh", read_ply),
    ".stl": Format("mesh", read_stl),
    ".stl_ascii": Format("mesh", read_stl),
    ".glb": Format("mesh", read_gltf, up_axis="y"),
    ".gltf": Format("mesh", read_gltf, up_axis="y"),
    ".npy": Format("cloud", read_npy),
    ".npz": Format("cloud", read_npz),
    ".pcd": Format("cloud", read_pcd),
    ".las": Format("cloud", read_las),
    ".laz": Format("cloud", read_las),
    ".h5": Format("cloud", read_hdf5_cloud, found_in_folders=False),
    ".hdf5": Format("cloud", read_hdf5_cloud, found_in_folders=False),
    ".bin": Format("cloud", read_kitti, found_in_folders=False),
    ".xyz": Format("cloud", read_text),
    ".asc": Format("cloud", read_text),
    ".pts": Format("cloud", read_pts),
    ".csv": Format("cloud", read_text, found_in_folders=False),
    ".txt": Format("cloud", read_text, found_in_folders=False),
}


def read_arrays(path: Path) -> MeshArrays | PointCloud | PointArray:
    """Read what a file holds by the reader of its suffix.

    Returns:
        Triangles, a cloud with names, or numbers of any dtype and shape that the file holds.

    Raises:
        MeshReadError: If the suffix is unknown, or the file cannot be opened or parsed.
        ImportError: If it is a mesh and trimesh is not installed, or another extra is missing.
    """
    suffix = path.suffix.lower()
    entry = FORMATS.get(suffix)
    if entry is None:
        if not path.exists():
            raise MeshReadError(path, "cannot be opened: No such file or directory")
        raise MeshReadError(
            path,
            f"cannot be read: expected one of {', '.join(sorted(FORMATS))}; other formats have to "
            "be converted",
        )
    if entry.kind == "mesh":
        require_trimesh()
    content = read_file(path)
    try:
        if entry.check is not None:
            entry.check(path, content)
        return entry.read(path, content)
    except FormatError as error:
        other = recognize_content(content, suffix)
        reason = f"{error} (its content is {other})" if other else str(error)
        raise MeshReadError(path, one_line(reason)) from error
    except ImportError:
        raise
    except Exception as error:  # parsers raise whatever they run into
        reason = f"cannot be parsed as {suffix} ({type(error).__name__}: {error})"
        raise MeshReadError(path, one_line(reason)) from error
