"""Clouds from single files: meshes, which are sampled, and files of points."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sharedmlp.data.io.mesh import (
    MeshReadError,
    check_regular,
    mesh_suffixes,
    read_file,
    read_mesh,
)
from sharedmlp.data.sampling import draw_surface

_AXES = ("x", "y", "z")
_TEXT = (".txt", ".xyz")


def find_cloud_files(paths: Sequence[str | Path]) -> list[Path]:
    """The files that are meant by paths of files and folders.

    Args:
        paths: files, taken whatever their name, and folders, searched at any depth for meshes
            (of all formats that `read_mesh` reads) and `.npy` files, without hidden ones.

    Returns:
        The files, in the order of the paths; those of a folder sorted.

    Raises:
        FileNotFoundError: where there is no such file in a folder.
        ImportError: where trimesh is not installed.
    """
    suffixes = mesh_suffixes() | {".npy"}
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
    them `num_points` are drawn without replacement, or all are taken where there are no more.

    Args:
        path: the file; its ending names the format.
        num_points: how many points to draw.
        seed: a number, or a generator that is advanced.
        normals: whether the unit normals follow the coordinates: from the faces of a mesh, and
            from columns 4 to 6 of a file of points.

    Returns:
        (num_points or fewer, 3 or, with normals, 6), in the file's own units.

    Raises:
        MeshReadError: where the file cannot be read as what its ending says, or holds no points
            or a number that is not finite.
        ValueError: where `num_points` is less than 1.
    """
    path = Path(path)
    rng = np.random.default_rng(seed)
    if path.suffix.lower() not in (".npy", *_TEXT):
        return draw_surface(read_mesh(path), num_points, seed=rng, normals=normals)
    read = _read_points(path)
    channels = 6 if normals else 3
    if read.ndim != 2 or read.shape[1] < channels or len(read) == 0:
        raise MeshReadError(
            path, f"expected points of shape (N, {channels} or more), got {read.shape}"
        )
    points = read[:, :channels].astype(np.float64)
    usable = (np.abs(points) < np.finfo(np.float32).max).all(axis=1)  # also false for NaN
    if not usable.all():
        row = int(np.argmin(usable))
        raise MeshReadError(
            path, f"point {row} (from 0) is not finite in float32: {points[row].tolist()}"
        )
    if num_points < 1:
        raise ValueError(f"num_points has to be 1 or more, got {num_points}")
    if num_points < len(points):
        # In the order of the file, as subsets of a pool are.
        points = points[np.sort(rng.choice(len(points), num_points, replace=False))]
    return points


def turn_up_axis(points: ArrayLike, source: str, target: str) -> NDArray[np.float64]:
    """Turn clouds so that what points up along one axis points up along another.

    By 90 degrees about the third axis: from y to z, `(x, y, z)` becomes `(x, -z, y)`, as programs
    with y up and with z up exchange meshes.

    Args:
        points: (..., N, C) with x, y, z first and, where C is 6, a normal behind them.
        source: the axis that points up in `points`: "x", "y" or "z".
        target: the axis that points up in the result.

    Returns:
        The same shape; a copy.

    Raises:
        ValueError: where an axis is none of the three.
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


def _read_points(path: Path) -> NDArray[np.generic]:
    """Read the array of a file of points, or raise `MeshReadError`."""
    try:
        if path.suffix.lower() == ".npy":
            check_regular(path)
            # Mapped: a header that claims more than the file holds allocates nothing.
            points = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        else:
            lines = read_file(path).decode("utf-8").replace(",", " ").splitlines()
            points = np.loadtxt(lines, ndmin=2) if any(map(str.strip, lines)) else np.empty((0, 3))
    except OSError as error:
        raise MeshReadError(path, f"cannot be opened: {error.strerror or error}") from error
    except (ValueError, EOFError) as error:
        raise MeshReadError(path, f"holds no array of numbers ({error})") from error
    if points.dtype.kind not in "fiu":
        raise MeshReadError(path, f"expected an array of numbers, got dtype {points.dtype}")
    return points
