"""Compare training runs by group: a table of test and validation accuracies, and their curves.

python scripts/compare_runs.py "fused=runs/a/version_0,runs/a/version_1" conv1d=runs/b/version_0
"""

import argparse
import csv
import json
from pathlib import Path
from statistics import mean

from sharedmlp.viz import plot_runs, save_figure

ACCURACIES = ("overall_accuracy", "mean_class_accuracy")


def read_validation(run: Path) -> list[float]:
    """Return the overall accuracy on the validation clouds after each epoch of a run."""
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [float(row["val/overall_accuracy"]) for row in rows if row.get("val/overall_accuracy")]


def read_test(run: Path) -> list[float]:
    """Return what the test of a run's best checkpoint gave; nothing if it was not tested."""
    path = run / "test_metrics.json"
    if not path.is_file():
        return []
    metrics = json.loads(path.read_text())
    return [metrics[name] for name in ACCURACIES]


def describe(values: list[float]) -> str:
    """Lay out percentages: of several runs their mean, and the smallest and largest."""
    if not values:
        return ""
    spread = f" ({min(values):.1%} to {max(values):.1%})" if len(values) > 1 else ""
    return f"{mean(values):.1%}{spread}"


def main() -> None:
    """Parse the arguments, print the table, draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("groups", nargs="+", metavar="NAME=RUN,RUN", help="folders that fit wrote")
    parser.add_argument("--picture", type=Path, help="a PNG file for the validation curves")
    options = parser.parse_args()
    curves = {}
    print("| | runs | test: overall | mean class | best validation: overall |")
    print("| --- | --- | --- | --- | --- |")
    for group in options.groups:
        name, _, folders = group.partition("=")
        runs = [Path(folder) for folder in folders.split(",")]
        curves[name] = [read_validation(run) for run in runs]
        tests = [list(values) for values in zip(*filter(None, map(read_test, runs)), strict=True)]
        best = [max(curve) for curve in curves[name]]
        cells = [describe(values) for values in [*(tests or [[], []]), best]]
        print(f"| {name} | {len(runs)} | {' | '.join(cells)} |")
    if options.picture:
        save_figure(plot_runs(curves, "overall accuracy on validation clouds"), options.picture)
        print(options.picture)


if __name__ == "__main__":
    main()
