"""S3DIS as published: `Area_1..6/<room>/Annotations/<class>_<n>.txt`, x y z r g b a line; z up.

Source: Armeni et al. 2016, "3D Semantic Parsing of Large-Scale Indoor Spaces"; blocks and channels
as in Qi et al. 2017, "PointNet", section 5.1: 1 m, x y z centered on the block, colors from 0 to 1,
x y z relative to the room. Stairs are clutter, as in the literature.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sharedmlp.data.blocks import relative_positions
from sharedmlp.data.build import SampledFile, Source, build_store, check_store, failed_file
from sharedmlp.data.errors import MissingDataError
from sharedmlp.data.io.base import MeshReadError, read_file
from sharedmlp.data.io.number_table import parse_floats
from sharedmlp.data.labelled_clouds import LabelledCloudOptions, cut_scene
from sharedmlp.data.store import PointCloudStore
from sharedmlp.utils.seeds import generator_for_name

S3DIS_CLASSES = (
    *("ceiling", "floor", "wall", "beam", "column", "window", "door", "table", "chair", "sofa"),
    *("bookcase", "board", "clutter"),
)
"""The 13 classes in the order of their labels."""

_CLUTTER = {"stairs"}  # in a few rooms, and none of the 13 classes
# Area_5/hallway_6 has one between two numbers of a line.
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_LAYOUT = "expected Area_1 to Area_6 with <room>/Annotations/<class>_<n>.txt"


def find_areas(root: str | Path) -> list[int]:
    """Return the numbers of the areas that are in a folder."""
    return [area for area in range(1, 7) if (Path(root) / f"Area_{area}").is_dir()]


def prepare_s3dis(
    root: str | Path,
    split: str,
    areas: Sequence[int],
    *,
    pool_size: int = 4096,
    block_stride: float = 1.0,
    seed: int = 0,
    cache_dir: str | Path | None = None,
    num_workers: int | None = None,
    strict: bool = False,
    progress: bool = True,
) -> PointCloudStore:
    """Read every room of some areas, once, and open their blocks of 1 m.

    Cache, failures and the other arguments are as in `prepare_mesh_tree`.

    Args:
        root: The folder of the areas.
        split: What the areas are used for: "train", "val" or "test".
        areas: Their numbers.
        pool_size: Points kept of a block, P.
        block_stride: How far the next block is, in meters.
        seed: Seeds the points that are kept.
        cache_dir: Where caches are kept; None for `<root>/.sharedmlp_cache`.
        num_workers: Number of processes: None for one a core, 0 or 1 for no further one.
        strict: Whether a room that cannot be used is an error.
        progress: Show a progress bar on stderr while reading.

    Returns:
        The store of (n, P, 9) points with their labels.

    Raises:
        MissingDataError: If an area is missing or has no rooms.
        MeshTreeError: As `prepare_mesh_tree`.
        OSError: If the cache cannot be written.
    """
    check_store(split, pool_size)
    root = Path(root)
    options = LabelledCloudOptions(
        pool_size, ("colors", "position"), block_size=1.0, block_stride=block_stride
    )
    sources, objects = [], []
    for area in areas:
        rooms = sorted((root / f"Area_{area}").glob("*/Annotations"))
        if not rooms:
            raise MissingDataError(f"{root / f'Area_{area}'} has no rooms; {_LAYOUT}")
        for room in rooms:
            files = sorted(room.glob("*.txt"))
            stats = [file.stat() for file in files]
            objects += [[file.name, stat.st_size] for file, stat in zip(files, stats, strict=True)]
            name = room.parent.relative_to(root).as_posix()
            size = sum(stat.st_size for stat in stats)
            time = max((stat.st_mtime_ns for stat in stats), default=0)
            sources.append(Source(name, -1, size, time))
    return build_store(
        root,
        split,
        sources,
        functools.partial(_sample, root=root, options=options, seed=seed),
        kind="rooms",
        settings={"s3dis": asdict(options), "objects": objects, "seed": seed},
        cloud_shape=(pool_size, 9),
        class_names=S3DIS_CLASSES,
        cache_dir=cache_dir,
        num_workers=num_workers,
        strict=strict,
        progress=progress,
    )


def read_room(room: Path) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Read all objects of a room; a class that it lacks has no file.

    Args:
        room: The folder that has `Annotations`.

    Returns:
        (N, 6) with x, y, z in meters and r, g, b in 0 to 1, and labels (N,).

    Raises:
        MeshReadError: If there is no object, a file is of no class, or a line is no six numbers.
    """
    values, labels = [], []
    for path in sorted((room / "Annotations").glob("*.txt")):
        name = path.stem.rpartition("_")[0]
        name = "clutter" if name in _CLUTTER else name
        if name not in S3DIS_CLASSES:
            raise MeshReadError(path, f"expected <class>_<n>.txt, a class of {S3DIS_CLASSES}")
        content = read_file(path).replace(b"\r\n", b"\n").rstrip() + b"\n"
        table = parse_floats(_CONTROL.sub(b" ", content), 6)
        if table is None or not np.isfinite(table).all():
            raise MeshReadError(path, "expected x y z r g b, six finite numbers, on every line")
        values.append(table)
        labels.append(np.full(len(table), S3DIS_CLASSES.index(name)))
    if not values:
        raise MeshReadError(room, "has no objects in Annotations")
    points = np.concatenate(values)
    points[:, 3:] /= 255
    return points, np.concatenate(labels)


def _sample(source: Source, *, root: Path, options: LabelledCloudOptions, seed: int) -> SampledFile:
    """Cut one room into blocks; runs in a worker process."""
    try:
        points, labels = read_room(root / source.name)
        values = np.concatenate([points, relative_positions(points[:, :3])], axis=1)
        return cut_scene(values, labels, options, generator_for_name(seed, source.name))
    except MeshReadError as error:
        return failed_file(error.path, str(error))
    except ValueError as error:
        return SampledFile(None, str(error))
