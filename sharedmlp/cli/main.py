"""`sharedmlp COMMAND ...`: finds the command and runs it, importing nothing of the others."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

# Each command, its module in this package, and what `sharedmlp --help` says of it.
COMMANDS = {
    "fit": ("lightning", "train a network, or resume a training (--ckpt_path)"),
    "validate": (
        "lightning",
        "measure a checkpoint on the validation clouds",
    ),
    "test": ("lightning", "measure a checkpoint on the test split"),
    "predict": ("predict", "classify files; with --config or --data, the test split of that data"),
    "prepare": ("prepare", "check and sample the files of a data set, or fetch ModelNet"),
    "export": ("export", "write the network of a checkpoint for other programs"),
    "show": ("show", "draw what a network looks at"),
}
# With one of these `predict` is about the clouds of a data module, else about files.
_LIGHTNING_OPTIONS = ("-c", "--config", "--data", "--model", "--trainer", "--print_config")


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        args: The arguments; those of the process by default.
    """
    given = list(sys.argv[1:] if args is None else args)
    if not given or given[0] in ("-h", "--help"):
        print(_format_help())
        sys.exit(0 if given else 2)
    # Options before the command are Lightning's.
    if given[0] not in COMMANDS and not given[0].startswith("-"):
        print(
            f"sharedmlp: error: unknown command {given[0]!r}: choose one of {', '.join(COMMANDS)}",
            file=sys.stderr,
        )
        sys.exit(2)
    name, _ = COMMANDS.get(given[0], ("lightning", ""))
    if given[0] == "predict" and any(arg.startswith(_LIGHTNING_OPTIONS) for arg in given):
        name = "lightning"
    try:
        command = import_module(f"sharedmlp.cli.{name}")
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.split(".")[0] == "sharedmlp":
            raise
        sys.exit(f"sharedmlp: {error}; the command line needs: pip install 'sharedmlp[train]'")
    try:
        command.run(given if name == "lightning" else given[1:])
    except Exception as error:
        if not _is_explained(error):
            raise
        sys.exit(f"sharedmlp: error: {error}")


def _format_help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: sharedmlp COMMAND ...",
            "",
            "Train, test and use networks on point clouds.",
            "",
            "commands:",
            *lines,
            "",
            "`sharedmlp COMMAND --help` describes a command.",
        ]
    )


def _is_explained(error: Exception) -> bool:
    """Return whether the message of an error is enough for a user.

    Something named is missing or unusable, a disk is full, a training has diverged, or an optional
    package is not installed and the message names the extra.
    """
    if isinstance(error, ImportError):
        return "sharedmlp[" in str(error)
    if isinstance(error, (OSError, FloatingPointError)):
        return True
    from sharedmlp.data import DataError
    from sharedmlp.export import ExportError
    from sharedmlp.reports.prediction_table import PredictionTableError

    return isinstance(error, (DataError, ExportError, PredictionTableError))
