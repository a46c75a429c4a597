"""The HDF5 layout in which the sampled ModelNet40 is passed on (`modelnet40_ply_hdf5_2048`).

<root>/shape_names.txt     one class name a line, in the order of the labels
<root>/train_files.txt     one HDF5 file a line, below the root; else the last part of a path counts
<root>/test_files.txt      and val_files.txt, if there is a validation split
<root>/ply_data_train0.h5  `data` (n, P, 3) float, `label` (n, 1) or (n,) (`hdf5_arrays`)
"""

from __future__ import annotations

import contextlib
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from sharedmlp.data.errors import DataError, MissingDataError
from sharedmlp.data.hdf5_arrays import check_names, read_labels, read_points
from sharedmlp.data.name_list import read_names
from sharedmlp.data.store import PointCloudStore
from sharedmlp.utils.optional_imports import require_modules

if TYPE_CHECKING:
    import h5py

_LAYOUT = "expected shape_names.txt, {train,test}_files.txt and the HDF5 files that they name"


def is_hdf5_set(root: str | Path) -> bool:
    """Return whether a folder has the names and a list of this layout."""
    root = Path(root)
    return (root / "shape_names.txt").is_file() and any(root.glob("*_files.txt"))


def read_hdf5_class_names(root: str | Path) -> tuple[str, ...]:
    """Return the class names of an HDF5 set, in the order of its labels.

    Raises:
        MissingDataError: If `shape_names.txt` is missing.
        DataError: If it is empty or names a class more than once.
    """
    path = Path(root) / "shape_names.txt"
    names = read_names(path, _LAYOUT)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"{path}: names the class {twice[0]} more than once")
    return tuple(names)


def read_hdf5(
    root: str | Path, split: Literal["train", "val", "test"], *, features: Sequence[str] = ()
) -> PointCloudStore:
    """Read all clouds of a split into memory.

    The points are taken as they are: the sets that people pass on are normalized already. Which
    axis is up differs between them. Labels that count from 1 in all files of the set are lowered
    by 1, with a warning, and arrays (n, C, P) are transposed.

    Args:
        root: The folder with `shape_names.txt`.
        split: "train", "val" or "test".
        features: What follows x, y, z: "normals", of an array `normal` or of channels 3 to 5 if
            these have length 1, and "colors", of an array `color` or of channels 3 to 5 if they
            are from 0 to 1 or to 255 (then scaled to 1). Further channels are left out.

    Returns:
        A store of (n, P, C) points; a cloud's name is its file and row, `ply_data_test0.h5:17`.

    Raises:
        MissingDataError: If a file of the layout is missing.
        DataError: If a file is no HDF5 file, a shape, a dtype or a label is not what the
            layout says, a file has no such features or names its classes in another order, or a
            coordinate is not finite.
        ImportError: If h5py is not installed.
    """
    require_modules("h5py", extra="hdf5", purpose="Reading HDF5")
    if split not in ("train", "val", "test"):
        raise ValueError(f"expected the split 'train', 'val' or 'test', got {split!r}")
    root = Path(root)
    class_names = read_hdf5_class_names(root)
    files = _listed_files(root, split)
    clouds: list[NDArray[np.float32]] = []
    labels: list[NDArray[np.int64]] = []
    names: list[str] = []
    for path in files:
        with _open_file(path) as file:
            points = read_points(path, file, features)
            classes = read_labels(path, file, len(points))
            check_names(path, file, classes, class_names)
        if clouds and points.shape[1:] != clouds[0].shape[1:]:
            raise DataError(
                f"{path}: clouds of shape {points.shape[1:]} where {files[0].name} has "
                f"{clouds[0].shape[1:]}"
            )
        clouds.append(points)
        labels.append(classes)
        names += [f"{path.name}:{row}" for row in range(len(points))]
        _warn_of_equal_points(path, points)
    return PointCloudStore(
        np.concatenate(clouds),
        _labels_from_zero(root, files, labels, class_names),
        tuple(names),
        class_names,
    )


def _listed_files(root: Path, split: str) -> list[Path]:
    """Return the files of a split."""
    files = []
    for line in read_names(root / f"{split}_files.txt", _LAYOUT):
        # The lists name paths of the machine that wrote them, maybe with backslashes; the files
        # stand beside the lists, or in folders below.
        path = PureWindowsPath(line)
        below = root / path.as_posix()
        inside = not path.anchor and ".." not in path.parts and below.is_file()
        files.append(below if inside else root / path.name)
        if not files[-1].is_file():
            raise MissingDataError(
                f"{files[-1]}: named by {split}_files.txt but missing; {_LAYOUT}"
            )
    twice = [path.name for path, count in Counter(files).items() if count > 1]
    if twice:
        raise DataError(f"{root / f'{split}_files.txt'} names {twice[0]} more than once")
    return files


def _warn_of_equal_points(path: Path, points: NDArray[np.float32]) -> None:
    """Warn of clouds without an extent: whatever a network says of them means nothing."""
    equal = np.flatnonzero((points[..., :3] == points[:, :1, :3]).all(axis=(1, 2)))
    if len(equal):
        warnings.warn(
            f"{path}: {len(equal)} of {len(points)} clouds are of equal points or of one alone, "
            f"the first is cloud {equal[0]}: without an extent they are no shapes",
            stacklevel=3,
        )


def _open_file(path: Path) -> h5py.File:
    import h5py

    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"{path}: no readable HDF5 file ({error})") from error


def _labels_from_zero(
    root: Path,
    files: Sequence[Path],
    labels: Sequence[NDArray[np.int64]],
    class_names: tuple[str, ...],
) -> NDArray[np.int64]:
    """Return the labels of a split in 0 to the number of classes - 1, whatever they count from."""
    count = len(class_names)
    for path, classes in zip(files, labels, strict=True):
        if len(classes) and not (classes.min() >= 0 and classes.max() <= count):
            raise _label_error(path, classes, count)
    together = np.concatenate(labels)
    if len(together) == 0 or (together.min() == 0 and together.max() < count):
        return together
    # Without a 0, or with the number of classes, in this split: what do the others have?
    low, high = _range_of_labels(root, count)
    if low >= 1 and high == count:
        warnings.warn(
            f"{root}: the labels count from 1 to {count}, and are taken as 0 to {count - 1}",
            stacklevel=3,
        )
        return together - 1
    for path, classes in zip(files, labels, strict=True):
        if classes.max(initial=0) >= count:
            raise _label_error(path, classes, count)
    if low >= 1:
        warnings.warn(
            f"{root}: no cloud has the label 0 ({class_names[0]}): if the labels count from 1, "
            "lower them by 1",
            stacklevel=3,
        )
    return together


def _label_error(path: Path, labels: NDArray[np.int64], count: int) -> DataError:
    return DataError(
        f"{path}: labels from {labels.min()} to {labels.max()} where shape_names.txt has {count} "
        f"classes, 0 to {count - 1}"
    )


def _range_of_labels(root: Path, count: int) -> tuple[int, int]:
    """Return the lowest and the highest label of all splits."""
    low, high = count, 0
    for split in ("train", "val", "test"):
        # Another split may be missing or broken: that is said when it is read.
        with contextlib.suppress(DataError):
            for path in _listed_files(root, split):
                with _open_file(path) as file:
                    classes = read_labels(path, file, None)
                if len(classes):
                    low, high = min(low, int(classes.min())), max(high, int(classes.max()))
    return low, high
