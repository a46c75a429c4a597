"""A tree of mesh files in ModelNet's layout, sampled once into a cache. No torch here."""

import functools
import hashlib
import os
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sharedmlp.data.cache import Sampled, cache_key, open_cache, write_cache
from sharedmlp.data.mesh import MeshReadError, mesh_suffixes, read_mesh
from sharedmlp.data.pool import PointPool
from sharedmlp.data.sampling import draw_surface, normalize_points

_SPLITS = ("train", "test")
_LAYOUT = "expected <root>/<class>/{train,test}/<name>.off, or another mesh format"
_CACHE_FOLDER = ".sharedmlp_cache"
# Starting processes costs more than sampling a handful of meshes.
_FEW_FILES = 16


class MeshTreeError(ValueError):
    """Meshes of a tree cannot be used, and going on without them is not wanted or possible.

    Attributes:
        failures: `"path: reason"` of every one of them.
    """

    def __init__(self, message: str, failures: tuple[str, ...]) -> None:
        super().__init__(message, failures)
        self.failures = failures

    def __str__(self) -> str:
        return "\n  ".join([str(self.args[0]), *self.failures])


class _Source(NamedTuple):
    name: str  # below the root, with "/"
    label: int
    size: int
    mtime_ns: int


def find_class_names(root: str | Path) -> tuple[str, ...]:
    """The classes of a mesh tree: its folders that have a `train` or a `test` folder, sorted.

    Raises:
        FileNotFoundError: where the root is no folder.
        ValueError: where it has no such folder.
    """
    root = Path(root)
    classes, others = _find_folders(root)
    if not classes:
        hint = f", found the folders {others[:5]} without either" if others else ""
        raise ValueError(f"{root}: no class folder; {_LAYOUT}{hint}")
    return tuple(classes)


def prepare_mesh_tree(
    root: str | Path,
    split: Literal["train", "test"],
    *,
    pool_size: int = 2048,
    normals: bool = False,
    seed: int = 0,
    cache_dir: str | Path | None = None,
    num_workers: int | None = None,
    strict: bool = False,
    progress: bool = True,
) -> PointPool:
    """Sample every mesh of a split, once, and open the result.

    A cloud depends on the seed and on its mesh's path below the root, not on the number of
    processes. The points are normalised (`normalize_points`). The cache is keyed by the path,
    size and modification time of every mesh and by the settings: where one changes, the next
    call samples anew; the caches before stay until somebody deletes the cache folder.

    A file that cannot be used is left out; it is named in `PointPool.failures` and, by every
    call, in a warning.

    Args:
        root: the tree, `<root>/<class>/{train,test}/<name>.off` or any format that trimesh reads.
        split: "train" or "test".
        pool_size: points sampled from a mesh, P.
        normals: whether to append the unit normals: C is 6 instead of 3.
        seed: seeds the sampling.
        cache_dir: where caches are kept; `<root>/.sharedmlp_cache` where None.
        num_workers: processes; all cores where None, no other process where 0 or 1.
        strict: raise where a file cannot be used.
        progress: show a progress bar on stderr while sampling.

    Returns:
        The pool of (n, P, C) points, memory-mapped.

    Raises:
        FileNotFoundError: where the root is no folder.
        ValueError: where the tree has no class or the split no mesh.
        MeshTreeError: where no mesh can be used, where a file cannot be opened at all, or, with
            `strict`, where any file cannot be used; it lists all of them.
        OSError: where the cache cannot be written.
    """
    if split not in _SPLITS:
        raise ValueError(f"expected the split 'train' or 'test', got {split!r}")
    if pool_size < 1:
        raise ValueError(f"pool_size has to be 1 or more, got {pool_size}")
    root = Path(root)
    class_names = find_class_names(root)
    sources, ignored = _find_sources(root, split, class_names)
    if not sources:
        raise ValueError(f"{root}: no mesh in any {split} folder; {_LAYOUT}")

    key = cache_key(
        {
            "sources": sources,
            "class_names": class_names,
            "pool_size": pool_size,
            "normals": normals,
            "seed": seed,
        }
    )
    folder = Path(cache_dir) if cache_dir is not None else root / _CACHE_FOLDER
    directory = folder / f"{split}-{key[:24]}"
    pool = open_cache(directory, key)
    if pool is None:
        if ignored:
            warnings.warn(
                f"{root} ({split}): {len(ignored)} entries are no mesh files or class folders "
                f"that can be read here and are ignored: {', '.join(ignored)}",
                stacklevel=2,
            )
        sample = functools.partial(
            _sample, root=root, pool_size=pool_size, normals=normals, seed=seed
        )
        results = _sample_all(sample, sources, _resolve_workers(num_workers), split, progress)
        shape = (pool_size, 6 if normals else 3)
        pool = write_cache(directory, key, results, shape, class_names)

    if pool.failures:
        count = f"{len(pool.failures)} of {len(sources)} {split} meshes in {root}"
        if strict or len(pool) == 0:
            raise MeshTreeError(f"{count} cannot be used:", pool.failures)
        listing = "\n  ".join(pool.failures)
        warnings.warn(f"{count} cannot be used and are left out:\n  {listing}", stacklevel=2)
    return pool


def _find_folders(root: Path) -> tuple[list[str], list[str]]:
    """The folders of the root that are classes, and those that are not; both sorted."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is no folder; {_LAYOUT}")
    classes: list[str] = []
    others: list[str] = []
    with os.scandir(root) as entries:
        for entry in entries:
            if entry.is_dir() and not entry.name.startswith("."):
                has_split = any((root / entry.name / split).is_dir() for split in _SPLITS)
                (classes if has_split else others).append(entry.name)
    return sorted(classes), sorted(others)


def _find_sources(
    root: Path, split: str, class_names: tuple[str, ...]
) -> tuple[list[_Source], list[str]]:
    """The mesh files of a split, sorted, and the entries beside them that are none."""
    suffixes = mesh_suffixes()
    sources: list[_Source] = []
    ignored = [f"{name}/" for name in _find_folders(root)[1]]
    for label, class_name in enumerate(class_names):
        folder = root / class_name / split
        if not folder.is_dir():
            continue
        with os.scandir(folder) as entries:
            for entry in entries:
                name = f"{class_name}/{split}/{entry.name}"
                if entry.name.startswith("."):
                    continue
                if entry.is_file() and os.path.splitext(entry.name)[1].lower() in suffixes:  # noqa: PTH122 (10,000 Path objects cost more than the scan)
                    stat = entry.stat()
                    sources.append(_Source(name, label, stat.st_size, stat.st_mtime_ns))
                else:
                    ignored.append(name)
    return sorted(sources, key=lambda source: source.name), sorted(ignored)


class _Outcome(NamedTuple):
    points: NDArray[np.float32] | None
    reason: str = ""
    transient: bool = False  # the surroundings are at fault, not the file: may work next time


def _sample(source: _Source, *, root: Path, pool_size: int, normals: bool, seed: int) -> _Outcome:
    """Sample one mesh; runs in a worker process."""
    try:
        mesh = read_mesh(root / source.name)
    except MeshReadError as error:
        return _Outcome(None, error.reason, transient=not _can_open(root / source.name))
    digest = hashlib.sha256(f"{seed}:{source.name}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest, "little"))
    points = draw_surface(mesh, pool_size, seed=rng, normals=normals)
    return _Outcome(normalize_points(points))


def _can_open(path: Path) -> bool:
    try:
        path.open("rb").close()
    except OSError:
        return False
    return True


def _sample_all(
    sample: "functools.partial[_Outcome]",
    sources: list[_Source],
    num_workers: int,
    split: str,
    progress: bool,
) -> Iterator[Sampled]:
    """Sample all meshes in their order; raises at the end where the surroundings failed."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    transient: list[str] = []
    bar = tqdm(
        _map(sample, sources, num_workers),
        desc=f"sampling {split} meshes",
        total=len(sources),
        unit="mesh",
        disable=not progress,
        # A file that keeps the log should not keep every step of the bar.
        mininterval=0.1 if sys.stderr.isatty() else 10,
    )
    for source, outcome in zip(sources, bar, strict=True):
        if outcome.transient:
            transient.append(f"{source.name}: {outcome.reason}")
        yield Sampled(source.name, source.label, outcome.points, outcome.reason)
    if transient:
        raise MeshTreeError(
            f"{len(transient)} of {len(sources)} {split} meshes cannot be opened, nothing is "
            "cached; see to it and run again:",
            tuple(transient),
        )


def _map(
    sample: "functools.partial[_Outcome]", sources: list[_Source], num_workers: int
) -> Iterator[_Outcome]:
    if num_workers <= 1 or len(sources) < _FEW_FILES:
        yield from map(sample, sources)
        return
    executor = ProcessPoolExecutor(min(num_workers, len(sources)))
    try:
        chunk = max(1, min(16, len(sources) // (4 * num_workers)))
        yield from executor.map(sample, sources, chunksize=chunk)
    except BrokenProcessPool as error:
        raise RuntimeError(
            "a process that samples meshes died, perhaps for want of memory; try fewer with "
            "num_workers (1 for none; a script that is not guarded by `if __name__ == "
            "'__main__':` needs that on some systems)"
        ) from error
    finally:
        # Also where the user interrupts: what was not begun is not waited for.
        executor.shutdown(cancel_futures=True)


def _resolve_workers(num_workers: int | None) -> int:
    if num_workers is not None:
        if num_workers < 0:
            raise ValueError(f"num_workers has to be 0 or more, got {num_workers}")
        return num_workers
    if hasattr(os, "sched_getaffinity"):  # the cores that this process may use, on Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
