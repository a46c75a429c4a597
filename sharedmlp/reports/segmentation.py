"""The results of a test of a segmentation as tables, for people and for programs."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from sharedmlp.reports.accuracies import accuracies
from sharedmlp.reports.classification import write_text
from sharedmlp.reports.iou import class_iou


class SegmentationResult(NamedTuple):
    """A line of the table of a test.

    Attributes:
        name: The name of the class.
        points: The number of its points.
        accuracy: The share of them that is classified correctly, None without any.
        iou: Its intersection over union, None if it is neither true nor predicted.
        confused_with: The class that most of the others were taken for, the first of equals; None
            if none was misclassified.
        confused: The number of points that were taken for it.
    """

    name: str
    points: int
    accuracy: float | None
    iou: float | None
    confused_with: str | None
    confused: int


def summarize_points(confusion: Tensor, class_names: Sequence[str]) -> list[SegmentationResult]:
    """Return the result of each class from a confusion matrix.

    Args:
        confusion: Counts (num_classes, num_classes) of points, a row a true class.
        class_names: The names of the classes, in the order of the rows.
    """
    accuracy, iou = accuracies(confusion).per_class, class_iou(confusion)
    wrong = confusion.clone().fill_diagonal_(0)
    lines = []
    for row, name in enumerate(class_names):
        other, most = int(wrong[row].argmax()), int(wrong[row].max())
        lines.append(
            SegmentationResult(
                name,
                int(confusion[row].sum()),
                _number(accuracy[row]),
                _number(iou[row]),
                class_names[other] if most else None,
                most,
            )
        )
    return lines


def format_iou_table(
    confusion: Tensor, class_names: Sequence[str], metrics: Mapping[str, float]
) -> str:
    """Return the result of each class, then the metrics over all classes, as lines of text.

    Args:
        confusion: As of `summarize_points`.
        class_names: As of `summarize_points`.
        metrics: By name, such as "mean_iou".
    """
    results = summarize_points(confusion, class_names)
    totals = {
        name.replace("_", " ").replace("iou", "IoU"): value for name, value in metrics.items()
    }
    width = max(map(len, [*class_names, *totals, "class"]))

    def percent(value: float | None) -> str:
        return "-" if value is None or math.isnan(value) else f"{value:.2%}"

    lines = []
    for r in results:
        confused = f"{r.confused_with} ({r.confused})" if r.confused else ""
        numbers = f"{r.points:>10}  {percent(r.accuracy):>8}  {percent(r.iou):>8}"
        lines.append(f"{r.name:<{width}}  {numbers}  {confused}".rstrip())
    head = f"{'class':<{width}}  {'points':>10}  accuracy       IoU  most confused with"
    rule = "-" * max(map(len, [head, *lines]))
    last = [f"{name:<{width}}  {percent(value):>30}" for name, value in totals.items()]
    return "\n".join([head, rule, *lines, rule, *last])


def write_iou_table(path: Path, confusion: Tensor, class_names: Sequence[str]) -> None:
    """Write the result of each class as CSV.

    Args:
        path: The file to write or replace.
        confusion: As of `summarize_points`.
        class_names: As of `summarize_points`.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    header = ["class", "points", "accuracy", "iou", "most_confused_with", "confused_points"]
    writer.writerows([header, *summarize_points(confusion, class_names)])
    write_text(path, text.getvalue())


def write_iou_metrics(
    path: Path,
    confusion: Tensor,
    class_names: Sequence[str],
    metrics: Mapping[str, float],
    category_iou: Mapping[str, float],
    checkpoint: str | None,
) -> None:
    """Write the result of a test as JSON.

    Args:
        path: The file to write or replace.
        confusion: As of `summarize_points`.
        class_names: As of `summarize_points`.
        metrics: By name, such as "mean_iou".
        category_iou: The mean over the shapes of each category; empty if there are none.
        checkpoint: The path of the tested checkpoint.
    """
    results = summarize_points(confusion, class_names)
    report: dict[str, Any] = {
        "checkpoint": checkpoint,
        **{name: _finite(value) for name, value in metrics.items()},
        "class_accuracy": {result.name: result.accuracy for result in results},
        "class_iou": {result.name: result.iou for result in results},
    }
    if category_iou:
        report["category_iou"] = {name: _finite(value) for name, value in category_iou.items()}
    report |= {"class_names": list(class_names), "confusion": confusion.tolist()}
    write_text(path, json.dumps(report, indent=2) + "\n")


def _number(value: Tensor) -> float | None:
    return _finite(float(value))


def _finite(value: float) -> float | None:
    """Return a number, or None for NaN, which JSON does not have."""
    return value if math.isfinite(value) else None
