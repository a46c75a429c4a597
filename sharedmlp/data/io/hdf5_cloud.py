"""A single cloud in an HDF5 file; sets of clouds are read by `sharedmlp.data.hdf5`."""

from __future__ import annotations

import io
import math
from pathlib import Path

from sharedmlp.data.io.base import FormatError, PointArray, PointCloud
from sharedmlp.data.io.points import cloud_from_arrays
from sharedmlp.utils.optional_imports import require_modules

# Compressed coordinates shrink to a half, labels to a hundredth; a bomb to a thousandth.
_LARGEST_RATIO = 100
_SMALL = 1 << 26  # bytes that are no harm whatever is stored


def read_hdf5_cloud(path: Path, content: bytes) -> PointCloud | PointArray:
    """Read the arrays at the top of a file, by their names or the only one.

    Raises:
        FormatError: If it is no HDF5 file, is a set of clouds, or claims more than it holds.
        ImportError: If h5py is not installed.
    """
    require_modules("h5py", extra="hdf5", purpose="Reading HDF5")
    import h5py

    arrays: dict[str, PointArray] = {}
    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            for name in file:
                # No links, and no values that are in other files.
                if not isinstance(file.get(name, getlink=True), h5py.HardLink):
                    continue
                array = file[name]
                if not isinstance(array, h5py.Dataset) or array.is_virtual or array.external:
                    continue
                if array.ndim == 3 and array.dtype.kind == "f":
                    raise FormatError(
                        f"is a set of clouds, {name!r} of shape {array.shape}, not a single one"
                    )
                if array.dtype.kind not in "fiu":
                    continue
                # Of a chunk that was never written, HDF5 makes zeros.
                stored = min(array.id.get_storage_size(), len(content))
                claimed = max(math.prod(array.shape), math.prod(array.chunks or ()))
                claimed *= array.dtype.itemsize
                if claimed > max(_LARGEST_RATIO * stored, _SMALL):
                    raise FormatError(
                        f"claims {claimed} bytes for {name!r} of shape {array.shape}, more than "
                        f"{_LARGEST_RATIO} times the {stored} that are stored for it"
                    )
                arrays[name] = array[...]
    except FormatError:
        raise
    except Exception as error:  # h5py raises OSError, KeyError, RuntimeError, ValueError
        raise FormatError(f"is no readable HDF5 file ({error})") from error
    return cloud_from_arrays(arrays)
