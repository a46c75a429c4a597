"""Check the text of an OFF file before a parser that trusts it sees it.

Parsers of OFF believe the header: a wrong count turns a face line into a vertex, a truncated
file into a smaller mesh, and nobody is told. Here the text is held against its own header, line
by line, and every finding names its line.
"""

import math
import re
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from sharedmlp.data.io.base import FormatError, MeshArrays, check_triangle_count
from sharedmlp.data.io.plain_off import read_plain_off
from sharedmlp.data.io.trimesh_reader import load_with_trimesh

_KEYWORD = re.compile(r"(?:(?:ST)?C?N?OFF|off)(?![A-Za-z])")
_COUNT = re.compile(r"\d{1,18}")
# What Microsoft's C runtime prints for NaN and infinity. Its '#' would be taken for a comment.
_MSVC_NOT_A_NUMBER = re.compile(r"[^#]*\d\.#(?:IND|INF|QNAN|SNAN)")
_OTHER_LINE_ENDS = re.compile("[\x0b\x0c\x1c-\x1e]")
# A face may end in a color: a color-map index, RGB or RGBA.
_COLOR_LENGTHS = (0, 1, 3, 4)


class OffText(NamedTuple):
    r"""The checked text of an OFF file.

    Attributes:
        text: The same mesh in the plainest form: no comments, no blank lines, `\\n` line ends,
            the header alone on two lines.
        num_triangles: Triangles that its faces make when every polygon is cut into a fan.
    """

    text: str
    num_triangles: int


class _Lines(NamedTuple):
    # Two lists, not one of pairs: a hundred thousand tuples keep the garbage collector busy for
    # longer than all the checks take.
    numbers: list[int]  # counted from 1 in the file itself
    texts: list[str]

    def part(self, start: int, stop: int | None = None) -> "_Lines":
        return _Lines(self.numbers[start:stop], self.texts[start:stop])


def read_off(path: Path, content: bytes) -> MeshArrays:
    """Read a mesh, by array if it is in plain form, else by trimesh once `check_off` has passed it.

    Raises:
        FormatError: As `check_off` does.
    """
    plain = read_plain_off(content)
    if plain is not None:
        return plain
    checked = check_off(content)
    mesh = load_with_trimesh(checked.text.encode(), ".off")
    return check_triangle_count(mesh, checked.num_triangles)


def check_off(content: bytes) -> OffText:
    """Hold the content of an OFF file against its own header.

    Read are the keyword on a line of its own, before the counts or glued to them
    (`OFF490 518 0`, as in ModelNet), `COFF`, `NOFF` and `STOFF`, comments, blank lines, any line
    ends, a byte order mark, polygons of any size and face colors.

    Args:
        content: The bytes of the file.

    Returns:
        The text in plain form, which holds exactly what was checked.

    Raises:
        FormatError: If the content is empty or binary, a count in the header does not fit the
            lines that follow, a vertex is not finite, a face is cut short, refers to a vertex
            that is missing or has fewer than three corners, or there is no face at all.
    """
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
    if num_vertices == 0 or num_faces == 0:
        raise FormatError(
            f"line {line}: the header promises {num_vertices} vertices and {num_faces} faces, "
            "nothing to sample"
        )
    _check_vertices(records.part(0, num_vertices))
    num_triangles = _check_faces(records.part(num_vertices), num_vertices)
    text = "\n".join(["OFF", f"{num_vertices} {num_faces} 0", *records.texts])
    return OffText(text, num_triangles)


def _content_lines(content: bytes) -> _Lines:
    """Return the lines that say something, stripped of comments, with their numbers."""
    position = content.find(b"\0")
    if position >= 0:
        raise FormatError(
            f"byte {position} is NUL: the file is binary or UTF-16, expected OFF as plain text"
        )
    # Whatever is not ASCII may stand in a comment; anywhere else it fails as a number.
    text = content.removeprefix(b"\xef\xbb\xbf").decode("ascii", errors="replace")
    # Form feeds and their like are line ends to str.splitlines, which trimesh uses.
    text = _OTHER_LINE_ENDS.sub(" ", text).replace("\r\n", "\n").replace("\r", "\n")
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
            f"found {_shorten(first)}"
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
            f"found {_shorten(counts)}"
        )
    return int(tokens[0]), int(tokens[1])


def _check_vertices(records: _Lines) -> None:
    _refuse_underscores(records)
    rows = [line.split() for line in records.texts]
    width = len(rows[0])
    if width < 3 or set(map(len, rows)) != {width}:
        bad = next(i for i, row in enumerate(rows) if len(row) < 3 or len(row) != width)
        raise FormatError(
            f"line {records.numbers[bad]}: expected a vertex, x, y and z and as many values as "
            f"the first one ({width}), found {_shorten(records.texts[bad])}: it is cut short or "
            "the vertex count in the header is wrong"
        )
    if width == 4:
        raise FormatError(
            f"line {records.numbers[0]}: expected a vertex, x, y and z, alone or with a normal (3 "
            "values), a color (3 or 4) or a texture coordinate (2), found "
            f"{_shorten(records.texts[0])}"
        )
    try:
        all_finite = all(map(math.isfinite, map(float, chain.from_iterable(rows))))
    except ValueError:
        all_finite = False
    if not all_finite:
        bad = next(i for i, row in enumerate(rows) if not all(map(_is_finite, row)))
        raise FormatError(
            f"line {records.numbers[bad]}: not a finite number: {_shorten(records.texts[bad])}"
        )


def _check_faces(records: _Lines, num_vertices: int) -> int:
    """Check every face; return the number of triangles that they make."""
    _refuse_underscores(records)
    num_triangles = 0
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
                f"many vertex numbers; found {_shorten(line)}"
            )
        color = values[len(corners) :]
        if len(color) not in _COLOR_LENGTHS or not all(map(_is_finite, color)):
            raise FormatError(
                f"line {number}: after the {len(corners)} corners of a face, expected nothing or "
                f"a color of 1, 3 or 4 numbers; found {_shorten(line)}"
            )
        if min(corners) < 0 or max(corners) >= num_vertices:
            worst = min(corners) if min(corners) < 0 else max(corners)
            raise FormatError(
                f"line {number}: a face refers to vertex {worst}, but the vertices are numbered "
                f"0 to {num_vertices - 1}"
            )
        num_triangles += len(corners) - 2
    return num_triangles


def _refuse_underscores(records: _Lines) -> None:
    """Refuse `1_0`, which Python and NumPy read as 10; in a mesh file it is a slip."""
    for number, line in zip(records.numbers, records.texts, strict=True):
        if "_" in line:
            raise FormatError(f"line {number}: not a number: {_shorten(line)}")


def _is_finite(token: str) -> bool:
    try:
        return math.isfinite(float(token))
    except ValueError:
        return False


def _shorten(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
