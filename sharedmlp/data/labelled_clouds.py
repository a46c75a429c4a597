"""Clouds of one's own whose points are labelled: whole shapes, or scenes cut into blocks.

<root>/class_names.txt                one class a line, in the order of the labels from 0
<root>/{train,val,test}/...           .ply, .pcd, .las, .npy, .npz, .txt, .csv and so on

A file has a column named label, class, classification or the like (`fields.py`), or its columns
are named by `columns`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sharedmlp.data.blocks import cut_blocks, place_in_block, relative_positions
from sharedmlp.data.build import SampledFile, Source, build_store, check_store, failed_file
from sharedmlp.data.errors import DataError, MissingDataError
from sharedmlp.data.io.base import MeshReadError, PointCloud
from sharedmlp.data.io.cloud import POINT_CHANNELS, load_cloud, take_feature
from sharedmlp.data.io.formats import FORMATS
from sharedmlp.data.name_list import read_names
from sharedmlp.data.sampling import choose_or_repeat, normalize_points
from sharedmlp.data.store import IGNORED_LABEL, PointCloudStore
from sharedmlp.utils.seeds import generator_for_name

CLASS_NAMES_FILE = "class_names.txt"
OTHER = "other"
_LAYOUT = (
    f"expected {CLASS_NAMES_FILE} (one class a line, in the order of the labels from 0) and files "
    "of labelled points in <root>/{train,val,test}/"
)
_MESHES_OF_POINTS = (".ply",)  # which may hold either


@dataclass(frozen=True)
class LabelledCloudOptions:
    """How labelled clouds are read.

    Attributes:
        pool_size: Points kept of a cloud or a block, P: a random subset, or some repeated.
        features: What follows x, y, z, of `POINT_CHANNELS`; "position" of blocks alone.
        columns: The names of the columns of files without names, "label" among them.
        ignored_label: The label, in the files, of points without one.
        classes: The classes to tell apart; all others become one, "other". Empty for all classes.
        block_size: The edge of the blocks that scenes are cut into, in the files' units; None for
            whole clouds, which are normalized (`normalize_points`).
        block_stride: How far the next block is; None for the size: blocks beside each other.
        min_block_points: Blocks of fewer points are left out.
        up_axis: The axis that points up.
    """

    pool_size: int = 4096
    features: tuple[str, ...] = ()
    columns: tuple[str, ...] | None = None
    ignored_label: int = IGNORED_LABEL
    classes: tuple[str, ...] = ()
    block_size: float | None = None
    block_stride: float | None = None
    min_block_points: int = 100
    up_axis: str = "z"

    def __post_init__(self) -> None:
        unknown = [name for name in self.features if name not in POINT_CHANNELS]
        if unknown:
            raise DataError(f"features are {', '.join(POINT_CHANNELS)}, got {unknown[0]!r}")
        if self.block_size is None and ("position" in self.features or self.block_stride):
            raise DataError(
                "the feature position and block_stride belong to blocks: give block_size as well"
            )
        if self.block_size is not None and not 0 < self.stride <= self.block_size < np.inf:
            raise DataError(
                "expected block_size above 0 and block_stride above 0 and at most that, got "
                f"block_size={self.block_size} and block_stride={self.block_stride}"
            )

    @property
    def stride(self) -> float:
        """How far the next block is."""
        return (self.block_size or 0) if self.block_stride is None else self.block_stride

    @property
    def channels(self) -> int:
        """Number of channels of a point."""
        return 3 + sum(POINT_CHANNELS[name] for name in self.features)


def read_point_class_names(root: str | Path, classes: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the names of the classes that points are told apart by.

    Args:
        root: The folder with `class_names.txt`.
        classes: The classes to keep; all others become "other", the last one.

    Raises:
        MissingDataError: If the file is missing.
        DataError: If it is empty or names a class twice, or one to keep is not in it.
    """
    path = Path(root) / CLASS_NAMES_FILE
    names = read_names(path, _LAYOUT)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path} has the class {twice!r} twice; name every class once")
    missing = [name for name in classes if name not in names]
    if missing:
        raise DataError(f"{path} has no class {missing[0]!r}: its classes are {', '.join(names)}")
    if not classes or set(classes) == set(names):
        return tuple(classes or names)
    return (*(name for name in classes if name != OTHER), OTHER)


def find_labelled_clouds(root: str | Path, split: str) -> list[Path]:
    """Return the files of a split, at any depth, sorted; hidden ones are left out."""
    folder = Path(root) / split
    suffixes = {suffix for suffix, entry in FORMATS.items() if entry.kind == "cloud"}
    suffixes |= set(_MESHES_OF_POINTS)
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in suffixes
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def prepare_labelled_clouds(
    root: str | Path,
    split: str,
    options: LabelledCloudOptions,
    *,
    seed: int = 0,
    cache_dir: str | Path | None = None,
    num_workers: int | None = None,
    strict: bool = False,
    progress: bool = True,
) -> PointCloudStore:
    """Read every file of a split, once, and open the result.

    Cache, failures, processes and the other arguments are as in `prepare_mesh_tree`.

    Returns:
        The store of (n, P, C) points with their labels: a cloud a file, or the blocks of each.

    Raises:
        MissingDataError: If the names of the classes or the files of the split are missing.
        DataError: If the names do not fit the options.
        MeshTreeError: As `prepare_mesh_tree`.
        OSError: If the cache cannot be written.
    """
    check_store(split, options.pool_size)
    root = Path(root)
    names = read_point_class_names(root)
    class_names = read_point_class_names(root, options.classes)
    files = find_labelled_clouds(root, split)
    if not files:
        raise MissingDataError(f"{root} has no files for the {split} split; {_LAYOUT}")
    sources = [
        Source(path.relative_to(root).as_posix(), -1, stat.st_size, stat.st_mtime_ns)
        for path, stat in ((path, path.stat()) for path in files)
    ]
    return build_store(
        root,
        split,
        sources,
        functools.partial(
            _sample, root=root, options=options, names=names, class_names=class_names, seed=seed
        ),
        kind="clouds",
        settings={"labelled": asdict(options), "names": names, "seed": seed},
        cloud_shape=(options.pool_size, options.channels),
        class_names=class_names,
        cache_dir=cache_dir,
        num_workers=num_workers,
        strict=strict,
        progress=progress,
    )


def load_labelled_cloud(
    path: Path, options: LabelledCloudOptions, names: Sequence[str], class_names: Sequence[str]
) -> tuple[PointCloud, NDArray[np.int64]]:
    """Read a file and the class of each of its points.

    Args:
        path: The file.
        options: How it is read.
        names: The classes that its labels stand for.
        class_names: The classes to tell apart (`read_point_class_names`).

    Returns:
        The cloud, and labels (N,): positions in `class_names`, or `IGNORED_LABEL`.

    Raises:
        MeshReadError: If the file cannot be read, or has no labels or others than the classes have.
    """
    cloud = load_cloud(path, columns=options.columns)
    if cloud.labels is None:
        reason = cloud.reasons.get("labels", "no column is named label, class or classification")
        raise MeshReadError(path, f"has no labels: {reason}; name the columns by `columns`")
    ignored = cloud.labels == options.ignored_label
    unknown = ~ignored & ((cloud.labels < 0) | (cloud.labels >= len(names)))
    if unknown.any():
        values = np.unique(cloud.labels[unknown])
        some = ", ".join(map(str, values[:5])) + (", ..." if len(values) > 5 else "")
        raise MeshReadError(
            path,
            f"{np.count_nonzero(unknown):,} of its {len(cloud):,} points have the label {some}, "
            f"expected 0 to {len(names) - 1}, the lines of {CLASS_NAMES_FILE}, or "
            f"{options.ignored_label} for none (ignored_label)",
        )
    last = len(class_names) - 1
    table = [class_names.index(name) if name in class_names else last for name in names]
    labels = np.asarray(table, dtype=np.int64)[np.where(ignored, 0, cloud.labels)]
    return cloud, np.where(ignored, IGNORED_LABEL, labels)


def _sample(
    source: Source,
    *,
    root: Path,
    options: LabelledCloudOptions,
    names: tuple[str, ...],
    class_names: tuple[str, ...],
    seed: int,
) -> SampledFile:
    """Draw from one cloud, or from each of its blocks; runs in a worker process."""
    path = root / source.name
    try:
        cloud, labels = load_labelled_cloud(path, options, names, class_names)
        features = [
            take_feature(path, cloud, name)
            if name != "position"
            else relative_positions(cloud.points)
            for name in options.features
        ]
    except MeshReadError as error:
        return failed_file(path, error.reason)
    rng = generator_for_name(seed, source.name)
    values = np.concatenate([cloud.points, *features], axis=1)
    if options.block_size is None:
        chosen = choose_or_repeat(len(values), options.pool_size, rng)
        note = ""
        if len(values) < options.pool_size:
            note = f"{len(values)} points, of which some are repeated to make {options.pool_size}"
        return SampledFile(normalize_points(values[chosen]), note, point_labels=labels[chosen])
    try:
        return cut_scene(values, labels, options, rng)
    except ValueError as error:
        return failed_file(path, str(error))


def cut_scene(
    values: NDArray[np.float64],
    labels: NDArray[np.int64],
    options: LabelledCloudOptions,
    rng: np.random.Generator,
) -> SampledFile:
    """Return the blocks of a scene, each with its points in place (`place_in_block`).

    Args:
        values: (N, C) of the scene: x, y, z and the features.
        labels: (N,).
        options: How it is cut; with `block_size`.
        rng: Draws the points of each block.

    Raises:
        ValueError: As `cut_blocks`.
    """
    assert options.block_size is not None
    scene = values[:, :3]
    floor = float(scene[:, "xyz".index(options.up_axis)].min())
    blocks, block_labels, left_out = [], [], 0
    for block in cut_blocks(
        scene, size=options.block_size, stride=options.stride, up_axis=options.up_axis
    ):
        if len(block.indices) < options.min_block_points:
            left_out += 1
            continue
        placed = place_in_block(scene, block, floor, options.up_axis)
        chosen = choose_or_repeat(len(placed), options.pool_size, rng)
        rows = block.indices[chosen]
        blocks.append(np.concatenate([placed[chosen], values[rows, 3:]], axis=1))
        block_labels.append(labels[rows])
    if not blocks:
        extent = " x ".join(f"{length:.3g}" for length in np.ptp(scene, axis=0))
        return SampledFile(
            None,
            f"none of its {left_out} blocks of {options.block_size:g} has "
            f"{options.min_block_points} points (min_block_points): its extent is {extent} with "
            f"{len(scene):,} points; are block_size and the file in the same units?",
        )
    return SampledFile(np.stack(blocks).astype(np.float32), point_labels=np.stack(block_labels))
