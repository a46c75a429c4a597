"""What lies below a folder: files, with the class and the split that their place names."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn

from sharedmlp.data.errors import DataError

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
_JUNK = {"thumbs.db", "desktop.ini", "__macosx"}
EXPECTED = (
    "expected <class>/{train,val,test}/<file>, {train,val,test}/<class>/<file>, <class>/<file>, or "
    "a CSV file with the columns path, label and, if you like, split"
)


class LeftOut(NamedTuple):
    """A file or folder that is not part of a set, and why."""

    name: str  # below the root, with "/"
    reason: str


class FoundFile(NamedTuple):
    """A file, and the class and the split that its place names, if any."""

    name: str
    class_name: str
    split: Split | None
    size: int
    mtime_ns: int


def scan_folder(root: Path) -> tuple[str, list[FoundFile], list[str], list[LeftOut]]:
    """Return the layout of a folder in words, its files, its classes and what it has besides."""
    folders, loose = _list_folder(root)
    left_out = [LeftOut(name, "in no class folder") for name in loose]
    inner = {folder: _list_folder(root / folder)[0] for folder in folders}
    with_splits = [f for f in folders if any(sub.lower() in SPLIT_NAMES for sub in inner[f])]
    splits = [f for f in folders if f.lower() in SPLIT_NAMES and f not in with_splits]
    found: list[FoundFile] = []
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


def _refuse(error: OSError) -> NoReturn:
    raise DataError(f"{error.filename} cannot be read ({error.strerror})") from error


def _list_folder(folder: Path) -> tuple[list[str], list[str]]:
    """Return the names of the folders and of the files in a folder, sorted, hidden ones aside."""
    try:
        with os.scandir(folder) as entries:
            seen = [(e.name, e.is_dir()) for e in entries if not _is_junk(e.name)]
    except OSError as error:
        _refuse(error)
    seen.sort()
    return [n for n, is_dir in seen if is_dir], [n for n, is_dir in seen if not is_dir]


def _walk(root: Path, below: str, class_name: str, split: Split | None) -> Iterator[FoundFile]:
    """Yield all files below a folder, hidden ones aside."""
    for folder, folders, names in os.walk(root / below, onerror=_refuse):
        folders[:] = [name for name in folders if not _is_junk(name)]
        prefix = Path(folder).relative_to(root).as_posix()
        for name in names:
            if not _is_junk(name):
                yield find_file(root, f"{prefix}/{name}", class_name, split)


def find_file(root: Path, name: str, class_name: str, split: Split | None) -> FoundFile:
    """Return a file with what tells a changed one; its size is -1 if it is no regular file."""
    try:
        # 10,000 Path objects would cost more than the scan.
        seen = os.stat(os.path.join(root, name))  # noqa: PTH116, PTH118
    except OSError:
        return FoundFile(name, class_name, split, -1, 0)
    size = seen.st_size if stat.S_ISREG(seen.st_mode) else -1
    return FoundFile(name, class_name, split, size, seen.st_mtime_ns)


def _is_junk(name: str) -> bool:
    """Return whether a name is one that systems leave in folders."""
    return name.startswith(".") or name.lower() in _JUNK
