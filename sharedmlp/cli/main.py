"""`sharedmlp COMMAND ...`: finds the command and runs it, importing nothing of the others."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

import sharedmlp
from sharedmlp.cli.errors import UsageError, exit_usage, one_line, one_line_warnings
from sharedmlp.utils.suggest import did_you_mean

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
    "compare": ("compare", "compare trainings: a table of accuracies and a plot of their curves"),
    "benchmark": ("benchmark", "measure speed and memory of a network's variants side by side"),
}
# With one of these `predict` is about the clouds of a data module, else about files.
_LIGHTNING_OPTIONS = ("-c", "--config", "--data", "--model", "--trainer", "--print_config")


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        args: The arguments; those of the process by default.
    """
    given = list(sys.argv[1:] if args is None else args)
    if given[:1] == ["--version"]:
        print(f"sharedmlp {sharedmlp.__version__}")
        return
    if not given or given[0] in ("-h", "--help"):
        print(_format_help())
        sys.exit(0 if given else 2)
    # Options before the command are Lightning's: a configuration of several commands.
    if given[0] not in COMMANDS and given[0].partition("=")[0] not in ("-c", "--config"):
        what = "option" if given[0].startswith("-") else "command"
        known = ["--help", "--version"] if what == "option" else list(COMMANDS)
        exit_usage(
            f"unknown {what} {given[0]!r}: choose one of {', '.join(known)}"
            + did_you_mean(given[0], known)
        )
    with one_line_warnings():
        _run(given)


def _run(given: Sequence[str]) -> None:
    name, _ = COMMANDS.get(given[0], ("lightning", ""))
    if given[0] == "predict" and any(arg.startswith(_LIGHTNING_OPTIONS) for arg in given):
        name = "lightning"
    if name == "lightning" and _asks_for_help(given):
        name = "fit_help"
    try:
        command = import_module(f"sharedmlp.cli.{name}")
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.split(".")[0] == "sharedmlp":
            raise
        sys.exit(
            f"sharedmlp: error: {error}; the command line needs: pip install 'sharedmlp[train]'"
        )
    try:
        command.run(given if name in ("lightning", "fit_help") else given[1:])
    except UsageError as error:
        exit_usage(error)
    except Exception as error:
        if not _is_explained(error):
            raise
        sys.exit(f"sharedmlp: error: {one_line(error)}")


def _asks_for_help(given: Sequence[str]) -> bool:
    """Return whether the short help is wanted; `--help all` is Lightning's."""
    places = [place for place, arg in enumerate(given) if arg in ("-h", "--help")]
    return bool(places) and given[places[0] + 1 : places[0] + 2] != ["all"]


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
            "`sharedmlp COMMAND --help` describes a command; `--version` prints the version.",
        ]
    )


def _is_explained(error: Exception) -> bool:
    """Return whether the message of an error is enough for a user.

    Something named is missing or unusable, a disk is full, a training has diverged, or an optional
    package is not installed and the message says how to install it.
    """
    if isinstance(error, ImportError):
        return "pip install" in str(error)
    if isinstance(error, (OSError, FloatingPointError)):
        return True
    from sharedmlp.data import DataError
    from sharedmlp.export import ExportError
    from sharedmlp.reports.prediction_table import PredictionTableError

    return isinstance(error, (DataError, ExportError, PredictionTableError))
