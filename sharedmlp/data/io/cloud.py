"""Clouds from single files: meshes, which are sampled, and files of points."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sharedmlp.data.io.base import (
    FormatError,
    MeshArrays,
    MeshReadError,
    PointArray,
    PointCloud,
)
from sharedmlp.data.io.columns import cloud_from_columns
from sharedmlp.data.io.formats import FORMATS, read_arrays
from sharedmlp.data.io.mesh import make_mesh
from sharedmlp.data.sampling import draw_surface

FEATURE_CHANNELS = {"normals": 3, "colors": 3, "intensity": 1}
"""What `read_cloud` gives beside the coordinates, and how many channels it takes."""

POINT_CHANNELS = {**FEATURE_CHANNELS, "position": 3}
"""The same, and the position of a point within the scene that its block was cut from."""

_AXES = ("x", "y", "z")


def find_cloud_files(paths: Sequence[str | Path]) -> list[Path]:
    """Return the files that are meant by paths of files and folders.

    Args:
        paths: Files, taken whatever their name, and folders, searched at any depth for files of
            all formats that `read_cloud` reads, without hidden ones and those of suffixes that
            other files have too, such as `.txt`, `.csv`, `.bin` and `.h5`.

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
    features: Sequence[str] = (),
    normals: bool = False,
    columns: Sequence[str] | None = None,
) -> NDArray[np.float64]:
    """Read one cloud from a mesh or from a file of points.

    A mesh (any format that `read_mesh` reads) is sampled by area. Of a file of points (the other
    formats of `formats.FORMATS`, and PLY without faces) `num_points` are drawn without replacement,
    or all are taken if there are no more.

    Args:
        path: The file; its suffix names the format, one of `formats.FORMATS`.
        num_points: How many points to draw.
        seed: A number, or a generator that is advanced.
        features: What follows the coordinates, by name and in this order, of
            `FEATURE_CHANNELS`: "normals" of length 1, of a mesh those of its faces; "colors" in
            0 to 1; "intensity" as it is in the file.
        normals: The same as "normals" as the only feature.
        columns: As of `load_cloud`.

    Returns:
        (num_points or fewer, 3 and the channels of the features), in the file's own units.

    Raises:
        MeshReadError: As `load_cloud`, as `read_mesh` for a mesh, or if the file has not the
            features.
        ValueError: If `num_points` is less than 1 or there is no such feature.
        ImportError: If a package that reads the format is not installed; it names the extra.
    """
    if num_points < 1:
        raise ValueError(f"num_points has to be 1 or more, got {num_points}")
    if normals and not features:
        features = ("normals",)
    unknown = [name for name in features if name not in FEATURE_CHANNELS]
    if unknown:
        raise ValueError(f"expected features of {list(FEATURE_CHANNELS)}, got {unknown[0]!r}")
    path = Path(path)
    rng = np.random.default_rng(seed)
    arrays = read_arrays(path)
    if isinstance(arrays, MeshArrays):
        others = [name for name in features if name != "normals"]
        if others:
            raise MeshReadError(path, f"has no {others[0]}: of a mesh, points have normals alone")
        return draw_surface(make_mesh(path, arrays), num_points, seed=rng, normals=bool(features))
    cloud = _check_cloud(path, arrays, columns)
    points = np.concatenate(
        [cloud.points, *(take_feature(path, cloud, name) for name in features)], axis=1
    )
    if num_points < len(points):
        # In the order of the file, as the subsets of a data set are.
        points = points[np.sort(rng.choice(len(points), num_points, replace=False))]
    return points


def load_cloud(path: str | Path, *, columns: Sequence[str] | None = None) -> PointCloud:
    """Read all points of a file and what it says of each.

    Args:
        path: The file; its suffix names the format.
        columns: The names of the columns of a file that does not name them itself, such as
            `("x", "y", "z", "intensity")`; unknown names are left out. None to take the first
            three for the coordinates, and to tell normals and colors by their values
            (`columns.py`).

    Raises:
        MeshReadError: If the file is a mesh or cannot be read as what its suffix says, holds no
            points or a coordinate that is not finite in float32, or if all of its points are equal.
        ImportError: If a package that reads the format is not installed; it names the extra.
    """
    path = Path(path)
    arrays = read_arrays(path)
    if isinstance(arrays, MeshArrays):
        raise MeshReadError(path, f"holds a mesh of {len(arrays.faces)} faces, expected points")
    return _check_cloud(path, arrays, columns)


def _check_cloud(
    path: Path, arrays: PointCloud | PointArray, columns: Sequence[str] | None
) -> PointCloud:
    """Return the cloud that a reader gave if it can be used, or raise a `MeshReadError`."""
    if not isinstance(arrays, PointCloud):
        try:
            arrays = cloud_from_columns(arrays, columns)
        except FormatError as error:
            raise MeshReadError(path, str(error)) from error
    elif columns is not None:
        raise MeshReadError(path, "names its columns itself: give no names for them")
    points = arrays.points
    if len(points) == 0:
        raise MeshReadError(path, "holds no points")
    usable = (np.abs(points) < np.finfo(np.float32).max).all(axis=1)  # also false for NaN
    if not usable.all():
        row = int(np.argmin(usable))
        raise MeshReadError(
            path,
            f"point {row} (from 0) is not finite in float32: {points[row].tolist()}; so are "
            f"{np.count_nonzero(~usable):,} of its {len(points):,} points",
        )
    if not np.ptp(points, axis=0).any():
        what = "is 1 point" if len(points) == 1 else f"are {len(points):,} equal points"
        raise MeshReadError(path, f"there {what}: without an extent it is no shape")
    return arrays


def take_feature(path: Path, cloud: PointCloud, name: str) -> NDArray[np.float64]:
    """Return a feature (N, channels) of a cloud, or raise a `MeshReadError` if it is missing."""
    values: NDArray[np.float64] | None = getattr(cloud, name)
    if values is None:
        reason = cloud.reasons.get(name)
        raise MeshReadError(path, f"has no {name}" + (f": {reason}" if reason else ""))
    finite = np.isfinite(values)
    if not finite.all():
        count = np.count_nonzero(~finite.reshape(len(values), -1).all(axis=1))
        raise MeshReadError(path, f"{name} of {count:,} of its {len(values):,} points not finite")
    return values.reshape(len(values), FEATURE_CHANNELS[name])


def turn_up_axis(
    points: ArrayLike, source: str, target: str, *, features: Sequence[str] = ("normals",)
) -> NDArray[np.float64]:
    """Turn clouds so that what points up along one axis points up along another.

    By 90 degrees about the third axis: from y to z, `(x, y, z)` becomes `(x, -z, y)`, as programs
    with y up and with z up exchange meshes.

    Args:
        points: (..., N, C) with x, y, z first, and the features after them, if C is more than 3.
        source: The axis that points up in `points`: "x", "y" or "z".
        target: The axis that points up in the result.
        features: What the columns after the coordinates are (`read_cloud`); only normals turn.

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
        for start in vector_columns(turned.shape[-1], features):
            up = turned[..., start + old].copy()
            turned[..., start + old] = -turned[..., start + new]
            turned[..., start + new] = up
    return turned


def vector_columns(channels: int, features: Sequence[str]) -> list[int]:
    """Return the first columns of what turns with a cloud: its coordinates and its normals.

    Args:
        channels: How many columns there are.
        features: What the columns after the coordinates are (`read_cloud`).
    """
    start, starts = 3, [0]
    for name in features:
        if name == "normals" and channels >= start + 3:
            starts.append(start)
        start += POINT_CHANNELS[name]
    return starts


def feature_columns(name: str, features: Sequence[str]) -> slice:
    """Return which columns of points a feature takes.

    Args:
        name: The feature, one of `features`.
        features: What the columns after the coordinates are, of `POINT_CHANNELS`.
    """
    start = 3 + sum(POINT_CHANNELS[before] for before in features[: features.index(name)])
    return slice(start, start + POINT_CHANNELS[name])
