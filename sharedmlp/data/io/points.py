"""Files of points: NumPy's `.npy`, and text with one point a line."""

import io
import math
from pathlib import Path

import numpy as np
from numpy.lib import format as npy_format

from sharedmlp.data.io.base import FormatError, PointArray

_HEADER_READERS = {
    (1, 0): npy_format.read_array_header_1_0,
    (2, 0): npy_format.read_array_header_2_0,
}


def read_npy(path: Path, content: bytes) -> PointArray:
    """Read the array of an `.npy` file without copying it; pickled objects are never read.

    Raises:
        FormatError: If it is no such file, is cut short, or holds anything but numbers.
    """
    file = io.BytesIO(content)
    try:
        version = npy_format.read_magic(file)
        # Version 3 differs in the names of fields, which an array of numbers does not have.
        if version not in _HEADER_READERS:
            raise ValueError(f"its version of the format is {version}, expected 1.0 or 2.0")
        shape, fortran_order, dtype = _HEADER_READERS[version](file)
    except (ValueError, EOFError) as error:
        raise FormatError(f"holds no array of numbers ({error})") from error
    if dtype.kind not in "fiu":
        raise FormatError(f"expected an array of numbers, got dtype {dtype}")
    # A header may claim more than memory holds: nothing is allocated from it.
    size, found = math.prod(shape) * dtype.itemsize, len(content) - file.tell()
    if found < size:
        raise FormatError(
            f"holds no array of numbers of shape {shape}: that takes {size} bytes, and {found} "
            "follow the header"
        )
    return np.ndarray(
        shape, dtype, content, offset=file.tell(), order="F" if fortran_order else "C"
    )
