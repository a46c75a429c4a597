"""The metrics of any task as a file for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sharedmlp.reports.classification import write_text


def write_metrics(path: Path, metrics: Mapping[str, Any], checkpoint: str | None) -> None:
    """Write metrics as JSON, each under its name without the stage, and the checkpoint.

    Args:
        path: The file to write or replace.
        metrics: Numbers or scalars by name, such as "test/loss".
        checkpoint: The path of the measured checkpoint.
    """
    values = {name.partition("/")[2] or name: float(value) for name, value in metrics.items()}
    # JSON has no NaN.
    numbers = {name: value if math.isfinite(value) else None for name, value in values.items()}
    write_text(path, json.dumps({"checkpoint": checkpoint, **numbers}, indent=2) + "\n")


def report_metrics(
    metrics: Mapping[str, Any], folder: Path | None, checkpoint: str | None
) -> dict[str, Path]:
    """Print what a test has measured, and write it to test_metrics.json.

    Args:
        metrics: As of `write_metrics`.
        folder: Where the file goes; None writes none.
        checkpoint: The path of the tested checkpoint.

    Returns:
        What was written: for each file its description and path.
    """
    for name, value in metrics.items():
        print(f"{name}  {float(value):.4f}")
    if folder is None:
        return {}
    path = folder / "test_metrics.json"
    write_metrics(path, metrics, checkpoint)
    return {"test metrics": path}
