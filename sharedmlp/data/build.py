"""From the files of a split to its cached store: each file read once, on all cores."""

import multiprocessing
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sharedmlp.data.cache import CacheEntry, cache_key, open_cache, write_cache
from sharedmlp.data.errors import DataError
from sharedmlp.data.folder_scan import SPLITS
from sharedmlp.data.store import PointCloudStore
from sharedmlp.utils.cores import usable_cores

_CACHE_FOLDER = ".sharedmlp_cache"
# Starting processes costs more than reading a handful of files.
_FEW_FILES = 16
_MOST_NAMED = 3


class MeshTreeError(DataError):
    """Raised when files of a tree cannot be used, and going on without them is not possible.

    Attributes:
        failures: `"path: reason"` of every one of them; the message names the first ones.
    """

    def __init__(self, message: str, failures: tuple[str, ...]) -> None:
        super().__init__(message, failures)
        self.failures = failures

    def __str__(self) -> str:
        some = "; ".join(self.failures[:_MOST_NAMED])
        more = len(self.failures) - _MOST_NAMED
        return f"{self.args[0]} {some}" + (f"; and {more} more" if more > 0 else "")


class Source(NamedTuple):
    """A file from which a cloud is made; one that changes in size or time is another source."""

    name: str  # below the root, with "/"
    label: int
    size: int
    mtime_ns: int


class SampledFile(NamedTuple):
    """The cloud of a source, points (P, C), maybe with a note; or None and the reason.

    A scene that is cut gives several clouds of one source: points (k, P, C).
    """

    points: NDArray[np.float32] | None
    reason: str = ""  # of points: a note
    transient: bool = False  # the file could not be opened: may work next time
    point_labels: NDArray[np.int64] | None = None  # (P,) or (k, P)


def failed_file(path: Path, reason: str) -> SampledFile:
    """Return what stands for a file that cannot be used, or not now."""
    try:
        path.open("rb").close()
    except OSError:
        return SampledFile(None, reason, transient=True)
    return SampledFile(None, reason)


def find_cache_folder(root: Path, cache_dir: str | Path | None) -> Path:
    """Return where the caches of a set are kept: a folder of its own, if no other is named."""
    if cache_dir is not None:
        return Path(cache_dir)
    # A list of the splits that were drawn lies beside the caches of its set.
    return root if root.name == _CACHE_FOLDER else root / _CACHE_FOLDER


def check_store(split: str, pool_size: int) -> None:
    """Check what a store is asked for, before anything is looked for on the disk.

    Raises:
        ValueError: If the split is none.
        DataError: If no point would be kept.
    """
    if split not in SPLITS:
        raise ValueError(f"expected the split 'train', 'val' or 'test', got {split!r}")
    if pool_size < 1:
        raise DataError(f"pool_size has to be 1 or more, got {pool_size}")


def build_store(
    root: Path,
    split: str,
    sources: Sequence[Source],
    make: Callable[[Source], SampledFile],
    *,
    kind: str,
    settings: Mapping[str, Any],
    cloud_shape: tuple[int, int],
    class_names: tuple[str, ...],
    ignored: Sequence[str] = (),
    cache_dir: str | Path | None,
    num_workers: int | None,
    strict: bool,
    progress: bool,
) -> PointCloudStore:
    """Open the cached store of a split, after building it if it is missing or stale.

    Args:
        root: Where the sources are.
        split: "train", "val" or "test".
        sources: The files, in the order of the clouds.
        make: Makes the cloud of a file; sent to other processes, and given nothing but the file.
        kind: What the files are, in the plural, for messages.
        settings: All that `make` depends on, JSON-able; part of the cache's key.
        cloud_shape: (P, C) of every cloud.
        class_names: The classes.
        ignored: What else is at the root, in words; a build warns of it.
        cache_dir: Where caches are kept; None for `<root>/.sharedmlp_cache`.
        num_workers: Number of processes: None for one a core, 0 or 1 for no further one.
        strict: Whether a file that cannot be used is an error.
        progress: Show a progress bar on stderr while building.

    Returns:
        The store of (n, P, C) points, memory-mapped.

    Raises:
        MeshTreeError: If no file can be used, if one cannot be opened at all, or, with
            `strict`, if any cannot be used; it lists all of them.
        OSError: If the cache cannot be written.
    """
    key = cache_key({"sources": sources, "class_names": class_names, **settings})
    directory = find_cache_folder(root, cache_dir) / f"{split}-{key[:24]}"
    pool = open_cache(directory, key)
    if pool is None:
        if ignored:
            warnings.warn(f"{root}: left out: {'; '.join(ignored)}", stacklevel=3)
        results = _make_all(
            make, sources, _resolve_workers(num_workers), f"{split} {kind}", progress
        )
        pool = write_cache(directory, key, results, cloud_shape, class_names)

    if pool.failures:
        count = f"{len(pool.failures)} of {len(sources)} {split} {kind} in {root}"
        if strict or len(pool) == 0:
            raise MeshTreeError(f"{count} cannot be used:", pool.failures)
        listing = "\n  ".join(pool.failures)
        warnings.warn(f"{count} cannot be used and are left out:\n  {listing}", stacklevel=3)
    if pool.notes:
        warnings.warn(
            f"{len(pool.notes)} of {len(sources)} {split} {kind} in {root} are used as they can "
            f"be, the first is {pool.notes[0]}",
            stacklevel=3,
        )
    return pool


def _make_all(
    make: Callable[[Source], SampledFile],
    sources: Sequence[Source],
    num_workers: int,
    what: str,
    progress: bool,
) -> Iterator[CacheEntry]:
    """Make all clouds in their order; raise at the end if files could not be opened."""
    from tqdm import tqdm

    transient: list[str] = []
    bar = tqdm(
        _map(make, sources, num_workers),
        desc=f"sampling {what}",
        total=len(sources),
        unit="file",
        disable=not progress,
        # A file that keeps the log should not keep every step of the bar.
        mininterval=0.1 if sys.stderr.isatty() else 10,
    )
    for source, sampled in zip(sources, bar, strict=True):
        if sampled.transient:
            transient.append(f"{source.name}: {sampled.reason}")
        yield from _cache_entries(source, sampled)
    if transient:
        raise MeshTreeError(
            f"{len(transient)} of {len(sources)} {what} cannot be opened, nothing is cached; see "
            "to it and run again:",
            tuple(transient),
        )


def _cache_entries(source: Source, sampled: SampledFile) -> Iterator[CacheEntry]:
    """Yield the clouds of a source: itself, or `name#0`, `name#1` and so on if it was cut."""
    points, labels, (name, label) = sampled.points, sampled.point_labels, source[:2]
    if points is None or points.ndim == 2:
        yield CacheEntry(name, label, points, sampled.reason, labels)
        return
    for number, block in enumerate(points):
        note = sampled.reason if number == 0 else ""
        block_labels = None if labels is None else labels[number]
        yield CacheEntry(f"{name}#{number}", label, block, note, block_labels)


def _map(
    make: Callable[[Source], SampledFile], sources: Sequence[Source], num_workers: int
) -> Iterator[SampledFile]:
    if num_workers <= 1 or len(sources) < _FEW_FILES:
        yield from map(make, sources)
        return
    executor = ProcessPoolExecutor(min(num_workers, len(sources)), initializer=_end_with_parent)
    try:
        chunk = max(1, min(16, len(sources) // (4 * num_workers)))
        yield from executor.map(make, sources, chunksize=chunk)
    except BrokenProcessPool as error:
        raise RuntimeError(
            "a process that samples files died, perhaps for want of memory; try fewer with "
            "num_workers (1 for none; a script that is not guarded by `if __name__ == "
            "'__main__':` needs that on some systems)"
        ) from error
    finally:
        # Also if the user interrupts: what was not begun is not waited for.
        executor.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """Let a worker process end if its parent is killed; it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _resolve_workers(num_workers: int | None) -> int:
    if num_workers is not None:
        if num_workers < 0:
            raise ValueError(f"num_workers has to be 0 or more, got {num_workers}")
        return num_workers
    return usable_cores()
