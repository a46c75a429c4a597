"""A check of numeric arguments."""

from __future__ import annotations

import math


def check_range(low: float, high: float = math.inf, /, **values: float) -> None:
    """Check that arguments lie in a range.

    Args:
        low: The smallest value that is allowed.
        high: The largest one.
        **values: The arguments by name.

    Raises:
        ValueError: If one is outside, or NaN.
    """
    for name, value in values.items():
        if not low <= value <= high:
            expected = f"at least {low}" if high == math.inf else f"from {low} to {high}"
            raise ValueError(f"{name} is {expected}, got {value}")
