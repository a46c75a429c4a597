"""Check the text of an OFF file before a parser that trusts it sees it.

Parsers of OFF believe the header: a wrong count turns a face line into a vertex, a truncated
file into a smaller mesh, and nobody is told. Here the text is held against its own header, line
by line, and every finding names its line.
"""

import re
from typing import NamedTuple

import numpy as np

_KEYWORD = re.compile(r"(?:(?:ST)?C?N?OFF|off)(?![A-Za-z])")
_COUNT = re.compile(r"\d{1,18}")
# What Microsoft's C runtime prints for NaN and infinity. Its '#' would be taken for a comment.
_MSVC_NOT_A_NUMBER = re.compile(r"[^#]*\d\.#(?:IND|INF|QNAN|SNAN)")
# A face may end in a colour: a colour-map index, RGB or RGBA.
_COLOR_LENGTHS = (0, 1, 3, 4)


class OffError(ValueError):
    """The text is no sound OFF file; the message says why and at which line."""


class OffText(NamedTuple):
    r"""The checked text of an OFF file.

    Attributes:
        text: the same mesh in the plainest form: no comments, no blank lines, `\\n` line ends,
            the header alone on two lines.
        num_vertices: vertices in the text.
        num_triangles: triangles that its faces make when every polygon is cut into a fan.
    """

    text: str
    num_vertices: int
    num_triangles: int


class _Line(NamedTuple):
    number: int  # counted from 1 in the file itself
    text: str


def check_off(content: bytes) -> OffText:
    """Hold the content of an OFF file against its own header.

    Read are the keyword on a line of its own, before the counts or glued to them
    (`OFF490 518 0`, as in ModelNet), `COFF`, `NOFF` and `STOFF`, comments, blank lines, any line
    ends, a byte order mark, polygons of any size and face colours.

    Args:
        content: the bytes of the file.

    Returns:
        The text in plain form, which holds exactly what was checked.

    Raises:
        OffError: where the content is empty or binary, a count in the header does not fit the
            lines that follow, a vertex is not finite, a face is cut short, refers to a vertex
            that is not there or has fewer than three corners, or there is no face at all.
    """
    lines = _content_lines(content)
    counts, records = _split_header(lines)
    num_vertices, num_faces = _read_counts(counts)
    # Before anything is made of the counts: a header that claims 10**12 vertices ends here.
    if num_vertices + num_faces != len(records):
        last = f"the last one is line {records[-1].number}" if records else "the file ends there"
        raise OffError(
            f"line {counts.number}: the header promises {num_vertices} vertices and {num_faces} "
            f"faces, a line each, but {len(records)} lines follow it ({last}): the counts are "
            "wrong, the file is cut short, or several records share a line"
        )
    if num_faces == 0:
        raise OffError(f"line {counts.number}: the header promises no faces, nothing to sample")
    _check_vertices(records[:num_vertices])
    num_triangles = _check_faces(records[num_vertices:], num_vertices)
    text = "\n".join(["OFF", f"{num_vertices} {num_faces} 0", *(line.text for line in records)])
    return OffText(text, num_vertices, num_triangles)


def _content_lines(content: bytes) -> list[_Line]:
    """The lines that say something, stripped of comments, with their numbers in the file."""
    position = content.find(b"\0")
    if position >= 0:
        raise OffError(
            f"byte {position} is NUL: the file is binary or UTF-16, expected OFF as plain text"
        )
    # Whatever is not ASCII may stand in a comment; anywhere else it fails as a number.
    text = content.removeprefix(b"\xef\xbb\xbf").decode("ascii", errors="replace")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if "#" in text:
        for number, line in enumerate(lines, start=1):
            if _MSVC_NOT_A_NUMBER.match(line):
                raise OffError(f"line {number}: not a finite number: {line.strip()!r}")
        lines = [line.partition("#")[0] for line in lines]
    kept = [
        _Line(number, stripped)
        for number, line in enumerate(lines, start=1)
        if (stripped := line.strip())
    ]
    if not kept:
        raise OffError("the file is empty")
    return kept


def _split_header(lines: list[_Line]) -> tuple[_Line, list[_Line]]:
    """The line of the counts, without the keyword, and the lines after it."""
    first = lines[0]
    keyword = _KEYWORD.match(first.text)
    if keyword is None:
        raise OffError(
            f"line {first.number}: expected the keyword OFF (or COFF, NOFF, STOFF), "
            f"found {_shorten(first.text)}"
        )
    rest = first.text[keyword.end() :].strip()
    if rest:
        return _Line(first.number, rest), lines[1:]
    if len(lines) == 1:
        raise OffError(f"line {first.number}: the file ends before the vertex and face counts")
    return lines[1], lines[2:]


def _read_counts(counts: _Line) -> tuple[int, int]:
    tokens = counts.text.split()
    if len(tokens) not in (2, 3) or not all(_COUNT.fullmatch(token) for token in tokens):
        raise OffError(
            f"line {counts.number}: expected the counts of vertices, faces and edges, "
            f"found {_shorten(counts.text)}"
        )
    return int(tokens[0]), int(tokens[1])


def _check_vertices(records: list[_Line]) -> None:
    if not records:
        raise OffError("the header promises no vertices")
    rows = [line.text.split() for line in records]
    width = len(rows[0])
    if width < 3 or set(map(len, rows)) != {width}:
        for line, row in zip(records, rows, strict=True):
            if len(row) < 3 or len(row) != width:
                raise OffError(
                    f"line {line.number}: a vertex needs x, y and z, and as many values as the "
                    f"first vertex ({width}); found {_shorten(line.text)}: the values are cut "
                    "short or the vertex count in the header is wrong"
                )
    try:
        finite = np.isfinite(np.array(rows, dtype=np.float64))
    except ValueError:
        finite = np.array([[_is_finite(token) for token in row] for row in rows])
    if not finite.all():
        line = records[int(np.argmin(finite.all(axis=1)))]
        raise OffError(f"line {line.number}: not a finite number: {_shorten(line.text)}")


def _check_faces(records: list[_Line], num_vertices: int) -> int:
    """Check every face; returns the number of triangles they make."""
    corners: list[str] = []
    sizes: list[int] = []
    for line in records:
        row = line.text.split()
        size = int(row[0]) if _COUNT.fullmatch(row[0]) else -1
        if size < 3:
            raise OffError(
                f"line {line.number}: a face starts with its number of corners, 3 or more; "
                f"found {_shorten(line.text)}"
            )
        if len(row) - 1 - size not in _COLOR_LENGTHS:
            raise OffError(
                f"line {line.number}: a face of {size} corners, and no colour or 1, 3 or 4 "
                f"values of colour, expected; found {len(row) - 1} values after the first: "
                f"{_shorten(line.text)}"
            )
        corners += row[1 : size + 1]
        sizes.append(size)
    owners = np.repeat(np.arange(len(records)), sizes)
    try:
        indices = np.array(corners, dtype=np.int64)
    except (ValueError, OverflowError):
        bad = [not _COUNT.fullmatch(corner) for corner in corners]
        line = records[int(owners[int(np.argmax(bad))])]
        raise OffError(
            f"line {line.number}: the corners of a face are whole numbers; "
            f"found {_shorten(line.text)}"
        ) from None
    outside = (indices < 0) | (indices >= num_vertices)
    if outside.any():
        position = int(np.argmax(outside))
        line = records[int(owners[position])]
        raise OffError(
            f"line {line.number}: a face refers to vertex {corners[position]}, but the vertices "
            f"are numbered 0 to {num_vertices - 1}"
        )
    return int(np.sum(sizes)) - 2 * len(sizes)


def _is_finite(token: str) -> bool:
    try:
        return bool(np.isfinite(float(token)))
    except ValueError:
        return False


def _shorten(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
