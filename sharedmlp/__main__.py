"""Entry point of `sharedmlp` and `python -m sharedmlp`."""

from __future__ import annotations

import signal
import sys

from sharedmlp.cli.main import main as run


def main(args: list[str] | None = None) -> None:
    """Run the command line.

    An interrupted command exits with 128 plus the number of the signal, 130 for Ctrl-C.

    Args:
        args: The arguments; those of the process by default.
    """
    try:
        run(args)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except SystemExit as error:
        interrupt = error.__context__
        if isinstance(interrupt, KeyboardInterrupt):  # Lightning's answer to it is an exit with 1
            sys.exit(128 + getattr(interrupt, "signum", signal.SIGINT))
        raise


if __name__ == "__main__":
    main()
