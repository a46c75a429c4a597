"""Entry point of ``sharedmlp`` and ``python -m sharedmlp``."""

from __future__ import annotations

import signal
import sys


def main(args: list[str] | None = None) -> None:
    """Runs the command line, or says in one line which extra it needs.

    An interrupted command exits with 128 and the number of the signal, 130 for Ctrl-C.

    Args:
        args: Arguments; those of the process where None.
    """
    try:
        try:
            from sharedmlp.cli.lightning import main as run
        except ModuleNotFoundError as error:
            if error.name is not None and error.name.split(".")[0] == "sharedmlp":
                raise
            sys.exit(f"sharedmlp: {error}; the command line needs: pip install 'sharedmlp[train]'")
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
