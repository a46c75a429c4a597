"""What somebody may have meant who wrote a name that nobody knows."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ` (did you mean 'NAME'?)` if a known name is like this one, else an empty text."""
    (match,) = get_close_matches(name, list(known), n=1) or [None]
    return f" (did you mean {match!r}?)" if match else ""
