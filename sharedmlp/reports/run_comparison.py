"""What trainings reached, side by side: read from the folders of their runs."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from sharedmlp.data import DataError, MissingDataError

_ACCURACIES = ("overall_accuracy", "mean_class_accuracy")
_VALIDATION = "val/overall_accuracy"


def read_validation(run: Path) -> list[float]:
    """Return the overall accuracy on the validation clouds after each epoch of a run.

    Args:
        run: The folder of the run, with `metrics.csv`. An epoch may have several rows, each with
            some of the values.

    Raises:
        DataError: If the file is missing or has no such column.
    """
    path = run / "metrics.csv"
    if not path.is_file():
        inside = sorted(inner.parent.name for inner in run.glob("*/metrics.csv"))
        advice = f"name runs in it: {', '.join(inside)}" if inside else "`sharedmlp fit` writes it"
        raise MissingDataError(f"{path}: no such file; {advice}")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    values = {row["epoch"]: float(row[_VALIDATION]) for row in rows if row.get(_VALIDATION)}
    if not values:
        raise DataError(f"{path} has no {_VALIDATION}: compare trainings that were validated")
    return list(values.values())


def read_test(run: Path) -> list[float]:
    """Return the test accuracies of a run, overall and the mean over classes.

    Args:
        run: The folder of the run.

    Returns:
        Nothing if it was not tested.

    Raises:
        DataError: If its `test_metrics.json` is damaged.
    """
    path = run / "test_metrics.json"
    if not path.is_file():
        return []
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        return [float(metrics[name]) for name in _ACCURACIES]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no report of a test ({error})") from error


def format_comparison(groups: Mapping[str, Sequence[Path]]) -> str:
    """Lay out test and best validation accuracies of runs by group, as a Markdown table.

    Args:
        groups: Of each group its runs.
    """
    lines = [
        "| | runs | test: overall | mean class | best validation: overall |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, runs in groups.items():
        tests = [values for run in runs if (values := read_test(run))]
        columns = [list(values) for values in zip(*tests, strict=True)] or [[], []]
        best = [max(read_validation(run)) for run in runs]
        cells = [_describe(values) for values in [*columns, best]]
        lines.append(f"| {name} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _describe(values: Sequence[float]) -> str:
    """Lay out percentages: of several runs their mean, and the smallest and largest."""
    if not values:
        return ""
    spread = f" ({min(values):.1%} to {max(values):.1%})" if len(values) > 1 else ""
    return f"{mean(values):.1%}{spread}"
