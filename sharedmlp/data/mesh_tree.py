"""Folders of meshes and point clouds, sampled once into a cache. No torch here."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharedmlp.data.build import (
    MeshTreeError,
    SampledFile,
    Source,
    build_store,
    check_store,
    failed_file,
    find_cache_folder,
)
from sharedmlp.data.errors import DataError
from sharedmlp.data.file_lists import format_file_list
from sharedmlp.data.folder_scan import Split
from sharedmlp.data.io.base import MeshReadError
from sharedmlp.data.io.cloud import FEATURE_CHANNELS, read_cloud, turn_up_axis
from sharedmlp.data.layouts import Layout, recognize_layout, summarize_left_out
from sharedmlp.data.preprocessing import file_up_axis
from sharedmlp.data.sampling import normalize_points
from sharedmlp.data.store import PointCloudStore
from sharedmlp.utils.files import atomic_write
from sharedmlp.utils.seeds import generator_for_name

__all__ = ["MeshTreeError", "find_class_names", "prepare_mesh_tree"]


def find_class_names(root: str | Path) -> tuple[str, ...]:
    """Return the classes of a set of meshes or clouds: those that have files (`recognize_layout`).

    Raises:
        MissingDataError: If there is nothing at the root.
        DataError: If no layout is recognized.
    """
    return recognize_layout(root).class_names


def prepare_mesh_tree(
    root: str | Path,
    split: Split,
    *,
    pool_size: int = 2048,
    features: Sequence[str] = (),
    up_axis: str = "z",
    seed: int = 0,
    cache_dir: str | Path | None = None,
    num_workers: int | None = None,
    strict: bool = False,
    progress: bool = True,
) -> PointCloudStore:
    """Sample every mesh of a split and draw from every cloud, once, and open the result.

    A cloud depends on the seed and on its file's path below the root, not on the number of
    processes. The points are normalized (`normalize_points`). The cache is keyed by the path,
    size and modification time of every file and by the settings: if one changes, the next
    call samples again; older caches stay until somebody deletes the cache folder.

    A file that cannot be used is left out; it is named in `PointCloudStore.failures` and, by every
    call, in a warning. A cloud of fewer than `pool_size` points has some of them more than once,
    and is named in `PointCloudStore.notes`.

    If the set has no splits, they are drawn by the seed, stratified, and written beside the caches
    as `<name>-split-seed<seed>.csv`, a list of files that can itself be the root.

    Args:
        root: A folder in one of the layouts of `recognize_layout`, or a list of files.
        split: "train", "val" or "test".
        pool_size: Points sampled from a mesh or drawn from a cloud, P.
        features: What follows x, y, z, of `FEATURE_CHANNELS`, as `read_cloud` takes it.
        up_axis: The axis that points up in the set. glTF has y up by its specification; its
            clouds are turned to this axis, and all others are taken as they are.
        seed: Seeds the sampling, and the splits of a set that has none.
        cache_dir: Where caches are kept; None for `<root>/.sharedmlp_cache`.
        num_workers: Number of processes: None for one a core, 0 or 1 for no further one.
        strict: Whether a file that cannot be used is an error.
        progress: Show a progress bar on stderr while sampling.

    Returns:
        The store of (n, P, C) points, memory-mapped.

    Raises:
        MissingDataError: If there is nothing at the root.
        DataError: If no layout is recognized, or the split has no file.
        MeshTreeError: If no file can be used, if one cannot be opened at all, or, with
            `strict`, if any cannot be used; it lists all of them.
        OSError: If the cache cannot be written.
    """
    check_store(split, pool_size)
    layout = recognize_layout(root, seed=seed)
    labels = {name: label for label, name in enumerate(layout.class_names)}
    sources = [
        Source(file.name, labels[file.class_name], file.size, file.mtime_ns)
        for file in layout.of_split(split)
    ]
    if not sources:
        raise DataError(f"{root} has no {split} split: {layout.name} has no file for it")
    cache = find_cache_folder(layout.root, cache_dir)
    if layout.drawn:
        _write_splits(layout, cache / f"{Path(root).resolve().stem}-split-seed{seed}.csv")
    settings: dict[str, Any] = {"pool_size": pool_size, "features": list(features), "seed": seed}
    if any(file_up_axis(source.name) for source in sources):
        settings["up_axis"] = up_axis
    return build_store(
        layout.root,
        split,
        sources,
        functools.partial(
            _sample,
            root=layout.root,
            pool_size=pool_size,
            features=tuple(features),
            up_axis=up_axis,
            seed=seed,
        ),
        kind="files",
        settings=settings,
        cloud_shape=(pool_size, 3 + sum(FEATURE_CHANNELS[name] for name in features)),
        class_names=layout.class_names,
        ignored=[] if split == "val" else summarize_left_out(layout.left_out),
        cache_dir=cache,
        num_workers=num_workers,
        strict=strict,
        progress=progress,
    )


def _write_splits(layout: Layout, path: Path) -> None:
    """Write the splits that were drawn, and warn if others were drawn before."""
    rows = []
    for file in layout.files:
        name = os.path.relpath(layout.root / file.name, path.parent)
        rows.append((Path(name).as_posix(), file.class_name, file.split))
    content = format_file_list(rows).encode(errors="surrogateescape")
    if path.is_file():
        before = path.read_bytes()
        if before == content:
            return
        warnings.warn(
            f"{layout.root}: the files are not those of {path}, so the splits are drawn anew: a "
            "network that was trained before may have seen files of the new test split",
            stacklevel=3,
        )
    atomic_write(path, content)


def _sample(
    source: Source,
    *,
    root: Path,
    pool_size: int,
    features: tuple[str, ...],
    up_axis: str,
    seed: int,
) -> SampledFile:
    """Sample one mesh or draw from one cloud; runs in a worker process."""
    path = root / source.name
    rng = generator_for_name(seed, source.name)
    try:
        points = read_cloud(path, pool_size, seed=rng, features=features)
    except MeshReadError as error:
        return failed_file(path, error.reason)
    if (own := file_up_axis(source.name)) is not None:
        points = turn_up_axis(points, own, up_axis, features=features)
    if len(points) == pool_size:
        return SampledFile(normalize_points(points))
    note = f"{len(points)} points, of which some are repeated to make {pool_size}"
    return SampledFile(normalize_points(_repeat(points, pool_size, rng)), note)


def _repeat(
    cloud: NDArray[np.float64], num_points: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return as many points, each of the cloud's equally often or once more."""
    times, rest = divmod(num_points, len(cloud))
    some = rng.choice(len(cloud), rest, replace=False)
    return np.concatenate([np.tile(cloud, (times, 1)), cloud[np.sort(some)]])
