"""OFF files, held against their own header.

Parsers of OFF believe the header: a wrong count turns a face line into a vertex, a truncated
file into a smaller mesh, and nobody is told. Here the text is held against its own header, line
by line, and every finding names its line.
"""

import math
import re
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sharedmlp.data.io.base import FormatError, MeshArrays
from sharedmlp.data.io.plain_off import read_plain_off
from sharedmlp.data.io.polygons import cut_into_triangles
from sharedmlp.data.io.text import decode_ascii, shorten

_KEYWORD = re.compile(r"(?:(?:ST)?C?N?OFF|off)(?![A-Za-z])")
_COUNT = re.compile(r"\d{1,18}")
# What Microsoft's C runtime prints for NaN and infinity. Its '#' would be taken for a comment.
_MSVC_NOT_A_NUMBER = re.compile(r"[^#]*\d\.#(?:IND|INF|QNAN|SNAN)")
_OTHER_LINE_ENDS = re.compile("[\x0b\x0c\x1c-\x1e]")
# A face may end in a color: a color-map index, RGB or RGBA.
_COLOR_LENGTHS = (0, 1, 3, 4)


class _Lines(NamedTuple):
    # Two lists, not one of pairs: a hundred thousand tuples keep the garbage collector busy for
    # longer than all the checks take.
    numbers: list[int]  # counted from 1 in the file itself
    texts: list[str]

    def part(self, start: int, stop: int | None = None) -> "_Lines":
        return _Lines(self.numbers[start:stop], self.texts[start:stop])


def read_off(path: Path, content: bytes) -> MeshArrays:
    """Read a mesh, by array if it is in plain form, else line by line.

    Read are the keyword on a line of its own, before the counts or glued to them
    (`OFF490 518 0`, as in ModelNet), `COFF`, `NOFF` and `STOFF`, comments, blank lines, any line
    ends, any Unicode encoding, polygons of any size and face colors.

    Args:
        path: The file; not opened again.
        content: Its bytes.

    Raises:
        FormatError: If the content is empty or binary, a count in the header does not fit the
            lines that follow, a vertex is not finite, a face is cut short, refers to a vertex
            that is missing or has fewer than three corners, or there is no face at all.
    """
    plain = read_plain_off(content)
    if plain is not None:
        return plain
    (line, counts), records = _split_header(_content_lines(content))
    num_vertices, num_faces = _read_counts(line, counts)
    # Before anything is made of the counts: a header that claims 10**12 vertices ends here.
    num_records = len(records.texts)
    if num_vertices + num_faces != num_records:
        last = f"the last one is line {records.numbers[-1]}" if num_records else "the file ends"
        raise FormatError(
            f"line {line}: the header promises {num_vertices} vertices and {num_faces} faces, a "
            f"line each, but {num_records} lines follow it ({last}): the counts are wrong, the "
            "file is cut short, or several records share a line"
        )
    if num_vertices > 0 and num_faces == 0:
        _read_vertices(records)
        raise FormatError(f"a point cloud: {num_vertices:,} points and no faces, expected a mesh")
    if num_vertices == 0:
        raise FormatError(
            f"line {line}: the header promises {num_vertices} vertices and {num_faces} faces, "
            "nothing to sample"
        )
    vertices = _read_vertices(records.part(0, num_vertices))
    sizes, corners = _read_faces(records.part(num_vertices), num_vertices)
    return MeshArrays(vertices, cut_into_triangles(vertices, sizes, corners))


def _content_lines(content: bytes) -> _Lines:
    """Return the lines that say something, stripped of comments, with their numbers."""
    # Form feeds and their like are blanks to str.split.
    text = _OTHER_LINE_ENDS.sub(" ", decode_ascii(content, "OFF"))
    lines = text.split("\n")
    if "#" in text:
        for number, line in enumerate(lines, start=1):
            if _MSVC_NOT_A_NUMBER.match(line):
                raise FormatError(f"line {number}: not a finite number: {line.strip()!r}")
        lines = [line.partition("#")[0] for line in lines]
    lines = [line.strip() for line in lines]
    numbers = [number for number, line in enumerate(lines, start=1) if line]
    if not numbers:
        raise FormatError("the file is empty")
    return _Lines(numbers, [line for line in lines if line])


def _split_header(lines: _Lines) -> tuple[tuple[int, str], _Lines]:
    """Return the number and the text of the line of counts, and the lines after it."""
    number, first = lines.numbers[0], lines.texts[0]
    keyword = _KEYWORD.match(first)
    if keyword is None:
        raise FormatError(
            f"line {number}: expected the keyword OFF (or COFF, NOFF, STOFF), "
            f"found {shorten(first)}"
        )
    rest = first[keyword.end() :].strip()
    if rest:
        return (number, rest), lines.part(1)
    if len(lines.texts) == 1:
        raise FormatError(f"line {number}: the file ends before the vertex and face counts")
    return (lines.numbers[1], lines.texts[1]), lines.part(2)


def _read_counts(number: int, counts: str) -> tuple[int, int]:
    tokens = counts.split()
    if len(tokens) not in (2, 3) or not all(_COUNT.fullmatch(token) for token in tokens):
        raise FormatError(
            f"line {number}: expected the counts of vertices, faces and edges, "
            f"found {shorten(counts)}"
        )
    return int(tokens[0]), int(tokens[1])


def _read_vertices(records: _Lines) -> NDArray[np.float64]:
    _refuse_underscores(records)
    rows = [line.split() for line in records.texts]
    width = len(rows[0])
    if width < 3 or set(map(len, rows)) != {width}:
        bad = next(i for i, row in enumerate(rows) if len(row) < 3 or len(row) != width)
        raise FormatError(
            f"line {records.numbers[bad]}: expected a vertex, x, y and z and as many values as "
            f"the first one ({width}), found {shorten(records.texts[bad])}: it is cut short or "
            "the vertex count in the header is wrong"
        )
    if width == 4:
        raise FormatError(
            f"line {records.numbers[0]}: expected a vertex, x, y and z, alone or with a normal (3 "
            "values), a color (3 or 4) or a texture coordinate (2), found "
            f"{shorten(records.texts[0])}"
        )
    try:
        values = np.array(list(map(float, chain.from_iterable(rows)))).reshape(-1, width)
    except ValueError:
        values = None
    if values is None or not np.isfinite(values).all():
        bad = next(i for i, row in enumerate(rows) if not all(map(_is_finite, row)))
        raise FormatError(
            f"line {records.numbers[bad]}: not a finite number: {shorten(records.texts[bad])}"
        )
    return np.ascontiguousarray(values[:, :3])


def _read_faces(records: _Lines, num_vertices: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (F,) numbers of corners, and the corners of all faces."""
    _refuse_underscores(records)
    sizes: list[int] = []
    all_corners: list[int] = []
    for number, line in zip(records.numbers, records.texts, strict=True):
        try:
            size, *values = line.split()
            corners = list(map(int, values[: int(size)]))
            complete = len(corners) == int(size) >= 3
        except ValueError:
            complete = False
        if not complete:
            raise FormatError(
                f"line {number}: expected a face, the number of its corners, 3 or more, and as "
                f"many vertex numbers; found {shorten(line)}"
            )
        color = values[len(corners) :]
        if len(color) not in _COLOR_LENGTHS or not all(map(_is_finite, color)):
            raise FormatError(
                f"line {number}: after the {len(corners)} corners of a face, expected nothing or "
                f"a color of 1, 3 or 4 numbers; found {shorten(line)}"
            )
        if min(corners) < 0 or max(corners) >= num_vertices:
            worst = min(corners) if min(corners) < 0 else max(corners)
            raise FormatError(
                f"line {number}: a face refers to vertex {worst}, but the vertices are numbered "
                f"0 to {num_vertices - 1}"
            )
        sizes.append(len(corners))
        all_corners += corners
    return np.array(sizes), np.array(all_corners)


def _refuse_underscores(records: _Lines) -> None:
    """Refuse `1_0`, which Python and NumPy read as 10; in a mesh file it is a slip."""
    for number, line in zip(records.numbers, records.texts, strict=True):
        if "_" in line:
            raise FormatError(f"line {number}: not a number: {shorten(line)}")


def _is_finite(token: str) -> bool:
    try:
        return math.isfinite(float(token))
    except ValueError:
        return False
