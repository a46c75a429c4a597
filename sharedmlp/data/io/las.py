"""LAS and LAZ by laspy (with lazrs), from memory and in pieces."""

from __future__ import annotations

import io
import logging
import struct
from pathlib import Path

import numpy as np

from sharedmlp.data.io.base import FormatError, PointArray, PointCloud
from sharedmlp.data.io.fields import cloud_from_fields
from sharedmlp.data.io.laz_chunks import check_laz_chunks
from sharedmlp.utils.optional_imports import require_modules

_CHUNK_BYTES = 1 << 22
_HEADER_BYTES = 227  # of the oldest version
_RECORD_BYTES = 54  # of the header of a variable length record
# LAZ of real scans is a tenth of LAS.
_LARGEST_RATIO = 1000
_DIMENSIONS = {
    "intensity": "intensity",
    "classification": "labels",
    "red": "red",
    "green": "green",
    "blue": "blue",
}
# Of programs that write normals as extra bytes.
_NORMALS = ("nx", "ny", "nz", "normal_x", "normal_y", "normal_z", "normalx", "normaly", "normalz")


def read_las(path: Path, content: bytes) -> PointCloud:
    """Read coordinates, intensity, colors, classes as labels, and normals among the extra bytes.

    Raises:
        FormatError: If it is no LAS or LAZ file, or holds fewer points than its header promises.
        ImportError: If laspy or lazrs is not installed.
    """
    require_modules("laspy", "lazrs", extra="clouds", purpose="Reading LAS and LAZ")
    import laspy

    _check_header(content)
    # It logs what it raises.
    logging.getLogger("laspy").setLevel(logging.CRITICAL)
    columns: dict[str, list[PointArray]] = {}
    try:
        # Extended records, at the end of the file, describe the points' origin: nothing needed.
        # One thread: the parallel reader of LAZ makes room for whatever the table of chunks says.
        with laspy.open(
            io.BytesIO(content), read_evlrs=False, laz_backend=laspy.LazBackend.Lazrs
        ) as reader:
            header = reader.header
            count, size = header.point_count, header.point_format.size
            most = len(content) - header.offset_to_point_data
            most *= _LARGEST_RATIO if header.are_points_compressed else 1
            if count * size > most:
                raise FormatError(
                    f"its header promises {count} points of {size} bytes: the file of "
                    f"{len(content)} bytes is cut short or its count is wrong"
                )
            if header.are_points_compressed:
                record = header.vlrs[header.vlrs.index("LasZipVlr")].record_data
                check_laz_chunks(content, header.offset_to_point_data, record, count)
            found = 0
            for points in reader.chunk_iterator(max(1, _CHUNK_BYTES // size)):
                found += len(points)
                names = {name.lower(): name for name in points.point_format.dimension_names}
                for name in ("x", "y", "z"):
                    with np.errstate(over="ignore"):  # of a damaged scale; refused afterwards
                        columns.setdefault(name, []).append(np.asarray(getattr(points, name)))
                for name in (*_DIMENSIONS, *_NORMALS):
                    if name in names:
                        column = np.asarray(points[names[name]])
                        columns.setdefault(_DIMENSIONS.get(name, name), []).append(column)
    except (FormatError, MemoryError):
        raise
    except BaseException as error:  # lazrs panics with an exception that is no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
            raise
        raise FormatError(
            f"cannot be read as LAS ({type(error).__name__}: {error}): the file is cut short or "
            "damaged"
        ) from error
    if found < count:
        raise FormatError(f"holds {found} points where its header promises {count}")
    if not found:
        return PointCloud(np.empty((0, 3)))
    fields = {name: np.concatenate(parts) for name, parts in columns.items()}
    if not any(fields[name].any() for name in ("red", "green", "blue") if name in fields):
        for name in ("red", "green", "blue"):  # room for colors, but none were written
            fields.pop(name, None)
    return cloud_from_fields(fields)


def _check_header(content: bytes) -> None:
    """Raise a `FormatError` for what laspy would take too long for, or too much memory."""
    if content[:4] != b"LASF":
        raise FormatError(f"does not begin as a LAS file does: expected LASF, got {content[:4]!r}")
    if len(content) < _HEADER_BYTES:
        raise FormatError(f"cannot be read as LAS: its {len(content)} bytes are less than a header")
    header_size, start, records = struct.unpack_from("<HII", content, 94)
    if not _HEADER_BYTES <= header_size <= start - records * _RECORD_BYTES <= len(content):
        raise FormatError(
            f"cannot be read as LAS: its header of {header_size} bytes promises {records} records "
            f"before the points at byte {start} of {len(content)}"
        )
