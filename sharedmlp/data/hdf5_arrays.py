"""The arrays of one HDF5 file of a sampled set: clouds, their features and their labels."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sharedmlp.data.errors import DataError

if TYPE_CHECKING:
    import h5py

# Compressed coordinates shrink to a half; a bomb to a thousandth.
_LARGEST_RATIO = 100
_SMALL = 1 << 26  # bytes that are no harm whatever is stored
# A longer axis holds points, not channels.
_MOST_CHANNELS = 12
_FEATURE_ARRAYS = {"normals": ("normal", "normals"), "colors": ("color", "colors", "rgb")}
_CLASS_NAMES = ("class_names", "classes", "shape_names", "label_names")


def read_points(path: Path, file: h5py.File, features: Sequence[str]) -> NDArray[np.float32]:
    """Return the clouds of a file, (n, P, C): x, y, z and the features.

    Raises:
        DataError: If the array is missing or of another kind, its axes cannot be told apart, a
            number is not finite, or the file has no such features.
    """
    data = _channels_last(path, "data", _read(path, open_array(path, file, "data"), "f"))
    parts = [data[..., :3]]
    for feature in features:
        names = [name for name in _FEATURE_ARRAYS.get(feature, ()) if name in file]
        if names:
            array = _read(path, open_array(path, file, names[0]), "fiu")
            values = _channels_last(path, names[0], array)[..., :3]
            if values.shape != data[..., :3].shape:
                raise DataError(
                    f"{path}: {names[0]!r} has shape {values.shape}, not that of 'data'"
                )
        else:
            values = data[..., 3:6]
        parts.append(_check_feature(path, feature, values))
    points = np.concatenate(parts, axis=2, dtype=np.float32) if features else parts[0]
    points = np.ascontiguousarray(points, dtype=np.float32)
    finite = np.isfinite(points).all(axis=(1, 2))
    if not finite.all():
        raise DataError(
            f"{path}: cloud {int(np.argmin(finite))} has a coordinate that is not finite"
        )
    return points


def read_labels(path: Path, file: h5py.File, count: int | None) -> NDArray[np.int64]:
    """Return the labels of a file as they are there; numbers without fractions.

    Raises:
        DataError: If the array is missing or of another kind, or there is not one label a cloud.
    """
    array = open_array(path, file, "label")
    rows = array.shape[0] if count is None and array.ndim else count
    if array.shape not in ((rows,), (rows, 1)) or array.dtype.kind not in "iuf":
        raise DataError(
            f"{path}: expected 'label' of shape ({rows}, 1) or ({rows},), integer, got shape "
            f"{array.shape} and dtype {array.dtype}"
        )
    values = _read(path, array, "iuf").reshape(-1)
    whole = np.isfinite(values) & (values == np.round(values))
    if not whole.all():
        raise DataError(
            f"{path}: label {int(np.argmin(whole))} is {values[np.argmin(whole)]}, expected "
            "integers"
        )
    return values.astype(np.int64)


def check_names(
    path: Path, file: h5py.File, labels: NDArray[np.int64], class_names: Sequence[str]
) -> None:
    """Compare what a file says of its classes with `shape_names.txt`.

    A file may hold the names of the classes, and beside the set of Qi et al. lies a list of the
    names of the clouds, `ply_data_train_0_id2file.json`, which begin with their class.

    Raises:
        DataError: If the names or their order differ.
    """
    advice = "the labels of this file mean other classes than the lines of shape_names.txt"
    for key in _CLASS_NAMES:
        own = _read_names(file, key)
        if own is not None and own != list(class_names):
            place = next(
                (n for n, (a, b) in enumerate(zip(own, class_names, strict=False)) if a != b), None
            )
            differ = (
                f"{len(own)} for {len(class_names)}"
                if place is None
                else (f"{place} is {own[place]!r} here and {class_names[place]!r} there")
            )
            raise DataError(f"{path}: {key!r} differs from shape_names.txt ({differ}): {advice}")
    listing = path.with_name(re.sub(r"_?(\d+)$", r"_\1", path.stem) + "_id2file.json")
    if not listing.is_file():
        return
    try:
        clouds = json.loads(listing.read_text(encoding="utf-8"))
        known = [re.split(r"[/\\]", str(name))[-1].rpartition("_")[0] for name in clouds]
    except (OSError, ValueError, TypeError):
        return  # not the list that was meant
    if len(known) != len(labels) or not set(known) <= set(class_names):
        return
    expected = np.array([class_names.index(name) for name in known], dtype=np.int64)
    # Labels that count from 1 are another matter.
    if (expected != labels).any() and (expected + 1 != labels).any():
        row = int(np.argmax(expected != labels))
        raise DataError(
            f"{path}: cloud {row} has the label {labels[row]}, and {listing.name} says that it is "
            f"a {known[row]}: {advice}"
        )


def open_array(path: Path, file: h5py.File, key: str) -> h5py.Dataset:
    """Open an array whose values are in the file itself, as many as the file can hold."""
    import h5py

    if key not in file:
        raise DataError(f"{path}: no dataset {[key]}; expected 'data' and 'label'")
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


def _read(path: Path, array: h5py.Dataset, kinds: str) -> NDArray[Any]:
    if array.dtype.kind not in kinds:
        raise DataError(
            f"{path}: expected {array.name[1:]!r} of shape (n, P, 3), floating point, got shape "
            f"{array.shape} and dtype {array.dtype}"
        )
    try:
        return np.asarray(array[...])
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


def _channels_last(path: Path, key: str, array: NDArray[Any]) -> NDArray[Any]:
    """Return (n, P, C) of an array that may be (n, C, P)."""
    expected = (
        f"{path}: expected {key!r} of shape (n, P, 3), or (n, 3, P), with maybe more channels"
    )
    if array.ndim != 3 or 0 in array.shape[1:]:
        raise DataError(f"{expected}, got shape {array.shape} and dtype {array.dtype}")
    middle, last = (3 <= size <= _MOST_CHANNELS for size in array.shape[1:])
    if array.shape[2] == 3 or (last and not middle):
        return array
    if middle and array.shape[2] > _MOST_CHANNELS:
        return array.transpose(0, 2, 1)
    which = (
        "either axis could be that of the points"
        if middle and last
        else "no axis has 3 channels or more"
    )
    raise DataError(f"{expected}, got shape {array.shape}: {which}")


def _check_feature(path: Path, feature: str, array: NDArray[Any]) -> NDArray[np.float32]:
    """Return normals of length 1, or colors from 0 to 1."""
    if array.shape[-1] < 3 or feature not in _FEATURE_ARRAYS:
        raise DataError(
            f"{path}: has no {feature}: expected an array {feature!r} or channels 3 to 5"
        )
    values: NDArray[np.float32] = array.astype(np.float32)
    if feature == "normals":
        lengths = np.linalg.norm(values, axis=-1)
        if not np.abs(lengths - 1).max(initial=0) < 0.05:
            raise DataError(
                f"{path}: has no normals: the vectors have lengths from {lengths.min():g} to "
                f"{lengths.max():g}, expected 1"
            )
        return values
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    if not 0 <= low <= high <= 255:
        raise DataError(
            f"{path}: has no colors: the numbers are from {low:g} to {high:g}, expected 0 to 1 or "
            "0 to 255"
        )
    return values if high <= 1 else values / np.float32(255)


def _read_names(file: h5py.File, key: str) -> list[str] | None:
    """Return a list of names in a file, an array or an attribute, if there is one."""
    import h5py

    values: Any = file.attrs.get(key)
    if values is None and isinstance(file.get(key, getlink=True), h5py.HardLink):
        found = file[key]
        if isinstance(found, h5py.Dataset) and found.ndim == 1 and found.shape[0] < 100_000:
            values = found[...]
    values = np.asarray(values)
    if values.ndim != 1 or values.dtype.kind not in "OSU":
        return None
    return [v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in values.tolist()]
