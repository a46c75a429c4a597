"""Sets that are a list: a CSV file with the path, the label and maybe the split of each file."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple
from unicodedata import normalize

from sharedmlp.data.errors import DataError, MissingDataError

_COLUMNS = {
    "path": {"path", "file", "filename", "file_name", "filepath", "file_path", "object_path"},
    "label": {"label", "class", "class_name", "classname", "category", "target"},
    "split": {"split", "subset", "set", "partition"},
}
_DELIMITERS = ",;\t"


class Row(NamedTuple):
    """A file of a list."""

    path: str  # below the folder of the list, with "/", or absolute
    label: str
    split: str  # "" if the list does not say
    line: int


def find_file_list(folder: Path) -> Path | None:
    """Return the one CSV file in a folder whose first line names a path and a label, if any.

    Raises:
        DataError: If there are several.
    """
    found = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in (".csv", ".tsv") or path.name.startswith("."):
            continue
        with path.open("rb") as file:
            first = _decode(file.read(4096)).partition("\n")[0]
        if {"path", "label"} <= _find_columns(first, _delimiter(first)).keys():
            found.append(path)
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise DataError(f"{folder}: {names} are lists of files: name one of them itself")
    return found[0] if found else None


def read_file_list(listing: Path) -> list[Row]:
    """Read a list of files.

    The first line names the columns: path and label, and split if there is one (or file, class,
    category, subset, ...). Paths are relative to the folder of the list, or absolute; "/" and
    backslashes both separate folders. Columns are separated by commas, semicolons or tabs.

    Raises:
        MissingDataError: If a file is missing.
        DataError: If the columns are not there, a line has no path or no label, or a file is
            named more than once.
    """
    try:
        text = _decode(listing.read_bytes())
    except OSError as error:
        raise DataError(f"{listing} cannot be opened ({error.strerror})") from error
    first = text.partition("\n")[0]
    delimiter = _delimiter(first)
    columns = _find_columns(first, delimiter)
    if not {"path", "label"} <= columns.keys():
        raise DataError(
            f"{listing}: the first line of a list of files names its columns, path and label and "
            f"maybe split; got {first.strip()[:60]!r}"
        )
    rows: list[Row] = []
    missing: list[str] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    for cells in _read_cells(reader, listing):
        if not any(map(str.strip, cells)):
            continue
        line = reader.line_num
        values = {n: cells[c].strip() if c < len(cells) else "" for n, c in columns.items()}
        if not values["path"] or not values["label"]:
            raise DataError(f"{listing}: line {line}: expected a path and a label, got {cells}")
        path = _find_file(listing.parent, values["path"])
        if path is None:
            missing.append(f"{values['path']} (line {line})")
            continue
        rows.append(Row(path, values["label"], values.get("split", ""), line))
    if missing:
        raise MissingDataError(
            f"{listing}: {len(missing)} of {len(missing) + len(rows)} files are missing, the first "
            f"is {missing[0]}; paths are relative to {listing.parent}"
        )
    seen: set[str] = set()
    for row in rows:
        if row.path in seen:
            raise DataError(f"{listing}: line {row.line}: {row.path} is named more than once")
        seen.add(row.path)
    return rows


def _read_cells(reader: Any, listing: Path) -> Iterator[list[str]]:
    """Yield the lines after the first."""
    try:
        next(reader)
        yield from reader
    except csv.Error as error:
        raise DataError(f"{listing}: line {reader.line_num}: {error}") from error


def format_file_list(rows: Sequence[tuple[str, str, str]]) -> str:
    """Return the text of a list: of each file its path, label and split."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([("path", "label", "split"), *rows])
    return text.getvalue()


def _decode(content: bytes) -> str:
    """Return the text of a file that spreadsheets write in one of several encodings."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", errors="replace")
    try:
        return content.decode("utf-8-sig", errors="strict")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def _delimiter(first: str) -> str:
    return max(_DELIMITERS, key=first.count)


def _find_columns(first: str, delimiter: str) -> dict[str, int]:
    """Return the places of the known columns in the first line."""
    cells = [cell.strip(' "\r\n').lower() for cell in first.split(delimiter)]
    return {
        column: place
        for column, names in _COLUMNS.items()
        for place, cell in reversed(list(enumerate(cells)))
        if cell in names
    }


def _find_file(folder: Path, text: str) -> str | None:
    """Return the path of a file as it is on the disk, with "/"; None if it is missing."""
    slashes = PureWindowsPath(text).as_posix() if "\\" in text else text
    for path in (text, slashes, *(normalize(form, slashes) for form in ("NFC", "NFD"))):
        if (folder / path).is_file():
            return Path(path).as_posix()
    return None
