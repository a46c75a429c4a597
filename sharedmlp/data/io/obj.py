r"""OBJ files: the vertices and faces of the text, held against each other line by line.

Relative corners count from the vertices read so far, so every face keeps that number. Materials,
texture coordinates, normals and groups are not read.
"""

from __future__ import annotations

import math
import re
from array import array
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sharedmlp.data.io.base import FormatError, MeshArrays
from sharedmlp.data.io.number_table import parse_floats, parse_integers
from sharedmlp.data.io.polygons import cut_into_triangles
from sharedmlp.data.io.text import decode_ascii, shorten

_KEYWORD = re.compile(r"[A-Za-z_][\w.\-:]*")
# x, y, z, then nothing, a weight, a color (3 or 4 values) or both.
_VERTEX_WIDTHS = (3, 4, 6, 7)
_CORNER = re.compile(r"([+-]?\d{1,18})(?:/[+-]?\d*){0,2}")
# What is left of a corner without its digits: nothing, or the slashes of its references.
_WITHOUT_DIGITS = str.maketrans("", "", "0123456789-")
_SIGN_WITHIN = re.compile(r"[\d-]-")
_REFERENCES = re.compile(r"/[^ \t\n]*")
# Characters that Python takes for line ends or blanks.
_OTHER_BLANKS = re.compile("[\x0b\x0c\x1c-\x1f]")


class _Records(NamedTuple):
    """The lines of one keyword: their texts without it, their numbers in the file."""

    texts: list[str]
    numbers: array[int]


class _ObjText(NamedTuple):
    """The lines that say something about the surface.

    Attributes:
        vertices: Lines `v`.
        faces: Lines `f`.
        vertices_before: Of each face the number of vertices on the lines before it.
        others: How often each other keyword of geometry occurs.
    """

    vertices: _Records
    faces: _Records
    vertices_before: array[int]
    others: dict[str, int]


def read_obj(path: Path, content: bytes) -> MeshArrays:
    """Read all faces of an OBJ file.

    Read are tabs, indentation, comments after a record, lines that are continued with a backslash,
    any line ends, corners with references to texture coordinates and normals, relative corners,
    faces of any size. Lines of other keywords are left out.

    Raises:
        FormatError: If a line is no record, a number is not finite, a corner refers to a vertex
            that is missing, or there is no face; the message names the line.
    """
    lines = _sort_lines(decode_ascii(content, "OBJ"))
    num_vertices = len(lines.vertices.texts)
    if not lines.faces.texts:
        raise FormatError(_without_faces(num_vertices, lines.others))
    vertices = _read_vertices(lines.vertices)
    sizes, corners = _read_corners(lines.faces)
    before = np.repeat(np.frombuffer(lines.vertices_before, dtype=np.int64), sizes)
    positions = np.where(corners < 0, before + corners, corners - 1)
    wrong = (corners == 0) | (positions < 0) | (positions >= num_vertices)
    if wrong.any():
        place = int(np.argmax(wrong))
        face = int(np.searchsorted(np.cumsum(sizes), place, side="right"))
        relative = f" of {before[place]} so far" if corners[place] < 0 else ""
        raise FormatError(
            f"line {lines.faces.numbers[face]}: a face refers to vertex {corners[place]}{relative},"
            f" but the vertices are numbered 1 to {num_vertices}"
        )
    return MeshArrays(vertices, cut_into_triangles(vertices, sizes, positions))


def _sort_lines(text: str) -> _ObjText:
    text = _OTHER_BLANKS.sub(" ", text)
    vertices, faces = _Records([], array("q")), _Records([], array("q"))
    before = array("q")
    others: dict[str, int] = {}
    continued: list[str] = []
    first = 0  # where a continued line began
    for number, line in enumerate(text.split("\n"), start=1):
        if line.startswith(("v ", "f ")) and "#" not in line and "\\" not in line and not continued:
            keyword, rest, first = line[0], line[2:], number  # as nearly all lines are
        else:
            if not continued:
                first = number
            line = line.partition("#")[0].strip()
            if line.endswith("\\"):
                continued.append(line[:-1])
                continue
            keyword, *words = " ".join([*continued, line]).split(None, 1) or [""]
            rest = words[0] if words else ""
            continued = []
        if keyword == "v":
            vertices.texts.append(rest)
            vertices.numbers.append(first)
        elif keyword in ("f", "fo"):
            faces.texts.append(rest)
            faces.numbers.append(first)
            before.append(len(vertices.texts))
        elif not keyword:
            pass
        elif keyword in ("V", "F", "call") or not _KEYWORD.fullmatch(keyword):
            reason = (
                "another file would be read"
                if keyword == "call"
                else "expected a record of OBJ, such as 'v x y z' or 'f 1 2 3'"
            )
            raise FormatError(f"line {first}: {reason}, found {shorten(f'{keyword} {rest}')}")
        else:
            others[keyword] = others.get(keyword, 0) + 1
    if continued:
        raise FormatError(f"line {first}: the file ends in a line that should go on")
    return _ObjText(vertices, faces, before, others)


def _without_faces(num_vertices: int, others: dict[str, int]) -> str:
    if any(keyword in others for keyword in ("surf", "curv", "curv2")):
        return "holds free-form curves or surfaces and no faces, expected a mesh"
    if num_vertices == 0:
        return "there are no faces and no vertices: the file is empty or no OBJ"
    lines = f", {others['l']:,} lines" if "l" in others else ""
    return f"a point cloud: {num_vertices:,} points{lines} and no faces, expected a mesh"


def _read_vertices(records: _Records) -> NDArray[np.float64]:
    if not records.texts:
        return np.empty((0, 3))
    width = len(records.texts[0].split())
    if width in _VERTEX_WIDTHS:
        text = "\n".join(records.texts) + "\n"
        table = parse_floats(text.encode("ascii", errors="replace"), columns=width)
        if table is not None:
            return np.ascontiguousarray(table[:, :3])
    values = array("d")
    for number, line in zip(records.numbers, records.texts, strict=True):
        tokens = line.split()
        try:
            numbers = [float(token) for token in tokens]
        except ValueError:
            numbers = []
        if len(numbers) not in _VERTEX_WIDTHS or "_" in line:
            raise FormatError(
                f"line {number}: expected a vertex, x, y and z, alone or with a weight or a color, "
                f"found {shorten(line)}"
            )
        if not all(map(math.isfinite, numbers)):
            raise FormatError(f"line {number}: not a finite number: {shorten(line)}")
        values.extend(numbers[:3])
    return np.frombuffer(values).reshape(-1, 3)


def _read_corners(records: _Records) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (F,) sizes of the faces, and the corners of all as they are in the file."""
    plain = _read_plain_corners(records)
    if plain is not None:
        return plain
    sizes, corners = array("q"), array("q")
    for number, line in zip(records.numbers, records.texts, strict=True):
        matches = [_CORNER.fullmatch(token) for token in line.split()]
        if len(matches) < 3 or not all(matches):
            raise FormatError(
                f"line {number}: expected a face, 3 or more corners such as 1, 1/1, 1//1 or 1/1/1, "
                f"found {shorten(line)}"
            )
        sizes.append(len(matches))
        corners.extend(int(match[1]) for match in matches if match)
    return np.frombuffer(sizes, dtype=np.int64), np.frombuffer(corners, dtype=np.int64)


def _read_plain_corners(
    records: _Records,
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Read by array faces that all have as many corners as the first one; None for others."""
    size = len(records.texts[0].split())
    text = "\n".join(records.texts) + "\n"
    if "/" in text:
        if _SIGN_WITHIN.search(text) or not {"/", "//"}.issuperset(
            text.translate(_WITHOUT_DIGITS).split()
        ):
            return None
        text = _REFERENCES.sub("", text)
    table = parse_integers(text.encode("ascii", errors="replace"), columns=max(size, 1))
    if size < 3 or table is None:
        return None
    return np.full(len(table), size, dtype=np.int64), table.reshape(-1)
