"""Numbers in lines of equal length, parsed by array: the fast path of the text readers.

Parsers that go line by line spend their time in Python; NumPy's own reader of text is fast only
on integers, and reads on over a line that is too short. Here the layout is checked by array
operations first, and decimal numbers are read as integers and a power of ten.
"""

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

_CHARACTERS = b"0123456789+-.eE \t\n"
# Integers up to the first and powers of ten up to the second are exact in float64, so that their
# quotient is the float64 nearest to the decimal number, as it is when the text is parsed.
_LARGEST_INTEGER = 2**53
_POWERS_OF_TEN = np.array([float(f"1e{exponent}") for exponent in range(23)])


def parse_floats(text: bytes, columns: int) -> NDArray[np.float64] | None:
    """Parse lines of decimal numbers.

    Args:
        text: Numbers separated by blanks, every line ended by a newline.
        columns: The numbers that every line has to have.

    Returns:
        (lines, columns), each number rounded as `float` rounds it; None if a line has more or
        less, or anything is not a finite decimal number.
    """
    token_ends = _token_ends(text, columns)
    if token_ends is None:
        return None
    values = None
    if b"e" not in text and b"E" not in text:
        values = _parse_decimals(text, token_ends)
    if values is None:
        values = _parse(text, len(token_ends), np.float64)
    if values is None or not np.isfinite(values).all():
        return None
    return values.reshape(-1, columns)


def parse_integers(text: bytes, columns: int) -> NDArray[np.int64] | None:
    """Parse integers as `parse_floats` does floats; beyond 64 bits, the largest of their sign."""
    token_ends = _token_ends(text, columns)
    values = None if token_ends is None else _parse(text, len(token_ends), np.int64)
    return None if values is None else values.reshape(-1, columns)


def _token_ends(text: bytes, columns: int) -> NDArray[np.int64] | None:
    """Return where each number ends; None if a line has another count of them, or without lines."""
    if not text.endswith(b"\n") or text.translate(None, _CHARACTERS):
        return None
    characters = np.frombuffer(text, dtype=np.uint8)
    blank = characters <= ord(" ")
    line_ends = np.flatnonzero(characters == ord("\n"))
    token_ends = np.flatnonzero(blank[1:] > blank[:-1])
    if len(token_ends) != columns * len(line_ends):
        return None
    lines = token_ends.reshape(len(line_ends), columns)
    if (lines[:, -1] > line_ends).any() or (lines[1:, 0] < line_ends[:-1]).any():
        return None
    # A sign alone would be a zero to the parser, and one after a point would move before it.
    signs = np.flatnonzero((characters == ord("+")) | (characters == ord("-")))
    before, after = characters[signs[signs > 0] - 1], signs + 1
    starts = (before <= ord(" ")) | (before == ord("e")) | (before == ord("E"))
    after = after + (characters[after] == ord("."))
    goes_on = (characters[after] >= ord("0")) & (characters[after] <= ord("9"))
    return token_ends if starts.all() and goes_on.all() else None


def _parse_decimals(text: bytes, token_ends: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """Parse numbers of few digits and no exponent: 1.25 is 125 / 10**2, and integers parse fast."""
    points = np.flatnonzero(np.frombuffer(text, dtype=np.uint8) == ord("."))
    tokens = np.searchsorted(token_ends, points)
    if (np.diff(tokens) == 0).any():  # two points in a number
        return None
    decimals = np.zeros(len(token_ends), dtype=np.int64)
    decimals[tokens] = token_ends[tokens] - points
    integers = _parse(text.replace(b".", b""), len(token_ends), np.int64)
    if (
        integers is None
        or max(int(integers.max()), -int(integers.min())) > _LARGEST_INTEGER
        or decimals.max() >= len(_POWERS_OF_TEN)
    ):
        return None
    values: NDArray[np.float64] = integers / _POWERS_OF_TEN[decimals]
    return values


def _parse(text: bytes, count: int, dtype: type[np.generic]) -> NDArray[Any] | None:
    """Parse numbers separated by blanks; None if there are more or less, or anything else."""
    with warnings.catch_warnings():
        # NumPy's parser stops at what is no number, and says so in a warning or an error.
        warnings.simplefilter("error", DeprecationWarning)
        try:
            values = np.fromstring(text, dtype=dtype, sep=" ")
        except (DeprecationWarning, ValueError):
            return None
    return values if len(values) == count else None
