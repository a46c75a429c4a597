"""The cache of sampled clouds: written whole or not at all, opened by memory map.

A cache is one directory, `points.npy` with (n, P, C) float32 and `index.json` with everything
else. Its name carries a key over all that it was made from, so that a changed mesh or setting
means another directory. It is built under a temporary name beside its place, synced to disk and
renamed: a directory under the final name is complete. The sizes are checked all the same, as a
copy or a full disk may have cut a file.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from sharedmlp.data.pool import PointPool

_FORMAT = 1  # to be raised with every change of what is stored or how meshes are sampled
_POINTS, _INDEX = "points.npy", "index.json"
_log = logging.getLogger(__name__)


class Sampled(NamedTuple):
    """What became of one mesh: points (P, C), or None and the reason."""

    name: str
    label: int
    points: NDArray[np.float32] | None
    reason: str = ""


def cache_key(description: Mapping[str, Any]) -> str:
    """A SHA-256 over a JSON-able description of all that a cache is made from."""
    text = json.dumps({**description, "format": _FORMAT}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def open_cache(directory: Path, key: str) -> PointPool | None:
    """Open a cache.

    Args:
        directory: the cache's own directory.
        key: the key it has to have.

    Returns:
        The pool, its points memory-mapped and read-only; None where there is no cache, or none
        that is whole.
    """
    if not directory.exists():
        return None
    try:
        index = json.loads((directory / _INDEX).read_text(encoding="utf-8"))
        size = (directory / _POINTS).stat().st_size
        if index["key"] != key or index["points_bytes"] != size:
            raise ValueError(f"{size} bytes of points where {index['points_bytes']} were written")
        points = np.load(directory / _POINTS, mmap_mode="r", allow_pickle=False)
        return PointPool(
            points=points,
            labels=np.array(index["labels"], dtype=np.int64),
            names=tuple(index["names"]),
            class_names=tuple(index["class_names"]),
            failures=tuple(index["failures"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("The point cache %s is damaged (%s) and will be built anew.", directory, error)
        return None


def write_cache(
    directory: Path,
    key: str,
    results: Iterable[Sampled],
    cloud_shape: tuple[int, int],
    class_names: tuple[str, ...],
) -> PointPool:
    """Write a cache whole, or leave nothing behind, and open it.

    Where another process finishes the same cache first, its copy is used and this one dropped.

    Args:
        directory: the cache's own directory, which is not there or damaged.
        key: its key.
        results: the clouds in their order; consumed while writing, so never all in memory.
        cloud_shape: (P, C) of every cloud.
        class_names: the classes.

    Returns:
        The pool, as `open_cache` gives it.

    Raises:
        OSError: where the place cannot be written to.
    """
    temporary = directory.parent / f".{directory.name}-{uuid.uuid4().hex}"
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise OSError(
            error.errno or errno.EACCES,
            f"the point cache cannot be written to {directory.parent} ({error.strerror}); name a "
            "writable folder by cache_dir",
        ) from error
    try:
        _write_files(temporary, key, results, cloud_shape, class_names)
        _publish(temporary, directory, key)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    pool = open_cache(directory, key)
    if pool is None:
        raise OSError(errno.EIO, f"the point cache {directory} cannot be read back")
    return pool


def _write_files(
    folder: Path,
    key: str,
    results: Iterable[Sampled],
    cloud_shape: tuple[int, int],
    class_names: tuple[str, ...],
) -> None:
    names: list[str] = []
    labels: list[int] = []
    failures: list[str] = []
    with (folder / _POINTS).open("wb") as file:
        # How many meshes can be read is known at the end. NumPy pads the header so that the
        # first axis may grow, so the final header fits where this one is.
        start = _write_header(file, (0, *cloud_shape))
        for name, label, points, reason in results:
            if points is None:
                failures.append(f"{name}: {reason}")
                continue
            if points.shape != cloud_shape or points.dtype != np.float32:
                raise ValueError(f"{name}: got {points.dtype} {points.shape}, not {cloud_shape}")
            file.write(points.tobytes())
            names.append(name)
            labels.append(label)
        size = file.tell()
        file.seek(0)
        if _write_header(file, (len(names), *cloud_shape)) != start:
            raise RuntimeError("NumPy's header has changed its length")
        _sync(file)
    index = {
        "key": key,
        "points_bytes": size,
        "class_names": class_names,
        "names": names,
        "labels": labels,
        "failures": failures,
    }
    with (folder / _INDEX).open("w", encoding="utf-8") as text_file:
        json.dump(index, text_file)
        _sync(text_file)
    _sync_folder(folder)


def _write_header(file: Any, shape: tuple[int, ...]) -> int:  # noqa: ANN401
    description = npy_format.dtype_to_descr(np.dtype(np.float32))
    header = {"descr": description, "fortran_order": False, "shape": shape}
    npy_format.write_array_header_1_0(file, header)
    return int(file.tell())


def _publish(temporary: Path, directory: Path, key: str) -> None:
    try:
        temporary.rename(directory)
    except OSError:
        if open_cache(directory, key) is not None:
            return  # another process was first
        damaged = temporary.with_name(f"{temporary.name}-damaged")
        directory.rename(damaged)
        temporary.rename(directory)
        shutil.rmtree(damaged, ignore_errors=True)
    _sync_folder(directory.parent)


def _sync(file: Any) -> None:  # noqa: ANN401
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    # Not every system lets a folder be opened; there the rename alone has to do.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
