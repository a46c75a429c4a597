"""The results of a test of a classifier as tables, for people and for programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from sharedmlp.reports.accuracies import accuracies
from sharedmlp.utils.files import atomic_write


class ClassResult(NamedTuple):
    """A line of the table of a test.

    Attributes:
        name: The name of the class, or of the accuracy over all classes.
        clouds: The number of its clouds.
        accuracy: The share of them that was classified correctly, None without any; for "mean class
            accuracy" the mean over the classes that have clouds.
        confused_with: The class that most of the others were taken for, the first of equals; None
            if none was misclassified.
        confused: The number of clouds that were taken for it.
    """

    name: str
    clouds: int
    accuracy: float | None
    confused_with: str | None = None
    confused: int = 0


def summarize(confusion: Tensor, class_names: Sequence[str]) -> list[ClassResult]:
    """Return the results by class from a confusion matrix, then mean class and overall accuracy.

    Args:
        confusion: Counts (num_classes, num_classes), a row a true class.
        class_names: The names of the classes, in the order of the rows.
    """
    result = accuracies(confusion)
    wrong = confusion.clone().fill_diagonal_(0)
    lines = []
    for row, name in enumerate(class_names):
        other, most = int(wrong[row].argmax()), int(wrong[row].max())
        lines.append(
            ClassResult(
                name,
                clouds=int(confusion[row].sum()),
                accuracy=_number(result.per_class[row]),
                confused_with=class_names[other] if most else None,
                confused=most,
            )
        )
    clouds = int(confusion.sum())
    return [
        *lines,
        ClassResult("mean class accuracy", clouds, _number(result.mean_class)),
        ClassResult("overall accuracy", clouds, _number(result.overall)),
    ]


def format_table(confusion: Tensor, class_names: Sequence[str]) -> str:
    """Return the result of `summarize` as lines of text.

    Args:
        confusion: Counts (num_classes, num_classes), a row a true class.
        class_names: The names of the classes, in the order of the rows.
    """
    results = summarize(confusion, class_names)
    width = max(len(result.name) for result in results)

    def line(result: ClassResult) -> str:
        accuracy = "-" if result.accuracy is None else f"{result.accuracy:.2%}"
        confused = f"{result.confused_with} ({result.confused})" if result.confused else ""
        return f"{result.name:<{width}}  {result.clouds:>6}  {accuracy:>8}  {confused}".rstrip()

    head = f"{'class':<{width}}  {'clouds':>6}  accuracy  most confused with"
    lines = [line(result) for result in results]
    rule = "-" * max(map(len, [head, *lines]))
    return "\n".join([head, rule, *lines[:-2], rule, *lines[-2:]])


def write_test_metrics(
    path: str | Path, confusion: Tensor, class_names: Sequence[str], checkpoint: str | None
) -> None:
    """Write the result of a test as JSON: accuracies, confusion matrix, the checkpoint.

    Args:
        path: The file to write or replace.
        confusion: Counts (num_classes, num_classes), a row a true class.
        class_names: The names of the classes, in the order of the rows.
        checkpoint: The path of the tested checkpoint.
    """
    result = accuracies(confusion)
    report: dict[str, Any] = {
        "checkpoint": checkpoint,
        "overall_accuracy": float(result.overall),
        "mean_class_accuracy": float(result.mean_class),
        "class_accuracy": dict(zip(class_names, map(_number, result.per_class), strict=True)),
        "class_names": list(class_names),
        "confusion": confusion.tolist(),
    }
    write_text(Path(path), json.dumps(report, indent=2) + "\n")


def write_test_table(path: str | Path, confusion: Tensor, class_names: Sequence[str]) -> None:
    """Write the result of `summarize` as CSV: a line a class, then both accuracies.

    Args:
        path: The file to write or replace.
        confusion: Counts (num_classes, num_classes), a row a true class.
        class_names: The names of the classes, in the order of the rows.
    """
    header = ["class", "clouds", "accuracy", "most_confused_with", "confused_clouds"]
    _write_csv(Path(path), header, summarize(confusion, class_names))


def _number(value: Tensor) -> float | None:
    """Return a scalar, or None for NaN, which JSON does not have."""
    return None if value.isnan() else float(value)


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([header, *rows])
    write_text(path, text.getvalue())


def write_text(path: Path, text: str) -> None:
    """Write or replace a text file in one step."""
    atomic_write(path, text.encode())
