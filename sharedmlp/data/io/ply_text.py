"""The body of PLY files of text: a line for each record."""

from __future__ import annotations

from typing import Any

import numpy as np

from sharedmlp.data.io.base import FormatError
from sharedmlp.data.io.number_table import parse_floats, parse_integers
from sharedmlp.data.io.ply_header import PlyElement, PlyHeader
from sharedmlp.data.io.ply_table import PlyLists, PlyTable, cut_short, describe_counts
from sharedmlp.data.io.text import shorten


def read_ply_text(content: bytes, header: PlyHeader) -> dict[str, PlyTable]:
    """Read all elements of a text; arguments, result and errors as of `read_ply_body`."""
    body = content[header.offset :]
    if b"\r" in body:
        body = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    all_lines = body.split(b"\n")
    numbers = [number for number, line in enumerate(all_lines, 1) if line.strip()]
    lines = [all_lines[number - 1] for number in numbers]
    tables, start = {}, 0
    for element in header.elements:
        if not element.properties:
            tables[element.name] = PlyTable()
            continue
        stop = start + element.count
        if stop > len(lines):
            raise cut_short(element, len(lines) - start)
        try:
            tables[element.name] = _parse_records(lines[start:stop], element)
        except _LineError as error:
            line = header.num_lines + numbers[start + error.index]
            raise FormatError(
                f"line {line}: expected {_describe(element)}, found "
                f"{shorten(lines[start + error.index].decode('ascii', errors='replace').strip())}"
            ) from None
        start = stop
    if start < len(lines):
        raise FormatError(
            f"line {header.num_lines + numbers[start]}: the last record that the header promises "
            f"({describe_counts(header)}) stands before it: the counts are wrong"
        )
    return tables


class _LineError(ValueError):
    """Raised for a line that is no record."""

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.index = index


def _describe(element: PlyElement) -> str:
    parts = [
        f"a list {part.name} (its length first)" if part.size_dtype else part.name
        for part in element.properties
    ]
    return f"the numbers {', '.join(parts)} of one {element.name}"


def _parse_records(lines: list[bytes], element: PlyElement) -> PlyTable:
    properties = element.properties
    text = b"\n".join(lines) + b"\n" if lines else b""
    if not any(part.size_dtype for part in properties):
        table = parse_floats(text, columns=len(properties))
        if table is None:  # not plain, or no lines
            table = np.array(_parse_lines(lines, element), dtype=np.float64)
            table = table.reshape(len(lines), len(properties))
        return {part.name: table[:, place] for place, part in enumerate(properties)}
    if len(properties) == 1 and lines and not properties[0].dtype.startswith("f"):
        first = lines[0].split()
        plain = parse_integers(text, columns=len(first))
        if plain is not None and (plain[:, 0] == len(first) - 1).all():
            return {
                properties[0].name: PlyLists(plain[:, 0].copy(), plain[:, 1:].reshape(-1)),
            }
    return _columns_of(_parse_lines(lines, element), element)


def _parse_lines(lines: list[bytes], element: PlyElement) -> list[list[Any]]:
    """Return of every record its properties: numbers and lists of numbers."""
    parts = [
        (part.size_dtype is not None, float if part.dtype.startswith("f") else _integer)
        for part in element.properties
    ]
    records = []
    for index, line in enumerate(lines):
        tokens = line.split()
        record: list[Any] = []
        place = 0
        try:
            if b"_" in line:  # Python reads 1_0 as 10
                raise ValueError
            for is_list, parse in parts:
                if is_list:
                    size = int(tokens[place])
                    values = tokens[place + 1 : place + 1 + size]
                    if size < 0 or len(values) != size:
                        raise ValueError
                    record.append([parse(value) for value in values])
                    place += 1 + size
                else:
                    record.append(float(tokens[place]))
                    place += 1
        except (ValueError, IndexError):
            raise _LineError(index) from None
        if place != len(tokens):
            raise _LineError(index)
        records.append(record)
    return records


def _integer(token: bytes) -> int:
    value = int(token)
    if not -(1 << 63) <= value < 1 << 63:
        raise ValueError(token)
    return value


def _columns_of(records: list[list[Any]], element: PlyElement) -> PlyTable:
    columns: PlyTable = {}
    for place, part in enumerate(element.properties):
        column = [record[place] for record in records]
        if part.size_dtype is None:
            columns[part.name] = np.array(column, dtype=np.float64)
            continue
        dtype = np.float64 if part.dtype.startswith("f") else np.int64
        sizes = np.array([len(values) for values in column], dtype=np.int64)
        flat = [value for values in column for value in values]
        columns[part.name] = PlyLists(sizes, np.array(flat, dtype=dtype))
    return columns
