"""The header of PLY files."""

import re
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeAlias, get_args

from sharedmlp.data.io.base import FormatError
from sharedmlp.data.io.text import shorten

PlyFormat: TypeAlias = Literal["ascii", "binary_little_endian", "binary_big_endian"]

# NumPy's code of each type, without the order of its bytes.
_TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"},
    **{"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"},
    **{"float": "f4", "double": "f8", "float32": "f4", "float64": "f8"},
    **{"int64": "i8", "uint64": "u8", "long": "i8", "ulong": "u8"},
}
_COUNT = re.compile(r"\d{1,18}")
# No header has more; a file of other lines ends the search.
_MOST_HEADER_BYTES = 1 << 20


class PlyProperty(NamedTuple):
    """A property of an element.

    Attributes:
        name: As in the header.
        dtype: NumPy's code of a value or of a value in the list, as `f4`, without byte order.
        size_dtype: That of the list's length; None for a single value.
    """

    name: str
    dtype: str
    size_dtype: str | None = None


@dataclass(frozen=True)
class PlyElement:
    """An element: `count` records of the same properties."""

    name: str
    count: int
    properties: tuple[PlyProperty, ...]


class PlyHeader(NamedTuple):
    """The header of a PLY file.

    Attributes:
        format: Of the body.
        elements: In the order of the body.
        offset: The byte where the body begins, after the line end of `end_header`.
        num_lines: The lines of the header, for messages that name a line.
    """

    format: PlyFormat
    elements: tuple[PlyElement, ...]
    offset: int
    num_lines: int


def parse_ply_header(content: bytes) -> PlyHeader:
    r"""Read the header of a PLY file.

    Args:
        content: The bytes of the file, of text in UTF-16 after `convert_to_utf8`. Lines end in
            `\n`, `\r\n` or `\r`, as the first one does.

    Raises:
        FormatError: If it is no header of PLY 1.0; the message names the line.
    """
    start = re.match(rb"ply[ \t]*(\r\n|\n|\r)", content)
    if not content.strip():
        raise FormatError("the file is empty")
    if start is None:
        raise FormatError(f"line 1: expected 'ply', found {shorten(_first_line(content))}")
    line_end, position, number = start[1], start.end(), 1
    file_format: PlyFormat | None = None
    elements: list[PlyElement] = []
    names: set[str] = set()
    while True:
        number += 1
        stop = content.find(line_end, position, _MOST_HEADER_BYTES)
        if stop < 0:
            raise FormatError(f"the header does not end: no line 'end_header' up to line {number}")
        line = content[position:stop].decode("ascii", errors="replace").strip()
        position = stop + len(line_end)
        words = line.split()
        if line == "end_header":
            break
        match words:
            case [] | ["comment" | "obj_info", *_]:
                pass
            case ["format", name, _] if name in get_args(PlyFormat):
                file_format = name  # type: ignore[assignment]  # one of its values
            case ["element", name, count] if _COUNT.fullmatch(count) and name not in names:
                elements.append(PlyElement(name, int(count), ()))
                names.add(name)
            case ["property", *rest] if elements and (new := _parse_property(rest)) is not None:
                last = elements[-1]
                if any(new.name == old.name for old in last.properties):
                    raise FormatError(f"line {number}: a second property {new.name!r}")
                elements[-1] = replace(last, properties=(*last.properties, new))
            case _:
                raise FormatError(
                    f"line {number}: expected 'format', 'element NAME COUNT', 'property TYPE NAME' "
                    f"or 'end_header' of PLY, found {shorten(line)}"
                )
    if file_format is None:
        raise FormatError("the header has no line 'format'")
    return PlyHeader(file_format, tuple(elements), position, number)


def _parse_property(words: list[str]) -> PlyProperty | None:
    match words:
        case ["list", size, value, name] if size in _TYPES and value in _TYPES:
            code = _TYPES[size]
            return None if code.startswith("f") else PlyProperty(name, _TYPES[value], code)
        case [value, name] if value in _TYPES:
            return PlyProperty(name, _TYPES[value])
    return None


def _first_line(content: bytes) -> str:
    return re.split(rb"[\r\n]", content[:200], maxsplit=1)[0].decode("ascii", errors="replace")
