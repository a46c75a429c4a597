"""PCD, the format of the Point Cloud Library: ASCII, binary and binary_compressed.

https://pointclouds.org/documentation/tutorials/pcd_file_format.html
"""

from __future__ import annotations

import re
import struct
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sharedmlp.data.io.base import FormatError, PointArray, PointCloud
from sharedmlp.data.io.fields import cloud_from_fields, restore_integers
from sharedmlp.data.io.number_table import parse_floats
from sharedmlp.data.io.text import convert_to_utf8, shorten
from sharedmlp.data.io.text_table import Style, parse_lines
from sharedmlp.utils.optional_imports import require_modules

_DTYPES = {
    (kind, size): np.dtype(f"<{code}{size}")
    for kind, code, sizes in (
        ("F", "f", (4, 8)),
        ("I", "i", (1, 2, 4, 8)),
        ("U", "u", (1, 2, 4, 8)),
    )
    for size in sizes
}
_KEYS = ("FIELDS", "SIZE", "TYPE", "COUNT", "WIDTH", "HEIGHT", "POINTS")
_MOST_HEADER_BYTES = 1 << 16
_MOST_VALUES = 100_000  # a point, with its histograms
# LZF writes at most 264 bytes for 3.
_LZF_RATIO = 88
_NAN = re.compile(rb"(?<!\S)[+-]?nan(?!\S)", re.IGNORECASE)


class PcdField(NamedTuple):
    """A field of each point: `num_values` values of one type."""

    name: str
    dtype: np.dtype[Any]
    num_values: int


class PcdHeader(NamedTuple):
    """The header of a PCD file.

    Attributes:
        fields: In the order of the data.
        num_points: How many points follow.
        encoding: "ascii", "binary" or "binary_compressed".
        offset: The byte where the data begin.
        num_lines: The lines of the header, for messages that name a line.
    """

    fields: tuple[PcdField, ...]
    num_points: int
    encoding: str
    offset: int
    num_lines: int

    @property
    def point_bytes(self) -> int:
        """The bytes that a point takes in binary data."""
        return sum(field.dtype.itemsize * field.num_values for field in self.fields)


def read_pcd(path: Path, content: bytes) -> PointCloud:
    """Read coordinates, normals, colors (also packed), intensity and labels.

    Where a depth camera saw nothing, its clouds have NaN by design: such points are left out, and
    a warning says how many.

    Raises:
        FormatError: If the content is not what the header says.
        ImportError: If the data are compressed and python-neo-lzf is not installed.
    """
    content = convert_to_utf8(content)
    header = parse_pcd_header(content)
    read = {"ascii": _read_ascii, "binary": _read_binary}.get(header.encoding, _read_compressed)
    fields: dict[str, PointArray] = {}
    for field, values in zip(header.fields, read(content, header), strict=True):
        if field.name.lower() in ("rgb", "rgba") and values.shape[1] == 1:
            fields["colors"] = _unpack_colors(values.ravel(), field)
        elif field.name != "_":  # padding
            fields[field.name] = values[:, 0] if values.shape[1] == 1 else values
    return cloud_from_fields(_leave_out_gaps(path, fields))


def parse_pcd_header(content: bytes) -> PcdHeader:
    """Read the header of a PCD file.

    Raises:
        FormatError: If it is no such header or contradicts itself.
    """
    entries: dict[str, list[str]] = {}
    position, number = 0, 0
    while "DATA" not in entries:
        number += 1
        stop = content.find(b"\n", position, _MOST_HEADER_BYTES)
        if stop < 0:
            # Text of no line end at all, and files that are cut in the header.
            raise FormatError(f"its header does not end: no line 'DATA ...' up to line {number}")
        words = content[position:stop].decode("ascii", errors="replace").split()
        position = stop + 1
        if not words or words[0].startswith("#"):
            continue
        key = {"COLUMNS": "FIELDS"}.get(words[0], words[0])
        if key not in (*_KEYS, "VERSION", "VIEWPOINT", "DATA") or key in entries:
            line = shorten(" ".join(words))
            raise FormatError(f"line {number}: expected the header of a PCD file, found {line}")
        entries[key] = words[1:]
    fields = _parse_fields(entries)
    encoding = " ".join(entries["DATA"]).lower()
    if encoding not in ("ascii", "binary", "binary_compressed"):
        raise FormatError(f"expected DATA ascii, binary or binary_compressed, found {encoding!r}")
    width, height = _parse_number(entries, "WIDTH", None), _parse_number(entries, "HEIGHT", 1)
    points = _parse_number(entries, "POINTS", None if width is None else width * (height or 0))
    if points is None or (width is not None and points != width * (height or 0)):
        raise FormatError(f"its header promises {points} points, and {width} x {height} of them")
    return PcdHeader(fields, points, encoding, position, number)


def _parse_fields(entries: dict[str, list[str]]) -> tuple[PcdField, ...]:
    names = entries.get("FIELDS", [])
    columns = {
        "SIZE": entries.get("SIZE", []),
        "TYPE": entries.get("TYPE", []),
        "COUNT": entries.get("COUNT", ["1"] * len(names)),
    }
    for key, values in columns.items():
        if not names or len(values) != len(names):
            raise FormatError(f"has {len(names)} FIELDS and {len(values)} of {key}")
    fields = []
    for name, size, kind, count in zip(names, *columns.values(), strict=True):
        dtype = _DTYPES.get((kind.upper(), int(size))) if _is_count(size) else None
        if dtype is None or not _is_count(count) or int(count) < 1:
            raise FormatError(
                f"field {name!r}: no type of PCD: {kind} of size {size}, {count} times"
            )
        fields.append(PcdField(name, dtype, int(count)))
    if sum(field.num_values for field in fields) > _MOST_VALUES:
        raise FormatError(f"has more than {_MOST_VALUES} values a point")
    return tuple(fields)


def _parse_number(entries: dict[str, list[str]], key: str, default: int | None) -> int | None:
    if key not in entries:
        return default
    words = entries[key]
    if len(words) != 1 or not _is_count(words[0]):
        raise FormatError(f"expected a number as {key}, found {' '.join(words)!r}")
    return int(words[0])


def _is_count(word: str) -> bool:
    return len(word) <= 18 and word.isascii() and word.isdigit()


def _read_ascii(content: bytes, header: PcdHeader) -> list[PointArray]:
    columns = sum(field.num_values for field in header.fields)
    body = content[header.offset :].replace(b"\r\n", b"\n").replace(b"\r", b"\n").strip(b"\n \t")
    values = None
    if body and _NAN.search(body) is None:
        values = parse_floats(body + b"\n", columns)
    elif body:
        # NaN is what differs if it is replaced by different numbers.
        zeros, ones = (
            parse_floats(_NAN.sub(number, body) + b"\n", columns) for number in (b"0", b"1")
        )
        if zeros is not None and ones is not None:
            values = np.where(zeros == ones, zeros, np.nan)
    if values is None:
        lines = body.decode("ascii", errors="replace").split("\n")
        values = parse_lines(lines, Style(None, "."), header.num_lines + 1)
    if len(values) != header.num_points or (len(values) and values.shape[1] != columns):
        raise FormatError(
            f"holds {len(values)} lines of {values.shape[1]} numbers where its header promises "
            f"{header.num_points} points of {columns}"
        )
    arrays: list[PointArray] = []
    start = 0
    for field in header.fields:
        part = values.reshape(-1, columns)[:, start : start + field.num_values]
        arrays.append(restore_integers(part, field.dtype))
        start += field.num_values
    return arrays


def _read_binary(content: bytes, header: PcdHeader) -> list[PointArray]:
    size, found = header.num_points * header.point_bytes, len(content) - header.offset
    if found < size or content[header.offset + size :].strip(b"\0 \t\r\n"):  # but for padding
        raise FormatError(
            f"its header promises {header.num_points} points of {header.point_bytes} bytes, {size} "
            f"in all, and {found} follow: the file is cut short or its counts are wrong"
        )
    arrays: list[PointArray] = []
    start = header.offset
    for field in header.fields:
        arrays.append(
            np.ndarray(
                (header.num_points, field.num_values),
                field.dtype,
                content,
                offset=start,
                strides=(header.point_bytes, field.dtype.itemsize),
            )
            if header.num_points
            else np.empty((0, field.num_values), field.dtype)
        )
        start += field.dtype.itemsize * field.num_values
    return arrays


def _read_compressed(content: bytes, header: PcdHeader) -> list[PointArray]:
    require_modules("lzf", extra="clouds", purpose="Reading compressed PCD")
    import lzf

    size, data = header.num_points * header.point_bytes, content[header.offset + 8 :]
    if len(content) < header.offset + 8:
        raise FormatError("the file ends before its compressed data")
    compressed, unpacked = struct.unpack_from("<II", content, header.offset)
    if compressed > len(data) or unpacked != size or size > _LZF_RATIO * compressed:
        raise FormatError(
            f"its header promises {header.num_points} points of {header.point_bytes} bytes, {size} "
            f"in all, and its data {unpacked} bytes from {compressed}, of which {len(data)} "
            "follow: the file is cut short or its counts are wrong"
        )
    try:
        plain = lzf.decompress(data[:compressed], size) if size else b""
    except ValueError as error:
        raise FormatError(f"its compressed data are damaged ({error})") from error
    if plain is None or len(plain) != size:
        raise FormatError("its compressed data are damaged: they unpack to another size")
    arrays: list[PointArray] = []
    start = 0
    for field in header.fields:  # one after the other, each of all points
        count = header.num_points * field.num_values
        values = np.frombuffer(plain, field.dtype, count, start)
        arrays.append(values.reshape(header.num_points, field.num_values))
        start += count * field.dtype.itemsize
    return arrays


def _unpack_colors(values: PointArray, field: PcdField) -> NDArray[np.uint8]:
    """Return (N, 3) of colors packed as 0x00RRGGBB, an integer or the bits of a float32."""
    if field.dtype.kind == "f":
        bits = values.astype("<f4").view("<u4")
    else:
        bits = (values.astype(np.int64) & 0xFFFFFFFF).astype("<u4")
    return np.stack([(bits >> shift) & 0xFF for shift in (16, 8, 0)], axis=1).astype(np.uint8)


def _leave_out_gaps(path: Path, fields: dict[str, PointArray]) -> dict[str, PointArray]:
    """Return the fields of the points that have coordinates, and warn of the others."""
    finite = np.array(True)
    for name, values in fields.items():
        if name.lower() in ("x", "y", "z") and values.ndim == 1:
            finite = finite & np.isfinite(values.astype(np.float64))
    gaps = np.count_nonzero(~finite)
    if not gaps:
        return fields
    if gaps == finite.size:
        raise FormatError(f"none of its {gaps:,} points has finite coordinates")
    warnings.warn(
        f"{path}: left out {gaps:,} of {finite.size:,} points, whose coordinates are not finite",
        stacklevel=2,
    )
    return {name: values[finite] for name, values in fields.items()}
