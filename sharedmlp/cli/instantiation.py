"""What is wrong with the value of an argument, in the words of the class that it was for."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from sharedmlp.data import DataError


@contextmanager
def explain_errors() -> Iterator[None]:
    """Raise the ValueError of a class's constructor as an error of one line.

    jsonargparse raises another one in its place, about all types that the value is not of, with the
    first one as its context.

    Raises:
        DataError: If a constructor raised a ValueError.
    """
    try:
        yield
    except ValueError as error:
        cause: BaseException | None = error
        while cause is not None and _is_of_the_parser(cause):
            cause = cause.__cause__ or cause.__context__
        if not isinstance(cause, ValueError):
            raise
        raise DataError(" ".join(str(cause).split())) from error


def _is_of_the_parser(error: BaseException) -> bool:
    """Return whether jsonargparse itself raised an error."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).startswith("jsonargparse")
