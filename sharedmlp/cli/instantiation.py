"""What is wrong with the value of an argument, in the words of the class that it was for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sharedmlp.data import DataError


@contextmanager
def explain_errors() -> Iterator[None]:
    """Raise the error of a class's constructor as one of a single line.

    jsonargparse raises another one, of all types that the value is not of, with the first one as
    its context.

    Raises:
        DataError: If a constructor of this package's classes raised a ValueError.
    """
    try:
        yield
    except ValueError as error:
        cause: BaseException = error
        while cause.__cause__ or cause.__context__:
            cause = cause.__cause__ or cause.__context__ or cause
            if isinstance(cause, DataError):
                break
        if isinstance(cause, ValueError):
            raise DataError(" ".join(str(cause).split())) from error
        raise
