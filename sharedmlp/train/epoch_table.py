"""metrics.csv: what a training logged, a row an epoch, whatever else logs it."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

from sharedmlp.utils.files import atomic_write

FILE_NAME = "metrics.csv"
_FIRST = ("epoch", "step")  # columns


class EpochTable(Logger):
    """A logger that keeps one row an epoch and writes them as CSV, each time in one step.

    Lightning logs validation and training of an epoch one after the other, and its CSV file has a
    row for each. A later value of an epoch replaces an earlier one of the same name. After
    `finalize`, such as in a test after a fit, nothing more is taken.

    Args:
        path: The file to write; None keeps the rows in memory alone.

    Attributes:
        path: The file, or None.
    """

    def __init__(self, path: Path | None = None) -> None:
        super().__init__()
        self.path = path
        self._rows: dict[int, dict[str, float]] = {}
        self._earlier: dict[int, dict[str, float]] = {}
        self._next: dict[str, float] = {}
        self._written = self._final = False

    @property
    def name(self) -> str:
        """Return nothing: the folder is `path`'s."""
        return ""

    @property
    def version(self) -> str:
        """Return nothing: the folder is `path`'s."""
        return ""

    @property
    def rows(self) -> list[dict[str, float]]:
        """Return the rows in the order of the epochs, those of the run that is resumed first."""
        first = min(self._rows, default=None)
        kept = {e: row for e, row in self._earlier.items() if first is None or e < first}
        rows = {**kept, **self._rows}
        return [rows[epoch] for epoch in sorted(rows)]

    @property
    def has_logged(self) -> bool:
        """Return whether this run, not one that it resumes, has a row."""
        return bool(self._rows)

    def resume_from(self, checkpoint: str | Path) -> None:
        """Put the rows of the run that wrote a checkpoint before those of this one.

        They are read from the metrics.csv of its folder: the folder of the checkpoint or the one
        above. Epochs that this run repeats are dropped.

        Args:
            checkpoint: The path of the checkpoint.
        """
        folder = Path(checkpoint).absolute().parent
        for path in (folder / FILE_NAME, folder.parent / FILE_NAME):
            if path.is_file():
                self._earlier = {int(row["epoch"]): row for row in read_rows(path)}
                return

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Ignore them: config.yaml has them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add values to the row of their epoch; those without an epoch to the row that comes."""
        if self._final:
            return
        values = _numbers(metrics)
        if "epoch" not in values:
            self._next |= values
            return
        epoch = int(values.pop("epoch"))
        row = self._rows.setdefault(epoch, {"epoch": float(epoch)})
        row |= {**self._next, **values}
        if step is not None:
            row["step"] = float(step)
        self._next = {}
        self._written = False

    @rank_zero_only
    def save(self) -> None:
        """Write the file if there is something new."""
        if self.path is None or self._written or not self._rows:
            return
        text = io.StringIO()
        rows = self.rows
        names = sorted({name for row in rows for name in row}.difference(_FIRST))
        writer = csv.DictWriter(text, [*_FIRST, *names], lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _format(value) for name, value in row.items()} for row in rows)
        atomic_write(self.path, text.getvalue().encode())
        self._written = True

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Take nothing more."""
        self.save()
        self._final = True


def read_rows(path: str | Path) -> list[dict[str, float]]:
    """Return the rows of a file of an `EpochTable`, without the empty cells.

    Of a file of Lightning's `CSVLogger`, whose rows are parts of an epoch, the parts are joined.

    Args:
        path: The CSV file.
    """
    rows: dict[int, dict[str, float]] = {}
    with Path(path).open(newline="", encoding="utf-8") as file:
        for cells in csv.DictReader(file):
            values = _numbers(cells)
            if "epoch" in values:
                rows.setdefault(int(values["epoch"]), {}).update(values)
    return [rows[epoch] for epoch in sorted(rows)]


def _numbers(values: Mapping[Any, Any]) -> dict[str, float]:
    """Return the values that are numbers; what is logged may be others, and a cell empty."""
    numbers = {}
    for name, value in values.items():
        with contextlib.suppress(TypeError, ValueError):
            numbers[str(name)] = float(value)
    return numbers


def _format(value: float) -> str:
    """Return the shortest digits that give a value back, of a float32 if it is one."""
    if value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    single = np.float32(value)
    return str(single if float(single) == value or value != value else value)
