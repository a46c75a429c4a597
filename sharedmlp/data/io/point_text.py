"""Text with one point a line: CSV, TXT, XYZ, ASC, PTS."""

from __future__ import annotations

import re
from pathlib import Path

from sharedmlp.data.io.base import FormatError, PointArray, PointCloud
from sharedmlp.data.io.columns import points_by_row
from sharedmlp.data.io.fields import canonical_name, cloud_from_fields, has_coordinates
from sharedmlp.data.io.text import convert_to_utf8, shorten
from sharedmlp.data.io.text_table import Style, detect_style, parse_lines, split_line

_COMMENT = re.compile(r"\s*(#|//|%|!)")
_INTEGER = re.compile(r"\s*\d{1,18}\s*", re.A)
_NUMBER_FIRST = re.compile(r"[\s,;\"]*[+-]?(\.?\d|nan\b|inf)", re.I | re.A)
# More columns than this a line are taken for the points of an array (3, N).
_MOST_COLUMNS = 12
_PTS_COLUMNS = {
    4: ("x", "y", "z", "intensity"),
    7: ("x", "y", "z", "intensity", "r", "g", "b"),
}


def read_text(path: Path, content: bytes) -> PointCloud | PointArray:
    """Read one point a line, `x y z` and maybe more, separated by blanks, commas or semicolons.

    UTF-8, UTF-16 or, in comments, Latin-1. Comments begin with `#`, `//`, `%` or `!`. The first
    line, or the last comment before the numbers, may name the columns; a line may say how many
    points follow. Decimal commas are read if the numbers are separated by anything else.

    Raises:
        FormatError: If it is no text, a line has something else or another count of numbers, or
            what separates them can be read in two ways.
    """
    lines = _decode(content).split("\n")
    start, names_line, count = _read_header(lines)
    body = lines[start:]
    text = "\n".join(body)
    if any(mark in text for mark in "#/%!"):
        body = [re.split(r"#|//|^\s*[%!]", line, maxsplit=1)[0] for line in body]
        text = "\n".join(body)
    style = detect_style(text)
    values = parse_lines(body, style, start + 1)
    if count is not None and count != len(values):
        raise FormatError(
            f"holds no array of numbers: it promises {count} points before the first one, and "
            f"{len(values)} follow"
        )
    if names_line is not None:
        names = _split_names(names_line, style, values.shape[1])
        if len(names) == values.shape[1] and has_coordinates(names):
            known = [canonical_name(name) for name in names]
            twice = [name for name in "xyz" if known.count(name) > 1]
            if twice:
                raise FormatError(f"has {known.count(twice[0])} columns named {twice[0]}")
            return cloud_from_fields(dict(zip(names, values.T, strict=True)))
        if not _COMMENT.match(names_line):
            if not len(values):
                raise FormatError(
                    f"holds no array of numbers: no line begins with one, the first line is "
                    f"{shorten(names_line)}"
                )
            raise FormatError(
                f"holds no array of numbers: {shorten(names_line)} stands before lines of "
                f"{values.shape[1]} numbers, and "
                + (
                    f"names {len(names)} columns"
                    if has_coordinates(names)
                    else "names no columns x, y, z for them"
                )
            )
    return points_by_row(values) if values.shape[1] > _MOST_COLUMNS else values


def read_pts(path: Path, content: bytes) -> PointCloud | PointArray:
    """Read text as `read_text` does; without names, `x y z intensity r g b` is this format's."""
    cloud = read_text(path, content)
    if not isinstance(cloud, PointCloud) and cloud.ndim == 2 and cloud.shape[1] in _PTS_COLUMNS:
        names = _PTS_COLUMNS[cloud.shape[1]]
        return cloud_from_fields(dict(zip(names, cloud.T, strict=True)))
    return cloud


def _decode(content: bytes) -> str:
    r"""Return the text of a file in any Unicode encoding, else Latin-1; lines end in `\n`.

    Raises:
        FormatError: If it is binary.
    """
    content = convert_to_utf8(content)
    if b"\0" in content:
        raise FormatError("holds no array of numbers: it is binary, no text")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _read_header(lines: list[str]) -> tuple[int, str | None, int | None]:
    """Return where the numbers begin, the line that may name the columns, and a count of points."""
    names_line, count = None, None
    for number, line in enumerate(lines):
        if not line or line.isspace():
            continue
        if _COMMENT.match(line):
            if names_line is None or _COMMENT.match(names_line):
                names_line = line
        elif count is None and _INTEGER.fullmatch(line) and _is_count(lines[number + 1 :]):
            count = int(line)
        elif _NUMBER_FIRST.match(line) or not (names_line is None or _COMMENT.match(names_line)):
            return number, names_line, count
        else:
            names_line = line
    return len(lines), names_line, count


def _is_count(lines: list[str]) -> bool:
    """Return whether lines after a single integer have more than one number each."""
    following = next((line for line in lines if line.strip() and not _COMMENT.match(line)), "")
    return len(re.split(r"[\s,;]+", following.strip())) > 1


def _split_names(line: str, style: Style, columns: int) -> tuple[str, ...]:
    """Return the names of the columns; they may be separated in another way than the numbers."""
    text = _COMMENT.sub("", line, count=1) if _COMMENT.match(line) else line
    strict = tuple(split_line(text.strip(" \n"), style))
    while len(strict) > columns and not strict[-1]:
        strict = strict[:-1]
    if len(strict) == columns:
        return strict
    return tuple(name for name in re.split(r"[\s,;]+", text.strip()) if name)
