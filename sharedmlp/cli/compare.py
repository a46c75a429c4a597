"""`sharedmlp compare`: what trainings reached, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sharedmlp.cli.arguments import CommandParser
from sharedmlp.reports.run_comparison import format_comparison, read_validation


def run(args: Sequence[str]) -> None:
    """Print a table of accuracies, and draw learning curves: `sharedmlp compare RUN RUN ...`.

    Args:
        args: The arguments after `compare`.
    """
    parser = CommandParser(
        "compare",
        description="Compare trainings: a table of test and best validation accuracies, and the "
        "validation accuracy after each epoch as a picture. Of several runs in one group the mean, "
        "the smallest and the largest value are printed.",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="the folder of a run, such as runs/quickstart/version_0; NAME=RUN,RUN,... compares a "
        "group of runs under a name",
    )
    parser.add_argument("--picture", type=Path, help="a PNG file for the validation curves")
    options = parser.parse_args(args)
    groups: dict[str, list[Path]] = {}
    for text in options.runs:
        name, equals, folders = text.partition("=")
        if name in groups:
            parser.error(f"{name} is there twice: put its runs into one group, {name}=RUN,RUN")
        groups[name] = [Path(folder) for folder in (folders.split(",") if equals else [name])]
    print(format_comparison(groups))
    if options.picture:
        from sharedmlp.viz import plot_runs, save_figure

        curves = {name: [read_validation(run) for run in runs] for name, runs in groups.items()}
        figure = plot_runs(curves, "overall accuracy on validation clouds")
        save_figure(figure, options.picture)
        print(f"picture  {options.picture}")
