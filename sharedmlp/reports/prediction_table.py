"""Predictions as CSV, row by row, so that an interrupted run is resumed and not repeated."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor

from sharedmlp.utils.files import atomic_path

Cells = list[str]


class PredictionTableError(ValueError):
    """Raised when a table of predictions cannot be continued."""


class PredictionTable:
    """A CSV file that appears when it is complete, and its rows so far until then.

    `<path>.part` takes each row as soon as it is known: a line of JSON, after a first line that
    says what the rows depend on. A table that finds such a file continues after its last complete
    line. Nothing is kept in memory.

    Args:
        path: The CSV file to write or replace.
        columns: The header; the first column is the name.
        names: The names of the rows, in their order.
        source: What else the rows depend on, as plain values.

    Attributes:
        done: The number of rows so far.

    Raises:
        PredictionTableError: If the rows so far depend on something else, or another process is
            writing them.
    """

    def __init__(
        self,
        path: str | Path,
        columns: Sequence[str],
        names: Sequence[str | Path],
        source: Mapping[str, Any],
    ) -> None:
        self.path = Path(path)
        self.part = self.path.with_name(self.path.name + ".part")
        self.columns = list(columns)
        self.names = names
        self.source: dict[str, Any] = json.loads(json.dumps({"columns": self.columns, **source}))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.part.open("a+b")
        try:
            _lock(self._file, self.part)
            self.done, end = self._check()
            self._file.truncate(end)  # without the incomplete line
        except BaseException:
            self._file.close()
            raise
        if end == 0:
            self._write(self.source)

    def append(self, answer: Cells | str) -> None:
        """Add the next row.

        Args:
            answer: The cells after the name; or why there are none, which is not written to the CSV
                file but returned by `finish`.
        """
        self._write([str(self.names[self.done]), answer])
        self.done += 1

    def finish(self) -> list[str]:
        """Write the CSV file, unless no row has cells, and remove the rows so far.

        Returns:
            The reasons for the rows that have no cells.
        """
        failures = [answer for _, answer in self._rows() if isinstance(answer, str)]
        if len(failures) < self.done:
            with (
                atomic_path(self.path) as partial,
                # As they came from the file system, where names need be no text.
                partial.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
            ):
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(self.columns)
                for name, answer in self._rows():
                    if not isinstance(answer, str):
                        writer.writerow([name, *answer])
        self.part.unlink()
        self._file.close()
        return failures

    def close(self) -> None:
        """Keep the rows so far for another table, unless there are none."""
        if not self._file.closed:
            self._file.close()
            if self.done == 0:
                self.part.unlink()

    def exit_interrupted(self, how: str) -> NoReturn:
        """End the process as after Ctrl-C, with how to continue."""
        count = f"{self.done} of {len(self.names)} rows are in {self.part}"
        print(f"\ninterrupted; {count}: {how}", file=sys.stderr)
        sys.exit(130)

    def _write(self, value: Any) -> None:
        # Any name is ASCII without line ends in JSON: a line is a row.
        self._file.write(json.dumps(value).encode() + b"\n")
        self._file.flush()

    def _lines(self) -> Iterator[tuple[bytes, Any]]:
        """Yield the complete lines and their values."""
        self._file.seek(0)
        for number, line in enumerate(self._file):
            if not line.endswith(b"\n"):
                return
            try:
                value = json.loads(line)
            except ValueError:
                value = None
            # First what the rows depend on, then rows.
            if not isinstance(value, dict if number == 0 else list):
                raise self._refuse(f"line {number + 1} is damaged")
            yield line, value

    def _check(self) -> tuple[int, int]:
        """Return the number of rows so far and of the bytes of their lines."""
        rows = end = 0
        others: list[str] = []
        for number, (line, value) in enumerate(self._lines()):
            end += len(line)
            if number == 0:
                others = [key for key, own in self.source.items() if value.get(key) != own]
                continue
            if others:
                raise self._refuse(f"it has another {', another '.join(others)}")
            self._check_row(rows, value[0])
            rows += 1
        return (rows, end) if rows else (0, 0)

    def _check_row(self, row: int, name: str) -> None:
        expected = str(self.names[row]) if row < len(self.names) else "nothing"
        if name != expected:
            raise self._refuse(f"row {row + 1} is {name} where {expected} is expected")

    def _rows(self) -> Iterator[tuple[str, Cells | str]]:
        lines = self._lines()
        next(lines)
        for row, (_, (name, answer)) in enumerate(lines):
            self._check_row(row, name)
            yield name, answer

    def _refuse(self, why: str) -> PredictionTableError:
        return PredictionTableError(
            f"{self.part} is the beginning of other predictions ({why}): delete it to start again, "
            "or name another --output"
        )


def answer_columns(class_names: Sequence[str], rotations: int = 1) -> list[str]:
    """Return the header of what `answer_cells` returns, for clouds seen in so many turns."""
    turned = ["rotation"] if rotations > 1 else []
    return ["prediction", *turned, *(f"p({name})" for name in class_names)]


def answer_cells(
    probabilities: Tensor, class_names: Sequence[str], degrees: float | None = None
) -> Cells:
    """Return the most probable class, and all probabilities in the order of the classes.

    Args:
        probabilities: `(num_classes,)`.
        class_names: The names of the classes.
        degrees: By how much the cloud was turned; None if it was seen in one turn alone.
    """
    shares = [f"{value:.6f}" for value in probabilities.tolist()]
    turned = [] if degrees is None else [f"{degrees:g}"]
    return [class_names[int(probabilities.argmax())], *turned, *shares]


def _lock(file: Any, part: Path) -> None:
    """Lock a file until it is closed, if the system can."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise PredictionTableError(
            f"another process is writing {part}: wait for it, or name another --output"
        ) from error
