"""The body of PLY files, held against the header: every element as columns."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharedmlp.data.io.base import FormatError
from sharedmlp.data.io.ply_header import PlyElement, PlyHeader
from sharedmlp.data.io.ply_table import PlyLists, PlyTable, cut_short, describe_counts
from sharedmlp.data.io.ply_text import read_ply_text

_STRUCT_CODES = {"i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I"}
_STRUCT_CODES |= {"i8": "q", "u8": "Q"}


def read_ply_body(content: bytes, header: PlyHeader) -> dict[str, PlyTable]:
    """Read all elements of a PLY file.

    Args:
        content: The bytes that `parse_ply_header` saw.
        header: What it returned.

    Returns:
        The tables of the elements by their names. Columns have the type that the header names, in
        text float64 or, lists of integers, int64.

    Raises:
        FormatError: If the body holds less or more than the header promises, or, in text, anything
            but numbers. Nothing is allocated for what the file does not hold.
    """
    if header.format == "ascii":
        return read_ply_text(content, header)
    order = "<" if header.format == "binary_little_endian" else ">"
    tables, position = {}, header.offset
    for element in header.elements:
        if any(part.size_dtype for part in element.properties):
            tables[element.name], position = _read_lists(content, position, element, order)
        else:
            tables[element.name], position = _read_records(content, position, element, order)
    rest = content[position:]
    if rest.strip(b"\0 \t\r\n"):  # padding is no record
        raise FormatError(
            f"{len(rest)} bytes follow the last record that the header promises "
            f"({describe_counts(header)}): its counts or types are wrong"
        )
    return tables


def _read_records(
    content: bytes, position: int, element: PlyElement, order: str
) -> tuple[PlyTable, int]:
    """Read binary records of one size."""
    dtype = np.dtype([(part.name, order + part.dtype) for part in element.properties])
    found = len(content) - position
    if element.count * dtype.itemsize > found:
        raise cut_short(element, found // dtype.itemsize)
    if dtype.itemsize == 0:
        return {}, position
    records = np.frombuffer(content, dtype, element.count, position)
    columns: PlyTable = {name: records[name] for name in dtype.names or ()}
    return columns, position + records.nbytes


def _read_lists(
    content: bytes, position: int, element: PlyElement, order: str
) -> tuple[PlyTable, int]:
    """Read binary records with lists: by array if all are as the first one, else one by one."""
    if element.count == 0:
        empty = np.zeros(0, dtype=np.int64)
        return {
            part.name: PlyLists(empty, empty.astype(part.dtype))
            if part.size_dtype
            else empty.astype(part.dtype)
            for part in element.properties
        }, position
    alike = _read_lists_alike(content, position, element, order)
    if alike is not None:
        return alike
    # Arrays, not lists: a file of empty lists has as many records as bytes.
    starts = [array("q") for _ in element.properties]
    sizes = [array("q") for _ in element.properties]
    walk = _walker(content, element, order)
    for record in range(element.count):
        try:
            position = walk(position, starts, sizes)
        except struct.error:
            raise cut_short(element, record) from None
        if position > len(content):
            raise cut_short(element, record)
    columns: PlyTable = {}
    for part, start, size in zip(element.properties, starts, sizes, strict=True):
        dtype = np.dtype(order + part.dtype)
        lengths = np.array(size, dtype=np.int64)
        values = _gather(content, np.array(start, dtype=np.int64), lengths, dtype)
        columns[part.name] = PlyLists(lengths, values) if part.size_dtype else values
    return columns, position


def _walker(
    content: bytes, element: PlyElement, order: str
) -> Callable[[int, list[array[int]], list[array[int]]], int]:
    """Return a function that notes where a record's values are, and returns where it ends."""
    parts = []
    for number, part in enumerate(element.properties):
        reader = struct.Struct(order + _STRUCT_CODES[part.size_dtype]) if part.size_dtype else None
        parts.append((number, reader, np.dtype(part.dtype).itemsize))

    def walk(position: int, starts: list[array[int]], sizes: list[array[int]]) -> int:
        for number, reader, item_size in parts:
            size = 1
            if reader is not None:
                (size,) = reader.unpack_from(content, position)
                position += reader.size
                if size < 0:
                    raise FormatError(
                        f"record {len(sizes[number])} (from 0) of {element.name!r} has a list of "
                        f"{size} values"
                    )
            starts[number].append(position)
            sizes[number].append(size)
            position += size * item_size
        return position

    return walk


def _read_lists_alike(
    content: bytes, position: int, element: PlyElement, order: str
) -> tuple[PlyTable, int] | None:
    """Read records whose lists have the lengths of the first record's; None for any other."""
    starts = [array("q") for _ in element.properties]
    sizes = [array("q") for _ in element.properties]
    try:
        end = _walker(content, element, order)(position, starts, sizes)
    except struct.error:
        return None
    # Also before NumPy makes a type of it, whose size has 32 bits.
    if position + (end - position) * element.count > len(content):
        return None
    fields: list[Any] = []
    for number, (part, (size,)) in enumerate(zip(element.properties, sizes, strict=True)):
        if part.size_dtype:
            fields.append((f"size {number}", order + part.size_dtype))
        fields.append((f"value {number}", order + part.dtype, (size,)))
    records = np.frombuffer(content, np.dtype(fields), element.count, position)
    columns: PlyTable = {}
    for number, (part, (size,)) in enumerate(zip(element.properties, sizes, strict=True)):
        values = records[f"value {number}"].reshape(-1)
        if part.size_dtype is None:
            columns[part.name] = values
            continue
        if (records[f"size {number}"] != size).any():
            return None
        columns[part.name] = PlyLists(np.full(element.count, size, dtype=np.int64), values)
    return columns, end + (end - position) * (element.count - 1)


def _gather(
    content: bytes, starts: NDArray[np.int64], sizes: NDArray[np.int64], dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Return the values of lists at any bytes, one list after the other."""
    data = np.frombuffer(content, dtype=np.uint8)
    ends = np.cumsum(sizes)
    offsets = np.arange(ends[-1]) - np.repeat(ends - sizes, sizes)  # within its list
    firsts = np.repeat(starts, sizes) + offsets * dtype.itemsize
    result: NDArray[Any] = data[firsts[:, None] + np.arange(dtype.itemsize)].view(dtype)
    return result.reshape(-1)
