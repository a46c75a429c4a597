"""How a data set lies on the disk: which file belongs to which class and split.

`<class>/{train,val,test}/...`    a folder a class, with a folder a split in it (ModelNet)
`{train,val,test}/<class>/...`    the other way round
`<class>/...`                     no splits: a share of each class is set aside as the test split
a CSV file                        `path,label,split` a line (`file_lists`)

Names of splits count in any case. Files may lie in further folders below these.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sharedmlp.data.errors import DataError, MissingDataError
from sharedmlp.data.file_lists import Row, find_file_list, read_file_list
from sharedmlp.data.folder_scan import (
    EXPECTED,
    SPLIT_NAMES,
    FoundFile,
    LeftOut,
    Split,
    find_file,
    scan_folder,
)
from sharedmlp.data.io.formats import FORMATS
from sharedmlp.data.splits import stratified_split

# The share of each class that is the test split where a set has no splits.
TEST_SHARE = 0.2
# One file of a class each to train, to validate and to test.
_FEWEST_FILES = 3


class LabeledFile(NamedTuple):
    """A file of a set."""

    name: str  # below the root, with "/"
    class_name: str
    split: Split
    size: int
    mtime_ns: int


class Layout(NamedTuple):
    """A set as it lies on the disk.

    Attributes:
        root: The folder that the names of the files start from.
        name: Which layout it is, in words.
        class_names: The classes in the order of the labels: sorted, as numbers if all are.
        files: The files, sorted by name.
        left_out: What is not used, hidden files aside.
        drawn: Whether the splits were drawn here, by a seed.
    """

    root: Path
    name: str
    class_names: tuple[str, ...]
    files: tuple[LabeledFile, ...]
    left_out: tuple[LeftOut, ...]
    drawn: bool

    def of_split(self, split: Split) -> list[LabeledFile]:
        """Return the files of a split."""
        return [file for file in self.files if file.split == split]


def recognize_layout(root: str | Path, *, seed: int = 0) -> Layout:
    """Find the files of a set, their classes and splits.

    Nothing is read but names, sizes and times, and the CSV file if the set is one. A mesh that is
    there in two formats counts once. Files that no reader takes, and folders without files, are
    left out and named. Text files (`.txt` and whatever else may hold anything) count as data only
    if there are no others.

    Args:
        root: The folder of the set, or a CSV file. In a folder, one CSV file with the columns
            path and label is taken for the set.
        seed: Seeds the splits of a set that has none.

    Raises:
        MissingDataError: If there is nothing at the root, or a file that a list names is missing.
        DataError: If no layout is recognized, no file can be read here, or a class has too few
            to be split.
    """
    root = Path(root)
    classes: list[str] = []
    listing = root if root.is_file() else find_file_list(root) if root.is_dir() else None
    if listing is not None:
        name = f"a list of files, {listing.name}"
        rows, base = read_file_list(listing), listing.parent
        found = [find_file(base, r.path, r.label, _split_of_row(listing, r)) for r in rows]
        left_out: list[LeftOut] = []
    elif root.is_dir():
        base = root
        name, found, classes, left_out = scan_folder(root)
    else:
        raise MissingDataError(f"{root} is no folder, nor a CSV file; {EXPECTED}")
    files, more = _select(found, listed=listing is not None)
    left_out += more
    used = {file.class_name for file in files}
    left_out += [
        LeftOut(f"{c}/", "class folder without files") for c in classes if _as_text(c) not in used
    ]
    if not files:
        found_here = f"; left out: {_describe(left_out)}" if left_out else ""
        raise DataError(f"{root}: no file of a format that is read here; {EXPECTED}{found_here}")
    class_names = _sort_classes(used)
    _check_spelling(root, class_names)
    drawn = any(file.split is None for file in files)
    return Layout(
        base,
        f"{name}, split by the seed {seed}" if drawn else name,
        class_names,
        _draw_splits(root, files, class_names, seed) if drawn else _as_labeled(files),
        tuple(sorted(left_out)),
        drawn,
    )


def check_classes(root: str | Path, class_names: Sequence[str]) -> None:
    """Check that there is something to tell apart.

    Raises:
        DataError: If there are fewer than two classes.
    """
    if len(class_names) < 2:
        (only,) = class_names
        below, hint = Path(root) / only, ""
        if below.is_dir():
            nested = any(entry.is_dir() for entry in below.iterdir())
            hint = f"; if its folders are the classes, name {below}" if nested else ""
            hint += f"; {EXPECTED}"
        raise DataError(
            f"{root}: there is one class alone ({only}), and a network learns to tell two or more "
            f"apart{hint}"
        )


def _select(found: Sequence[FoundFile], listed: bool) -> tuple[list[FoundFile], list[LeftOut]]:
    """Return the files that readers take, each shape once, and the others with the reason."""
    # 10,000 Path objects would cost more than the scan.
    suffixes = [os.path.splitext(file.name)[1].lower() for file in found]  # noqa: PTH122
    order = list(FORMATS)
    known = {s for s in suffixes if s in FORMATS}
    sure = {s for s in known if FORMATS[s].found_in_folders}
    left_out: list[LeftOut] = []
    same: dict[str, list[tuple[int, FoundFile]]] = defaultdict(list)
    for file, suffix in zip(found, suffixes, strict=True):
        if file.size < 0:
            left_out.append(LeftOut(file.name, "that is no regular file"))
        elif suffix not in known:
            left_out.append(
                LeftOut(file.name, f"{suffix or 'no suffix'}, no format that is read here")
            )
        elif listed:
            same[file.name].append((0, file))
        elif sure and suffix not in sure:
            left_out.append(LeftOut(file.name, f"{suffix} beside {', '.join(sorted(sure))}"))
        else:
            same[file.name.removesuffix(file.name[-len(suffix) :])].append(
                (order.index(suffix), file)
            )
    files: list[FoundFile] = []
    for candidates in same.values():
        (_, best), *others = sorted(candidates)
        normalized = _as_text(best.class_name)
        files.append(
            best if normalized == best.class_name else best._replace(class_name=normalized)
        )
        left_out += [
            LeftOut(o.name, f"the same as {best.name.rpartition('/')[2]}") for _, o in others
        ]
    return sorted(files), left_out


def _as_text(class_name: str) -> str:
    """Return a name that can be printed, its accents in the spelling that most systems write."""
    # What is no UTF-8 on the disk is no text either.
    text = os.fsencode(class_name).decode(errors="backslashreplace")
    return unicodedata.normalize("NFC", text)


def _sort_classes(names: set[str]) -> tuple[str, ...]:
    if all(name.isdecimal() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def _check_spelling(root: Path, class_names: Sequence[str]) -> None:
    for name, count in Counter(map(str.casefold, class_names)).items():
        if count > 1:
            same = [c for c in class_names if c.casefold() == name]
            raise DataError(f"{root}: the classes {' and '.join(same)} differ in case alone")


def _split_of_row(listing: Path, row: Row) -> Split | None:
    split = SPLIT_NAMES.get(row.split.lower())
    if row.split and split is None:
        raise DataError(
            f"{listing}: line {row.line}: the split is train, val or test, got {row.split!r}"
        )
    return split


def _as_labeled(files: Sequence[FoundFile]) -> tuple[LabeledFile, ...]:
    return tuple(_label(file, file.split) for file in files if file.split is not None)


def _label(file: FoundFile, split: Split) -> LabeledFile:
    return LabeledFile(file.name, file.class_name, split, file.size, file.mtime_ns)


def _draw_splits(
    root: Path, files: Sequence[FoundFile], class_names: Sequence[str], seed: int
) -> tuple[LabeledFile, ...]:
    """Set aside a share of each class as the test split."""
    if any(file.split is not None for file in files):
        without = next(file.name for file in files if file.split is None)
        raise DataError(
            f"{root}: some files have a split, and {without} has none: name all or none"
        )
    counts = Counter(file.class_name for file in files)
    for name in class_names:
        if counts[name] < _FEWEST_FILES:
            raise DataError(
                f"{root}: the class {name} has {counts[name]} of the {_FEWEST_FILES} files or more "
                "that it takes to train, validate and test: add files, or move its folder away"
            )
    test = set(
        stratified_split([class_names.index(f.class_name) for f in files], TEST_SHARE, seed)[
            1
        ].tolist()
    )
    return tuple(
        _label(file, "test" if place in test else "train") for place, file in enumerate(files)
    )


def summarize_left_out(left_out: Sequence[LeftOut]) -> list[str]:
    """Return what is left out, a line for each reason: `3 files .mtl: no format read here`."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for name, reason in left_out:
        by_reason[
            "the same shape in another format" if reason.startswith("the same as") else reason
        ].append(name)
    return [
        f"{len(names)} {reason} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for reason, names in by_reason.items()
    ]


def _describe(left_out: Sequence[LeftOut]) -> str:
    return "; ".join(summarize_left_out(left_out))
