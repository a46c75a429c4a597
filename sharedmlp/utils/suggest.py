"""What somebody may have meant by a name that is unknown."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, candidates: Iterable[str], prefix: str = "") -> str:
    """Return "; did you mean NAME?", to be put after an error message.

    Args:
        name: What was given.
        candidates: The names that exist.
        prefix: Printed before the candidate, such as "--".

    Returns:
        An empty string if no candidate is similar.
    """
    by_spelling = {_plain(candidate): candidate for candidate in candidates}
    close = get_close_matches(_plain(name), by_spelling, n=1, cutoff=0.6)
    return f"; did you mean {prefix}{by_spelling[close[0]]}?" if close else ""


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")
