"""How the command line says that something is wrong: in one line, with an exit status.

The status is 2 if the command itself is wrong (a command, an option, a value, a file of settings)
and 1 if what it names cannot be used or something fails on the way (data, checkpoints, disks).
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn, TextIO


class UsageError(Exception):
    """Raised when a command cannot be run as it was typed; the message says what to do."""


def exit_usage(message: object) -> NoReturn:
    """Print an error of usage and exit with status 2."""
    print(f"sharedmlp: error: {one_line(message)}", file=sys.stderr)
    sys.exit(2)


def one_line(message: object) -> str:
    """Return a text without line breaks."""
    return " ".join(str(message).split())


@contextmanager
def one_line_warnings() -> Iterator[None]:
    """Print warnings as one line each, without the place in the code that they come from."""
    with warnings.catch_warnings():
        # Not `formatwarning`, which Lightning replaces by its own as it is imported.
        warnings.showwarning = _show_warning
        yield


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print(f"warning: {one_line(message)}", file=file or sys.stderr)
