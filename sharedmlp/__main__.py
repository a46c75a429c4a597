"""Entry point of ``sharedmlp`` and ``python -m sharedmlp``."""

from __future__ import annotations

import sys


def main(args: list[str] | None = None) -> None:
    """Runs the command line, or says in one line which extra it needs.

    Args:
        args: Arguments; those of the process where None.
    """
    try:
        from sharedmlp.cli import main as run
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.split(".")[0] == "sharedmlp":
            raise
        sys.exit(f"sharedmlp: {error}; the command line needs: pip install 'sharedmlp[train]'")
    run(args)


if __name__ == "__main__":
    main()
