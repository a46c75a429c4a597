"""NumPy's files of points: `.npy`, also structured arrays, and `.npz`."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from sharedmlp.data.io.base import FormatError, PointArray, PointCloud
from sharedmlp.data.io.columns import points_by_row
from sharedmlp.data.io.fields import cloud_from_fields, has_coordinates

_HEADER_READERS = {
    (1, 0): npy_format.read_array_header_1_0,
    (2, 0): npy_format.read_array_header_2_0,
}
# Compressed coordinates shrink to a half, labels to a hundredth; a bomb to a thousandth.
_LARGEST_RATIO = 100
_SMALL = 1 << 26  # bytes that are no harm whatever is stored


def read_npy(path: Path, content: bytes) -> PointCloud | PointArray:
    """Read the array of an `.npy` file: one point a row, (3, N) and the like, or fields by name.

    Raises:
        FormatError: If it is no such file, is cut short, holds anything but numbers, or either axis
            may be the points.
    """
    array = _read_array(content)
    if array.dtype.kind not in "fiu" and array.dtype.names is None:
        raise FormatError(f"expected an array of numbers, got dtype {array.dtype}")
    return _cloud_from_array(array)


def read_npz(path: Path, content: bytes) -> PointCloud | PointArray:
    """Read the arrays of an `.npz` file: by their names, or the only one as `read_npy` does.

    Raises:
        FormatError: If it is no such file, would take much more memory than the file does, or holds
            several arrays whose names say nothing.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
            size = sum(info.file_size for info in members)
            if size > max(_LARGEST_RATIO * len(content), _SMALL):
                raise FormatError(
                    f"claims {size} bytes of arrays, more than {_LARGEST_RATIO} times the file's "
                    f"{len(content)}"
                )
            arrays = {}
            for info in members:
                with archive.open(info) as file:
                    array = _read_array(file.read(info.file_size))
                arrays[info.filename.removesuffix(".npy")] = array
    except (zipfile.BadZipFile, zipfile.LargeZipFile, RuntimeError, EOFError) as error:
        raise FormatError(f"is no sound .npz file ({error})") from error
    return cloud_from_arrays(arrays)


def cloud_from_arrays(arrays: Mapping[str, PointArray]) -> PointCloud | PointArray:
    """Return the cloud of a file that names whole arrays.

    Args:
        arrays: Arrays of any type and shape by their names; what is not numbers is left out.

    Raises:
        FormatError: If no name says which array the points are, and there are several or none.
    """
    # A single number, such as the label of a whole cloud, says nothing of its points.
    found = {
        name: array
        for name, array in arrays.items()
        if array.dtype.kind in "fiubV" and array.size != 1
    }
    if has_coordinates(tuple(found)):
        points = next((array for name, array in found.items() if has_coordinates((name,))), None)
        if points is None or (points.ndim == 2 and 3 in points.shape):
            return cloud_from_fields(found)
        found = {"points": points}  # with further columns
    if len(found) != 1:
        names = ", ".join(f"{name} {array.shape}" for name, array in arrays.items()) or "none"
        raise FormatError(
            f"expected an array named points or xyz, or a single array of numbers, found {names}"
        )
    return _cloud_from_array(*found.values())


def _cloud_from_array(array: PointArray) -> PointCloud | PointArray:
    names = array.dtype.names
    if names is None:
        return points_by_row(array)
    if array.ndim != 1:
        raise FormatError(f"expected fields of shape (N,), got {array.shape}")
    records: NDArray[Any] = array
    fields = {name: records[name] for name in names}
    if has_coordinates(names):
        return cloud_from_fields(fields)
    # NumPy's own names for fields without one are f0, f1 and so on; any other says what it is.
    unnamed = names == tuple(f"f{number}" for number in range(len(names)))
    if not unnamed or any(f.ndim != 1 or f.dtype.kind not in "fiu" for f in fields.values()):
        raise FormatError(f"has no fields named x, y and z; its fields are {', '.join(names)}")
    return np.stack(list(fields.values()), axis=1)


def _read_array(content: bytes) -> PointArray:
    """Return the array of an `.npy` file without copying it; pickled objects are never read."""
    file = io.BytesIO(content)
    try:
        version = npy_format.read_magic(file)
        # Version 3 differs in the names of fields alone, which are ASCII in those of points.
        if version not in _HEADER_READERS:
            raise ValueError(f"its version of the format is {version}, expected 1.0 or 2.0")
        shape, fortran_order, dtype = _HEADER_READERS[version](file)
    except (ValueError, EOFError) as error:
        raise FormatError(f"holds no array of numbers ({error})") from error
    if dtype.hasobject:
        raise FormatError(f"expected an array of numbers, got dtype {dtype}")
    # A header may claim more than memory holds: nothing is allocated from it.
    size, found = math.prod(shape) * dtype.itemsize, len(content) - file.tell()
    if found < size or size < 0:
        raise FormatError(
            f"holds no array of numbers of shape {shape}: that takes {size} bytes, and {found} "
            "follow the header"
        )
    return np.ndarray(
        shape, dtype, content, offset=file.tell(), order="F" if fortran_order else "C"
    )
