"""Lines of numbers as people write them: what separates them, and decimal commas.

Nothing is guessed that could be read in two ways: an empty field, commas that may be decimal ones
or separators, a character that is no part of a number are errors that name the line.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from itertools import takewhile
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sharedmlp.data.io.base import FormatError
from sharedmlp.data.io.number_table import parse_floats
from sharedmlp.data.io.text import shorten

_NUMBER = re.compile(
    r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf|infinity)", re.I | re.A
)
_WITHOUT_SEPARATOR = re.compile(r"[^\s,][ \t]+[^\s,]")
_COMMA_AT_BLANK = re.compile(r",[ \t]|[ \t],")
_COMMA_INSIDE = re.compile(r"\d,[+-]?[\d.]")
_THOUSANDS = re.compile(r"\d,\d{3}\.\d")
_LEADING_ZERO = re.compile(r"^(?:.*,)?[+-]?0\d", re.M)
# One line of S3DIS (Area_5, hallway_6) has such a character.
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")


class Style(NamedTuple):
    """How a text separates its numbers.

    Attributes:
        separator: "," or ";" or a tab, between which every field has to be filled; None for blanks
            of any length.
        decimal: What separates the digits of a fraction, "." or ",".
    """

    separator: str | None
    decimal: str


def detect_style(text: str) -> Style:
    """Return how a text of numbers separates them.

    Raises:
        FormatError: If its commas can be read in two ways.
    """
    if ";" in text:
        if "," in text and "." in text:
            raise FormatError("has commas and points in its numbers: expected one of them")
        return Style(";", "," if "," in text else ".")
    if "," not in text:
        tabs = "\t" in text and not re.search(r"[^\s] +[^\s]", text)
        return Style("\t" if tabs else None, ".")
    any_blank = " " in text or "\t" in text
    blanks = any_blank and _WITHOUT_SEPARATOR.search(text) is not None
    at_blank = any_blank and _COMMA_AT_BLANK.search(text) is not None
    inside = _COMMA_INSIDE.search(text) is not None
    if "." in text:
        if inside and (blanks or (at_blank and _THOUSANDS.search(text))):
            raise FormatError(
                "has commas inside of numbers and points too, as in 1,234.5: leave the commas out"
            )
        return _between(blanks)
    if at_blank and inside:
        raise FormatError(
            "has commas inside of numbers and between them: write decimal points, or separate the "
            "numbers by semicolons"
        )
    if blanks and inside and not re.search(r",[^\s]*,", text):
        return Style(None, ",")
    if not blanks and not at_blank and _LEADING_ZERO.search(text):
        raise FormatError(
            "seems to have commas both as decimal commas and between its numbers, as in 0,05,1,5: "
            "write decimal points, or separate the numbers by semicolons"
        )
    return _between(blanks)


def _between(blanks: bool) -> Style:
    """Return the style of commas between numbers; between some there may be blanks alone."""
    return Style(", " if blanks else ",", ".")


def split_line(line: str, style: Style) -> list[str]:
    """Return the fields of a line without blanks and quotes around them, empty ones included."""
    if style.separator is None:
        return line.split()
    if style.separator == ", ":
        return re.split(r"[ \t]*,[ \t]*|[ \t]+", line.strip())
    return [field.strip().strip('"') for field in line.split(style.separator)]


def parse_lines(lines: Sequence[str], style: Style, first_line: int) -> NDArray[np.float64]:
    """Parse lines of numbers.

    Args:
        lines: The lines, among which blank ones are left out.
        style: What separates the numbers.
        first_line: The number of the first line, for errors.

    Returns:
        (lines that are not blank, numbers a line); empty fields at the end of all lines are left
        out.

    Raises:
        FormatError: If lines have different counts of numbers, or a field is empty or no number.
    """
    filled = [line for line in lines if line and not line.isspace()]
    if not filled:
        return np.empty((0, 3))
    columns = len(split_line(filled[0], style))
    values = _parse_plain(filled, style, columns)
    return _parse_each(lines, style, first_line) if values is None else values


def _parse_plain(lines: list[str], style: Style, columns: int) -> NDArray[np.float64] | None:
    """Parse lines by array operations; None if there is anything unusual in them."""
    text = "\n".join(lines) + "\n"
    if not text.isascii() or style.separator == ", ":
        return None
    separator = style.separator
    if separator is not None:
        if text.count(separator) != (columns - 1) * len(lines):
            return None
        tight = text.replace(" ", "")
        if any(pair in tight for pair in (separator * 2, separator + "\n", "\n" + separator)):
            return None
    if style.decimal == ",":
        text = text.replace(",", ".")
    if separator is not None:
        text = text.replace(separator, " ")
    return parse_floats(text.encode(), columns)


def _parse_each(lines: Sequence[str], style: Style, first_line: int) -> NDArray[np.float64]:
    """Parse any lines one by one, to find the words for what is wrong."""
    rows: list[list[str]] = []
    numbers: list[int] = []
    for number, line in enumerate(lines, first_line):
        if line and not line.isspace():
            rows.append(split_line(line, style))
            numbers.append(number)
    # A separator at the end of every line, or several, is the program's that wrote it.
    empty = min(sum(1 for _ in takewhile(operator.not_, reversed(row))) for row in rows)
    rows = [row[: len(row) - empty] for row in rows]
    columns = len(rows[0])
    values = np.empty((len(rows), columns))
    for row, (number, fields) in enumerate(zip(numbers, rows, strict=True)):
        for field in fields:
            control = _CONTROL.search(field)
            if control:
                raise FormatError(
                    f"holds no array of numbers: line {number} has the control character "
                    f"0x{ord(control[0]):02x} inside of {shorten(field)}; correct the line"
                )
        if len(fields) != columns:
            raise FormatError(
                f"holds no array of numbers: line {number} has {len(fields)} where line "
                f"{numbers[0]} has {columns}"
            )
        for column, field in enumerate(fields):
            text = field.replace(",", ".") if style.decimal == "," else field
            if not _NUMBER.fullmatch(text):
                what = f"{shorten(field)}, which is no number" if field else "an empty field"
                raise FormatError(
                    f"holds no array of numbers: line {number} has {what}, in column {column + 1}"
                )
            values[row, column] = float(text)
    return values
