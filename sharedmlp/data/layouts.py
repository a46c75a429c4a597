"""How a data set lies on the disk: which file belongs to which class and split.

`<class>/{train,val,test}/...`    a folder a class, with a folder a split in it (ModelNet)
`{train,val,test}/<class>/...`    the other way round
`<class>/...`                     no splits: a share of each class is set aside as the test split
a CSV file                        `path,label,split` a line (`file_lists`)

Names of splits count in any case. Files may lie in further folders below these.
"""

from __future__ import annotations

import os
import stat
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from sharedmlp.data.errors import DataError, MissingDataError
from sharedmlp.data.file_lists import Row, find_file_list, read_file_list
from sharedmlp.data.io.formats import FORMATS
from sharedmlp.data.splits import stratified_split

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
# The share of each class that is the test split where a set has no splits.
TEST_SHARE = 0.2
# One file of a class each to train, to validate and to test.
_FEWEST_FILES = 3
_JUNK = {"thumbs.db", "desktop.ini", "__macosx"}
EXPECTED = (
    "expected <class>/{train,val,test}/<file>, {train,val,test}/<class>/<file>, <class>/<file>, or "
    "a CSV file with the columns path, label and, if you like, split"
)


class LabeledFile(NamedTuple):
    """A file of a set."""

    name: str  # below the root, with "/"
    class_name: str
    split: Split
    size: int
    mtime_ns: int


class LeftOut(NamedTuple):
    """A file or folder that is not part of a set, and why."""

    name: str  # below the root, with "/"
    reason: str


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


class _Found(NamedTuple):
    """A file, and the class and the split that its place names, if any."""

    name: str
    class_name: str
    split: Split | None
    size: int
    mtime_ns: int


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
        found = [_found(base, r.path, r.label, _split_of_row(listing, r)) for r in rows]
        left_out: list[LeftOut] = []
    elif root.is_dir():
        base = root
        name, found, classes, left_out = _scan(root)
    else:
        raise MissingDataError(f"{root} is no folder, nor a CSV file; {EXPECTED}")
    files, more = _select(found, listed=listing is not None)
    left_out += more
    used = {file.class_name for file in files}
    left_out += [
        LeftOut(f"{c}/", "class folder without files") for c in classes if _nfc(c) not in used
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
        hint = f"if its folders are the classes, name {Path(root) / only}; "
        raise DataError(
            f"{root}: one class alone has files ({only}), and a network learns to tell two or more "
            f"apart; {hint if Path(root).is_dir() else ''}{EXPECTED}"
        )


def _scan(root: Path) -> tuple[str, list[_Found], list[str], list[LeftOut]]:
    """Return the layout of a folder in words, its files, its classes and what it has besides."""
    folders, loose = _list_folder(root)
    left_out = [LeftOut(name, "in no class folder") for name in loose]
    inner = {folder: _list_folder(root / folder)[0] for folder in folders}
    with_splits = [f for f in folders if any(sub.lower() in SPLIT_NAMES for sub in inner[f])]
    splits = [f for f in folders if f.lower() in SPLIT_NAMES and f not in with_splits]
    found: list[_Found] = []
    if with_splits and splits:
        raise DataError(
            f"{root}: {with_splits[0]} has folders for splits, and {splits[0]} is one itself: "
            f"which of them are the classes? {EXPECTED}"
        )
    if with_splits:
        for folder in folders:
            if folder not in with_splits:
                left_out.append(LeftOut(f"{folder}/", "without a folder train, val or test"))
                continue
            for name in _list_folder(root / folder)[1]:
                left_out.append(LeftOut(f"{folder}/{name}", "in no folder of a split"))
            for sub in inner[folder]:
                if sub.lower() not in SPLIT_NAMES:
                    left_out.append(LeftOut(f"{folder}/{sub}/", "that is no split"))
                    continue
                found += _walk(root, f"{folder}/{sub}", folder, SPLIT_NAMES[sub.lower()])
        name, classes = "<class>/{train,val,test}", with_splits
    elif splits:
        for folder in folders:
            if folder not in splits:
                left_out.append(LeftOut(f"{folder}/", "that is no split"))
                continue
            for name in _list_folder(root / folder)[1]:
                left_out.append(LeftOut(f"{folder}/{name}", "in no class folder"))
            for sub in inner[folder]:
                found += _walk(root, f"{folder}/{sub}", sub, SPLIT_NAMES[folder.lower()])
        name, classes = "{train,val,test}/<class>", sorted({c for f in splits for c in inner[f]})
    else:
        _check_depth(root, folders, inner, loose)
        for folder in folders:
            found += _walk(root, folder, folder, None)
        name, classes = "<class>", folders
    return name, found, classes, left_out


def _check_depth(
    root: Path, folders: Sequence[str], inner: dict[str, list[str]], loose: Sequence[str]
) -> None:
    """Raise if the folder above or below was meant, or a set of another data module."""
    if (root / "shape_names.txt").is_file() and list(root.glob("*_files.txt")):
        raise DataError(f"{root} is a set in HDF5 files: add --data HDF5DataModule")
    if (root / "modelnet40_shape_names.txt").is_file():
        raise DataError(
            f"{root} is modelnet40_normal_resampled: add --data ModelNet40NormalsDataModule"
        )
    if not folders:
        what = f"{len(loose)} files and no folders" if loose else "nothing"
        raise DataError(f"{root} holds {what}; {EXPECTED}")
    if len(folders) == 1 and inner[folders[0]]:
        raise DataError(
            f"{root} holds one folder, {folders[0]}: if its folders are the classes, name "
            f"{root / folders[0]} itself"
        )


def _list_folder(folder: Path) -> tuple[list[str], list[str]]:
    """Return the names of the folders and of the files in a folder, sorted, hidden ones aside."""
    try:
        with os.scandir(folder) as entries:
            seen = [(e.name, e.is_dir()) for e in entries if not _is_junk(e.name)]
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({error.strerror})") from error
    seen.sort()
    return [n for n, is_dir in seen if is_dir], [n for n, is_dir in seen if not is_dir]


def _walk(root: Path, below: str, class_name: str, split: Split | None) -> Iterator[_Found]:
    """Yield all files below a folder, hidden ones aside."""
    for folder, folders, names in os.walk(root / below):
        folders[:] = [name for name in folders if not _is_junk(name)]
        prefix = Path(folder).relative_to(root).as_posix()
        for name in names:
            if not _is_junk(name):
                yield _found(root, f"{prefix}/{name}", class_name, split)


def _found(root: Path, name: str, class_name: str, split: Split | None) -> _Found:
    """Return a file with what tells a changed one; its size is -1 if it is no regular file."""
    try:
        # 10,000 Path objects would cost more than the scan.
        seen = os.stat(os.path.join(root, name))  # noqa: PTH116, PTH118
    except OSError:
        return _Found(name, class_name, split, -1, 0)
    size = seen.st_size if stat.S_ISREG(seen.st_mode) else -1
    return _Found(name, class_name, split, size, seen.st_mtime_ns)


def _is_junk(name: str) -> bool:
    """Return whether a name is one that systems leave in folders."""
    return name.startswith(".") or name.lower() in _JUNK


def _select(found: Sequence[_Found], listed: bool) -> tuple[list[_Found], list[LeftOut]]:
    """Return the files that readers take, each shape once, and the others with the reason."""
    suffixes = [PurePosixPath(file.name).suffix.lower() for file in found]
    folders = [file.name.rpartition("/")[0] for file in found]
    order = list(FORMATS)
    known = {s for s in suffixes if s in FORMATS}
    sure = {s for s in known if FORMATS[s].found_in_folders}
    with_gltf = {f for f, s in zip(folders, suffixes, strict=True) if s == ".gltf"}
    left_out: list[LeftOut] = []
    same: dict[str, list[tuple[int, _Found]]] = defaultdict(list)
    for file, suffix, folder in zip(found, suffixes, folders, strict=True):
        if file.size < 0:
            left_out.append(LeftOut(file.name, "that is no regular file"))
        elif suffix not in known:
            left_out.append(
                LeftOut(file.name, f"{suffix or 'no suffix'}, no format that is read here")
            )
        elif listed:
            same[file.name].append((0, file))
        elif suffix == ".bin" and folder in with_gltf:
            left_out.append(LeftOut(file.name, ".bin, a buffer of a glTF file"))
        elif sure and suffix not in sure:
            left_out.append(LeftOut(file.name, f"{suffix} beside {', '.join(sorted(sure))}"))
        else:
            same[file.name.removesuffix(file.name[-len(suffix) :])].append(
                (order.index(suffix), file)
            )
    files: list[_Found] = []
    for candidates in same.values():
        (_, best), *others = sorted(candidates)
        files.append(best._replace(class_name=_nfc(best.class_name)))
        taken = PurePosixPath(best.name).name
        left_out += [LeftOut(o.name, f"the same as {taken}") for _, o in others]
    return sorted(files), left_out


def _nfc(class_name: str) -> str:
    """Return a name in the one of two spellings of accents that most systems write."""
    return unicodedata.normalize("NFC", class_name)


def _sort_classes(names: set[str]) -> tuple[str, ...]:
    if all(name.isdecimal() for name in names):
        return tuple(sorted(names, key=int))
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


def _as_labeled(files: Sequence[_Found]) -> tuple[LabeledFile, ...]:
    return tuple(LabeledFile(*file) for file in files if file.split is not None)


def _draw_splits(
    root: Path, files: Sequence[_Found], class_names: Sequence[str], seed: int
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
        LabeledFile(*file._replace(split="test" if place in test else "train"))
        for place, file in enumerate(files)
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
