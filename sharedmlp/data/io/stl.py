"""STL files, binary and text: triangles with three vertices of their own each."""

import math
import re
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sharedmlp.data.io.base import FormatError, MeshArrays
from sharedmlp.data.io.number_table import parse_floats
from sharedmlp.data.io.text import convert_to_utf8, decode_ascii, shorten

_HEADER_BYTES = 84  # whatever, and the count
_FACET = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
# Programs that write as they go leave 0 or anything in the place of the count.
_ABSURD_RATIO = 1000
# What follows the triangles may be more of them if it is not farther away than so many sizes.
_NEAR = 10.0
_BLANK = b"\0 \t\r\n"

_STATEMENT = re.compile(r"^[ \t]*(solid|endsolid)\b[^\n]*$", re.MULTILINE | re.IGNORECASE)
# The words of a facet in text by their places; the other places are numbers.
_WORDS = {0: "facet", 1: "normal", 5: "outer", 6: "loop", 7: "vertex", 11: "vertex", 15: "vertex"}
_WORDS |= {19: "endloop", 20: "endfacet"}
_NUM_TOKENS = 21
_COORDINATES = (8, 9, 10, 12, 13, 14, 16, 17, 18)


def read_stl(path: Path, content: bytes) -> MeshArrays:
    """Read an STL file, text or binary, whatever its header begins with.

    Raises:
        FormatError: If a binary file is shorter than its count says, or longer by what might be
            triangles; if text is not solids of facets of three vertices each, or is cut short; if
            there is no facet.
    """
    if not content.strip():
        raise FormatError("the file is empty")
    text = convert_to_utf8(content)
    # Text has no NUL, and in a binary file the count has one, below 16 million triangles.
    is_text = text[:1024].lstrip()[:5].lower() == b"solid" and b"\0" not in text
    corners = _read_text(text) if is_text else _read_binary(content)
    if len(corners) == 0:
        raise FormatError("there are no faces: the file is an empty solid")
    with np.errstate(invalid="ignore"):  # signaling NaNs: refused with every mesh
        vertices = corners.reshape(-1, 3).astype(np.float64)
    return MeshArrays(vertices, np.arange(len(vertices)).reshape(-1, 3))


def _read_binary(content: bytes) -> NDArray[np.floating]:
    """Return the corners (F, 3, 3) of one solid, or of several one after another."""
    if len(content) < _HEADER_BYTES:
        raise FormatError(
            f"the file has {len(content)} bytes: expected 'solid' and text, or {_HEADER_BYTES} "
            "bytes and 50 for each triangle"
        )
    found, rest = divmod(len(content) - _HEADER_BYTES, _FACET.itemsize)
    count = _read_count(content, 0)
    if (count == 0 or count > _ABSURD_RATIO * found) and rest == 0:
        count = found
    if count > found or (count == 0 and found > 0):
        raise FormatError(
            f"no text that begins with 'solid', and as binary STL its header promises {count} "
            f"triangles of 50 bytes, but {len(content) - _HEADER_BYTES} bytes follow it: the file "
            "is cut short, its count is wrong, or it is no STL"
        )
    corners = _facets(content, 0, count)
    tail = content[_HEADER_BYTES + corners.shape[0] * _FACET.itemsize :]
    if len(tail) < _FACET.itemsize or not tail.strip(_BLANK):
        return corners
    further = _read_chain(tail)
    if further:
        return np.concatenate([corners, *further])
    if _are_near(np.frombuffer(tail, _FACET, len(tail) // _FACET.itemsize)["corners"], corners):
        raise FormatError(
            f"the header promises {count} triangles, but {found} follow it: its count is wrong"
        )
    return corners


def _read_count(content: bytes, position: int) -> int:
    count: int
    (count,) = struct.unpack_from("<I", content, position + _HEADER_BYTES - 4)
    return count


def _facets(content: bytes, position: int, count: int) -> NDArray[np.floating]:
    corners: NDArray[np.floating] = np.frombuffer(content, _FACET, count, position + _HEADER_BYTES)[
        "corners"
    ]
    return corners


def _read_chain(content: bytes) -> list[NDArray[np.floating]]:
    """Return further solids if the content is nothing but whole ones, else nothing."""
    parts: list[NDArray[np.floating]] = []
    position = 0
    while len(content) - position >= _HEADER_BYTES:
        count = _read_count(content, position)
        if _HEADER_BYTES + count * _FACET.itemsize > len(content) - position or count == 0:
            return []
        parts.append(_facets(content, position, count))
        position += _HEADER_BYTES + count * _FACET.itemsize
    return [] if content[position:].strip(_BLANK) else parts


def _are_near(others: NDArray[np.floating], corners: NDArray[np.floating]) -> bool:
    """Return whether all of the other corners are finite and about where the corners are."""
    if len(corners) == 0:
        return True
    low, high = corners.min(axis=(0, 1)), corners.max(axis=(0, 1))
    size = float(np.linalg.norm(high.astype(np.float64) - low))
    with np.errstate(all="ignore"):
        near = (others >= low - _NEAR * size) & (others <= high + _NEAR * size)
    return bool(near.all())


def _read_text(content: bytes) -> NDArray[np.floating]:
    """Return the corners (F, 3, 3) of all solids of a text."""
    text = decode_ascii(content, "STL")
    parts = []
    begin = 0
    is_open = False
    for statement in _STATEMENT.finditer(text):
        opens = statement[1].lower() == "solid"
        between = text[begin : statement.start()]
        if opens == is_open or (opens and between.strip()):
            line = text.count("\n", 0, statement.start()) + 1
            expected = "'endsolid' before it" if opens else "'solid' before it"
            raise FormatError(f"line {line}: expected {expected}, found {shorten(statement[0])}")
        if is_open:
            parts.append(_read_facets(between, text.count("\n", 0, begin) + 1))
        begin, is_open = statement.end(), opens
    if is_open or text[begin:].strip():
        raise FormatError("the text does not end with 'endsolid': the file is cut short")
    return np.concatenate(parts) if parts else np.empty((0, 3, 3))


def _read_facets(text: str, first_line: int) -> NDArray[np.floating]:
    """Return the corners of the facets of a solid, whose first line is given for messages."""
    tokens = text.lower().split()
    count, rest = divmod(len(tokens), _NUM_TOKENS)
    right = [tokens[place::_NUM_TOKENS].count(word) for place, word in _WORDS.items()]
    if rest or any(number != count for number in right):
        raise _bad_facet(tokens, first_line)
    lines = zip(*(tokens[place::_NUM_TOKENS] for place in _COORDINATES), strict=True)
    numbers = parse_floats(("\n".join(map(" ".join, lines)) + "\n").encode("utf-8"), columns=9)
    if numbers is None and count:
        numbers = np.array(
            [_parse_facet(tokens, facet, first_line) for facet in range(count)], dtype=np.float64
        )
    return np.empty((0, 3, 3)) if numbers is None else numbers.reshape(-1, 3, 3)


def _parse_facet(tokens: list[str], facet: int, first_line: int) -> list[float]:
    words = [tokens[facet * _NUM_TOKENS + place] for place in _COORDINATES]
    try:
        numbers = [float(word) for word in words if "_" not in word]
    except ValueError:
        numbers = []
    if len(numbers) != len(words) or not all(map(math.isfinite, numbers)):
        raise FormatError(
            f"facet {facet} (from 0) of the solid in line {first_line}: expected finite numbers, "
            f"found {shorten(' '.join(words))}"
        )
    return numbers


def _bad_facet(tokens: list[str], first_line: int) -> FormatError:
    place = next(
        (
            place
            for place in range(len(tokens))
            if _WORDS.get(place % _NUM_TOKENS, tokens[place]) != tokens[place]
        ),
        len(tokens),
    )
    facet = place // _NUM_TOKENS
    found = shorten(" ".join(tokens[max(place - 2, 0) : place + 6])) if place < len(tokens) else ""
    return FormatError(
        f"facet {facet} (from 0) of the solid in line {first_line}: expected 'facet normal', "
        "'outer loop', three times 'vertex' and its numbers, 'endloop' and 'endfacet', "
        + (f"found {found}" if found else "but it is cut short")
    )
