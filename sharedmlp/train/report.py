"""What a test and a prediction leave behind: tables for people and for programs."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sharedmlp.train.metrics import accuracies


def format_table(confusion: Tensor, class_names: Sequence[str]) -> str:
    """Lays out overall, mean class and per-class accuracy as lines of text.

    Args:
        confusion: ``(num_classes, num_classes)`` counts, a row a true class.
        class_names: Names of the classes, in the order of the rows.
    """
    result = accuracies(confusion)
    clouds = confusion.sum(dim=1).tolist()
    rows = [
        (name, count, float(accuracy))
        for name, count, accuracy in zip(class_names, clouds, result.per_class, strict=True)
    ]
    totals = [
        ("mean class accuracy", sum(clouds), float(result.mean_class)),
        ("overall accuracy", sum(clouds), float(result.overall)),
    ]
    width = max(len(name) for name, _, _ in [*rows, *totals])
    rule = "-" * (width + 18)

    def line(name: str, count: int, accuracy: float) -> str:
        shown = "-" if math.isnan(accuracy) else f"{accuracy:.2%}"
        return f"{name:<{width}}  {count:>6}  {shown:>8}"

    return "\n".join(
        [
            f"{'class':<{width}}  {'clouds':>6}  accuracy",
            rule,
            *(line(*row) for row in rows),
            rule,
            *(line(*row) for row in totals),
        ]
    )


def write_test_metrics(
    path: str | Path, confusion: Tensor, class_names: Sequence[str], checkpoint: str | None
) -> None:
    """Writes the result of a test as JSON: accuracies, confusion matrix, which checkpoint it was.

    Args:
        path: The file to write or replace.
        confusion: ``(num_classes, num_classes)`` counts, a row a true class.
        class_names: Names of the classes, in the order of the rows.
        checkpoint: Path of the tested checkpoint.
    """
    result = accuracies(confusion)
    per_class = [None if math.isnan(value) else value for value in result.per_class.tolist()]
    report: dict[str, Any] = {
        "checkpoint": checkpoint,
        "overall_accuracy": float(result.overall),
        "mean_class_accuracy": float(result.mean_class),
        "class_accuracy": dict(zip(class_names, per_class, strict=True)),
        "class_names": list(class_names),
        "confusion": confusion.tolist(),
    }
    _write(Path(path), json.dumps(report, indent=2) + "\n")


def write_predictions(
    path: str | Path,
    batches: Sequence[dict[str, Tensor]],
    names: Sequence[str],
    class_names: Sequence[str],
) -> None:
    """Writes predictions as CSV: ``cloud,label,prediction`` and one probability column a class.

    Args:
        path: The file to write or replace.
        batches: What :meth:`ClassificationTask.predict_step` returned.
        names: Names of all clouds; a batch's ``index`` points into them.
        class_names: Names of the classes, in the order of the labels.
    """
    merged = {key: torch.cat([batch[key].cpu() for batch in batches]) for key in batches[0]}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["cloud", "label", "prediction", *(f"p({name})" for name in class_names)])
    for index, label, prediction, probabilities in zip(
        merged["index"].tolist(),
        merged["label"].tolist(),
        merged["prediction"].tolist(),
        merged["probabilities"].tolist(),
        strict=True,
    ):
        row = [names[index], class_names[label], class_names[prediction]]
        writer.writerow([*row, *(f"{value:.6f}" for value in probabilities)])
    _write(Path(path), text.getvalue())


def _write(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)  # noqa: PTH105
