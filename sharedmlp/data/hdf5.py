"""The HDF5 layout in which the sampled ModelNet40 is passed on (`modelnet40_ply_hdf5_2048`).

<root>/shape_names.txt     one class name a line, in the order of the labels
<root>/train_files.txt     one HDF5 file a line; of a path only the last part counts
<root>/test_files.txt
<root>/ply_data_train0.h5  `data` (n, P, 3) float, `label` (n, 1) or (n,) integer
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from sharedmlp.data.errors import DataError
from sharedmlp.data.name_list import read_names
from sharedmlp.data.store import PointCloudStore
from sharedmlp.utils.optional_imports import require_modules

if TYPE_CHECKING:
    import h5py

# Compressed coordinates shrink to a half; a bomb to a thousandth.
_LARGEST_RATIO = 100
_SMALL = 1 << 26  # bytes that are no harm whatever is stored
_LAYOUT = "expected shape_names.txt, {train,test}_files.txt and the HDF5 files that they name"


def read_hdf5_class_names(root: str | Path) -> tuple[str, ...]:
    """Return the class names of an HDF5 set, in the order of its labels.

    Raises:
        FileNotFoundError: If `shape_names.txt` is missing.
        DataError: If it is empty.
    """
    return tuple(read_names(Path(root) / "shape_names.txt", _LAYOUT))


def read_hdf5(root: str | Path, split: Literal["train", "test"]) -> PointCloudStore:
    """Read all clouds of a split into memory.

    The points are taken as they are: the sets that people pass on are normalized already. Which
    axis is up differs between them.

    Args:
        root: The folder with `shape_names.txt`.
        split: "train" or "test".

    Returns:
        A store of (n, P, 3) points; a cloud's name is its file and row, `ply_data_test0.h5:17`.

    Raises:
        FileNotFoundError: If a file of the layout is missing.
        DataError: If a file is no HDF5 file, a shape, a dtype or a label is not what the
            layout says, or a coordinate is not finite.
        ImportError: If h5py is not installed.
    """
    require_modules("h5py", extra="hdf5", purpose="Reading HDF5")
    import h5py

    if split not in ("train", "test"):
        raise ValueError(f"expected the split 'train' or 'test', got {split!r}")
    root = Path(root)
    class_names = read_hdf5_class_names(root)
    # The lists name paths of the machine that wrote them; the files stand beside the lists.
    files = [root / Path(line).name for line in read_names(root / f"{split}_files.txt", _LAYOUT)]
    clouds: list[NDArray[np.float32]] = []
    labels: list[NDArray[np.int64]] = []
    names: list[str] = []
    for path in files:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: named by {split}_files.txt but missing; {_LAYOUT}")
        try:
            file = h5py.File(path, "r")
        except OSError as error:
            raise DataError(f"{path}: no readable HDF5 file ({error})") from error
        with file:
            points, classes = _read_arrays(path, file)
        if clouds and points.shape[1:] != clouds[0].shape[1:]:
            raise DataError(
                f"{path}: clouds of shape {points.shape[1:]} where {files[0].name} has "
                f"{clouds[0].shape[1:]}"
            )
        if len(classes) and not (classes.min() >= 0 and classes.max() < len(class_names)):
            raise DataError(
                f"{path}: labels from {classes.min()} to {classes.max()} where shape_names.txt "
                f"has {len(class_names)} classes, 0 to {len(class_names) - 1}"
            )
        clouds.append(points)
        labels.append(classes)
        names += [f"{path.name}:{row}" for row in range(len(points))]
    return PointCloudStore(
        np.concatenate(clouds), np.concatenate(labels), tuple(names), class_names
    )


def _open_array(path: Path, file: h5py.File, key: str) -> h5py.Dataset:
    """Open an array whose values are in the file itself, as many as the file can hold."""
    import h5py

    array = file[key] if isinstance(file.get(key, getlink=True), h5py.HardLink) else None
    if not isinstance(array, h5py.Dataset) or array.is_virtual or array.external:
        raise DataError(
            f"{path}: expected {key!r} to be an array in the file itself, found a link, a group, "
            "or an array whose values are in other files"
        )
    # Of a chunk that was never written, HDF5 makes zeros; one chunk may be larger than the array.
    stored = min(array.id.get_storage_size(), path.stat().st_size)
    claimed = max(math.prod(array.shape), math.prod(array.chunks or ())) * array.dtype.itemsize
    if claimed > max(_LARGEST_RATIO * stored, _SMALL):
        raise DataError(
            f"{path}: {key!r} of shape {array.shape} claims {claimed} bytes, more than "
            f"{_LARGEST_RATIO} times the {stored} that are stored for it"
        )
    return array


def _read_arrays(path: Path, file: h5py.File) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    missing = [key for key in ("data", "label") if key not in file]
    if missing:
        raise DataError(f"{path}: no dataset {missing}; expected 'data' and 'label'")
    data, label = (_open_array(path, file, key) for key in ("data", "label"))
    if data.ndim != 3 or data.shape[1] < 1 or data.shape[2] != 3 or data.dtype.kind != "f":
        raise DataError(
            f"{path}: expected 'data' of shape (n, P, 3), floating point, got shape {data.shape} "
            f"and dtype {data.dtype}"
        )
    rows = len(data)
    if label.shape not in ((rows,), (rows, 1)) or label.dtype.kind not in "iu":
        raise DataError(
            f"{path}: expected 'label' of shape ({rows}, 1) or ({rows},), integer, got shape "
            f"{label.shape} and dtype {label.dtype}"
        )
    try:
        points = np.asarray(data[...], dtype=np.float32)
        labels = np.asarray(label[...], dtype=np.int64).reshape(-1)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    finite = np.isfinite(points).all(axis=(1, 2))
    if not finite.all():
        raise DataError(
            f"{path}: cloud {int(np.argmin(finite))} has a coordinate that is not finite"
        )
    return points, labels
