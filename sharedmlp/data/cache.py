"""The cache of sampled clouds: written atomically, opened by memory map.

A cache is one directory, `points.npy` with (n, P, C) float32, `labels.npy` with (n, P) int16 if
the points have labels, and `index.json` with everything else. Its name carries a key over all that
it was made from, so that a changed mesh or setting means another directory. It is built under a
temporary name beside its place, synced to disk and renamed: a directory under the final name is
complete. What disks and copies do to it later shows in checksums (CRC-32), verified once by each
process that opens it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import logging
import re
import shutil
import time
import uuid
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from sharedmlp.data.store import PointCloudStore
from sharedmlp.utils.files import sync_file, sync_folder

_FORMAT = 2  # to be raised with every change of what is stored or how meshes are sampled
_POINTS, _LABELS, _INDEX = "points.npy", "labels.npy", "index.json"
_LABEL_TYPE = np.int16
# A build writes all the time; one that has not for an hour was killed.
_ABANDONED_SECONDS = 3600
_ATTEMPTS = 5  # if other processes repair the same cache at the same time
_UNFINISHED = re.compile(r"\.(?:train|val|test)-[0-9a-f]{24}-[0-9a-f]{32}(?:-damaged)?")
_log = logging.getLogger(__name__)


class CacheEntry(NamedTuple):
    """One cloud of a split: its points (P, C), maybe with a note, or None and the reason.

    If its points have labels (P,), `label` is its category, or -1 if it has none.
    """

    name: str
    label: int
    points: NDArray[np.float32] | None
    reason: str = ""
    point_labels: NDArray[np.int64] | None = None


def cache_key(description: Mapping[str, Any]) -> str:
    """Return a SHA-256 over a JSON-able description of all that a cache is made from."""
    text = json.dumps({**description, "format": _FORMAT}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def open_cache(directory: Path, key: str) -> PointCloudStore | None:
    """Open a cache.

    Args:
        directory: The cache's own directory.
        key: The key it has to have.

    Returns:
        The store, its points memory-mapped and read-only; None if the cache is missing or
        damaged.
    """
    if not directory.exists():
        return None
    try:
        index = json.loads((directory / _INDEX).read_text(encoding="utf-8"))
        if index.pop("index_crc32") != _checksum_index(index) or index["key"] != key:
            raise ValueError(f"{_INDEX} is not what was written")
        points = _open_array(directory / _POINTS, index["points_bytes"], index["points_crc32"])
        labels, categories = np.array(index["labels"], dtype=np.int64), None
        if "labels_bytes" in index:
            categories = labels if len(labels) and labels.min() >= 0 else None
            labels = _open_array(directory / _LABELS, index["labels_bytes"], index["labels_crc32"])
        return PointCloudStore(
            points=points,
            labels=labels,
            categories=categories,
            names=tuple(index["names"]),
            class_names=tuple(index["class_names"]),
            failures=tuple(index["failures"]),
            notes=tuple(index.get("notes", ())),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _log.warning("The point cache %s is damaged (%s) and will be built anew.", directory, error)
        return None


def _open_array(path: Path, size: int, checksum: int) -> NDArray[Any]:
    """Return the read-only map of a file that has the size and the CRC-32 it was written with."""
    stat = path.stat()
    if size != stat.st_size:
        raise ValueError(f"{stat.st_size} bytes of {path.stem} where {size} were written")
    if checksum != _checksum_file(path, (stat.st_size, stat.st_mtime_ns, stat.st_ino)):
        raise ValueError(f"{path.name} is not what was written")
    array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def write_cache(
    directory: Path,
    key: str,
    results: Iterable[CacheEntry],
    cloud_shape: tuple[int, int],
    class_names: tuple[str, ...],
) -> PointCloudStore:
    """Write a cache completely, or leave nothing behind, and open it.

    If another process finishes the same cache first, its copy is used and this one dropped.

    Args:
        directory: The cache's own directory, which is missing or damaged.
        key: Its key.
        results: The clouds in their order; consumed while writing, so never all in memory. The
            points of all of them have labels, or of none.
        cloud_shape: (P, C) of every cloud.
        class_names: The classes.

    Returns:
        The store, as `open_cache` returns it.

    Raises:
        OSError: If the place cannot be written to, or is full.
    """
    temporary = directory.parent / f".{directory.name}-{uuid.uuid4().hex}"
    try:
        temporary.mkdir(parents=True)
        _remove_abandoned(directory.parent)
        _write_files(temporary, key, results, cloud_shape, class_names)
        _publish(temporary, directory, key)
    except OSError as error:
        raise OSError(
            error.errno or errno.EACCES,
            f"the point cache cannot be written to {directory.parent} ({error.strerror}); make "
            "room there, or name a writable folder by cache_dir",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for _ in range(_ATTEMPTS):
        if (pool := open_cache(directory, key)) is not None:
            return pool
        time.sleep(0.1)  # another process took it for the damaged one and is about to replace it
    raise OSError(errno.EIO, f"the point cache {directory} cannot be read back")


def _remove_abandoned(folder: Path) -> None:
    """Remove what builds left behind that were killed."""
    for path in folder.iterdir():
        if not _UNFINISHED.fullmatch(path.name):
            continue
        try:
            written = max(part.stat().st_mtime for part in (path, *path.iterdir()))
        except OSError:
            continue  # another process has removed it
        if time.time() - written > _ABANDONED_SECONDS:
            shutil.rmtree(path, ignore_errors=True)


@functools.lru_cache
def _checksum_file(path: Path, seen: tuple[int, int, int]) -> int:
    """Return the CRC-32 of a file, computed once for each size, time and inode of it."""
    checksum, buffer = 0, bytearray(1 << 20)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            checksum = zlib.crc32(memoryview(buffer)[:count], checksum)
    return checksum


def _checksum_index(index: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(index, sort_keys=True).encode())


def _write_files(
    folder: Path,
    key: str,
    results: Iterable[CacheEntry],
    cloud_shape: tuple[int, int],
    class_names: tuple[str, ...],
) -> None:
    names: list[str] = []
    labels: list[int] = []
    failures: list[str] = []
    notes: list[str] = []
    with (
        _ArrayWriter(folder / _POINTS, np.float32, cloud_shape) as points_file,
        _ArrayWriter(folder / _LABELS, _LABEL_TYPE, cloud_shape[:1]) as labels_file,
    ):
        for name, label, points, reason, point_labels in results:
            if points is None:
                failures.append(f"{name}: {reason}")
                continue
            if points.shape != cloud_shape or points.dtype != np.float32:
                raise ValueError(f"{name}: got {points.dtype} {points.shape}, not {cloud_shape}")
            points_file.append(points)
            if point_labels is not None:
                labels_file.append(point_labels.astype(_LABEL_TYPE))
            if reason:
                notes.append(f"{name}: {reason}")
            names.append(name)
            labels.append(label)
    index = {
        "key": key,
        **points_file.describe("points"),
        "class_names": class_names,
        "names": names,
        "labels": labels,
        "failures": failures,
        "notes": notes,
    }
    if labels_file.count:
        if labels_file.count != len(names):
            raise ValueError(f"got labels of points for {labels_file.count} of {len(names)} clouds")
        index |= labels_file.describe("labels")
    else:
        (folder / _LABELS).unlink()
    with (folder / _INDEX).open("w", encoding="utf-8") as text_file:
        json.dump({**index, "index_crc32": _checksum_index(index)}, text_file)
        sync_file(text_file)
    sync_folder(folder)


class _ArrayWriter:
    """Writes an .npy file item by item; how many there are is known at the end.

    Args:
        path: The file.
        dtype: The type of the array.
        item_shape: The shape without the first axis.
    """

    def __init__(self, path: Path, dtype: type, item_shape: tuple[int, ...]) -> None:
        self.path, self.dtype, self.item_shape = path, np.dtype(dtype), item_shape
        self.count = self.size = 0

    def __enter__(self) -> _ArrayWriter:
        self.file = self.path.open("wb")
        self.start = self._write_header()
        return self

    def append(self, item: NDArray[Any]) -> None:
        self.file.write(item.tobytes())
        self.count += 1

    def __exit__(self, kind: object, *_: object) -> None:
        with self.file:
            if kind is not None:
                return
            self.size = self.file.tell()
            self.file.seek(0)
            # NumPy pads the header so that the first axis may grow: the final one fits.
            if self._write_header() != self.start:
                raise RuntimeError("NumPy's header has changed its length")
            sync_file(self.file)

    def describe(self, name: str) -> dict[str, int]:
        """Return the size and the checksum of the whole file, the final header included."""
        checksum = _checksum_file(self.path, (self.size, 0, 0))
        return {f"{name}_bytes": self.size, f"{name}_crc32": checksum}

    def _write_header(self) -> int:
        description = npy_format.dtype_to_descr(self.dtype)
        shape = (self.count, *self.item_shape)
        header = {"descr": description, "fortran_order": False, "shape": shape}
        npy_format.write_array_header_1_0(self.file, header)
        return int(self.file.tell())


def _publish(temporary: Path, directory: Path, key: str) -> None:
    for _ in range(_ATTEMPTS):
        try:
            temporary.rename(directory)
        except OSError as error:
            failure = error
        else:
            sync_folder(directory.parent)
            return
        if open_cache(directory, key) is not None:
            return  # another process was first
        damaged = temporary.with_name(f"{temporary.name}-damaged")
        with contextlib.suppress(FileNotFoundError):  # another process may have taken it away
            directory.rename(damaged)
            shutil.rmtree(damaged, ignore_errors=True)
    raise failure
