"""Clouds from single files: meshes, which are sampled, and files of points."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sharedmlp.data.io.base import MeshArrays, MeshReadError, PointArray
from sharedmlp.data.io.formats import FORMATS, read_arrays
from sharedmlp.data.io.mesh import make_mesh
from sharedmlp.data.sampling import draw_surface

_AXES = ("x", "y", "z")


def find_cloud_files(paths: Sequence[str | Path]) -> list[Path]:
    """Return the files that are meant by paths of files and folders.

    Args:
        paths: Files, taken whatever their name, and folders, searched at any depth for files of
            all formats that `read_cloud` reads but `.txt`, without hidden ones.

    Returns:
        The files, in the order of the paths; those of a folder sorted.

    Raises:
        FileNotFoundError: If a folder has no such file.
    """
    suffixes = {suffix for suffix, entry in FORMATS.items() if entry.found_in_folders}
    files: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            files.append(path)
            continue
        found = sorted(
            file
            for file in path.rglob("*")
            if file.suffix.lower() in suffixes
            and not any(part.startswith(".") for part in file.relative_to(path).parts)
            and file.is_file()
        )
        if not found:
            raise FileNotFoundError(
                f"{path}: no file ends in one of {', '.join(sorted(suffixes))}; name files of "
                "points in text one by one, as in FOLDER/*.txt"
            )
        files += found
    return files


def read_cloud(
    path: str | Path,
    num_points: int,
    *,
    seed: int | np.random.Generator,
    normals: bool = False,
) -> NDArray[np.float64]:
    """Read one cloud from a mesh or from a file of points.

    A mesh (any format that `read_mesh` reads) is sampled by area. Files of points are `.npy`, an
    array (N, 3 or more), and `.txt` or `.xyz` with `x y z` or `x,y,z`, and maybe more, a line. Of
    them `num_points` are drawn without replacement, or all are taken if there are no more.

    Args:
        path: The file; its suffix names the format, one of `formats.FORMATS`.
        num_points: How many points to draw.
        seed: A number, or a generator that is advanced.
        normals: Whether the unit normals follow the coordinates: from the faces of a mesh, and
            from columns 4 to 6 of a file of points.

    Returns:
        (num_points or fewer, 3 or, with normals, 6), in the file's own units.

    Raises:
        MeshReadError: If the file cannot be read as what its suffix says, or holds no points or a
            number that is not finite.
        ValueError: If `num_points` is less than 1.
        ImportError: If it is a mesh and trimesh is not installed.
    """
    if num_points < 1:
        raise ValueError(f"num_points has to be 1 or more, got {num_points}")
    path = Path(path)
    rng = np.random.default_rng(seed)
    arrays = read_arrays(path)
    if isinstance(arrays, MeshArrays):
        return draw_surface(make_mesh(path, arrays), num_points, seed=rng, normals=normals)
    points = _check_points(path, arrays, channels=6 if normals else 3)
    if num_points < len(points):
        # In the order of the file, as the subsets of a data set are.
        points = points[np.sort(rng.choice(len(points), num_points, replace=False))]
    return points


def _check_points(path: Path, points: PointArray, channels: int) -> NDArray[np.float64]:
    """Return the first channels of points that can be used, or raise a `MeshReadError`."""
    if points.ndim != 2 or points.shape[1] < channels or len(points) == 0:
        raise MeshReadError(
            path, f"expected points of shape (N, {channels} or more), got {points.shape}"
        )
    values = points[:, :channels].astype(np.float64)
    usable = (np.abs(values) < np.finfo(np.float32).max).all(axis=1)  # also false for NaN
    if not usable.all():
        row = int(np.argmin(usable))
        raise MeshReadError(
            path, f"point {row} (from 0) is not finite in float32: {values[row].tolist()}"
        )
    return values


def turn_up_axis(points: ArrayLike, source: str, target: str) -> NDArray[np.float64]:
    """Turn clouds so that what points up along one axis points up along another.

    By 90 degrees about the third axis: from y to z, `(x, y, z)` becomes `(x, -z, y)`, as programs
    with y up and with z up exchange meshes.

    Args:
        points: (..., N, C) with x, y, z first and, if C is 6, a normal after them.
        source: The axis that points up in `points`: "x", "y" or "z".
        target: The axis that points up in the result.

    Returns:
        The same shape; a copy.

    Raises:
        ValueError: If an axis is none of the three.
    """
    if source not in _AXES or target not in _AXES:
        raise ValueError(
            f'the up axis is "x", "y" or "z", got {source!r} to be turned to {target!r}'
        )
    turned = np.array(points, dtype=np.float64)
    if source != target:
        old, new = _AXES.index(source), _AXES.index(target)
        vectors = turned.reshape(*turned.shape[:-1], -1, 3)  # the coordinates, the normal
        vectors[..., [old, new]] = np.stack([-vectors[..., new], vectors[..., old]], axis=-1)
    return turned
