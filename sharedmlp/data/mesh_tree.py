"""A tree of mesh files in ModelNet's layout, sampled once into a cache. No torch here."""

import functools
import os
from pathlib import Path
from typing import Literal

from sharedmlp.data.build import (
    SPLITS,
    MeshTreeError,
    SampledFile,
    Source,
    build_store,
    check_store,
    failed_file,
)
from sharedmlp.data.io.base import MeshReadError
from sharedmlp.data.io.formats import mesh_suffixes
from sharedmlp.data.io.mesh import read_mesh
from sharedmlp.data.sampling import draw_surface, normalize_points
from sharedmlp.data.store import PointCloudStore
from sharedmlp.utils.seeds import generator_for_name

__all__ = ["MeshTreeError", "find_class_names", "prepare_mesh_tree"]

_LAYOUT = "expected <root>/<class>/{train,test}/<name>.off, or another mesh format"


def find_class_names(root: str | Path) -> tuple[str, ...]:
    """Return the classes of a mesh tree: its folders with a `train` or a `test` folder, sorted.

    Raises:
        FileNotFoundError: If the root is not a folder.
        ValueError: If it has no such folder.
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
) -> PointCloudStore:
    """Sample every mesh of a split, once, and open the result.

    A cloud depends on the seed and on its mesh's path below the root, not on the number of
    processes. The points are normalized (`normalize_points`). The cache is keyed by the path,
    size and modification time of every mesh and by the settings: if one changes, the next
    call samples again; older caches stay until somebody deletes the cache folder.

    A file that cannot be used is left out; it is named in `PointCloudStore.failures` and, by every
    call, in a warning.

    Args:
        root: The tree, `<root>/<class>/{train,test}/<name>.off`, or OBJ, PLY, STL, glTF.
        split: "train" or "test".
        pool_size: Points sampled from a mesh, P.
        normals: Whether to append the unit normals: C is 6 instead of 3.
        seed: Seeds the sampling.
        cache_dir: Where caches are kept; None for `<root>/.sharedmlp_cache`.
        num_workers: Number of processes: None for one a core, 0 or 1 for no further one.
        strict: Whether a file that cannot be used is an error.
        progress: Show a progress bar on stderr while sampling.

    Returns:
        The store of (n, P, C) points, memory-mapped.

    Raises:
        FileNotFoundError: If the root is not a folder.
        ValueError: If the tree has no class or the split no mesh.
        MeshTreeError: If no mesh can be used, if a file cannot be opened at all, or, with
            `strict`, if any file cannot be used; it lists all of them.
        OSError: If the cache cannot be written.
    """
    check_store(split, pool_size)
    root = Path(root)
    class_names = find_class_names(root)
    sources, ignored = _find_sources(root, split, class_names)
    if not sources:
        raise ValueError(f"{root}: no mesh in any {split} folder; {_LAYOUT}")

    return build_store(
        root,
        split,
        sources,
        functools.partial(_sample, root=root, pool_size=pool_size, normals=normals, seed=seed),
        kind="meshes",
        settings={"pool_size": pool_size, "normals": normals, "seed": seed},
        cloud_shape=(pool_size, 6 if normals else 3),
        class_names=class_names,
        ignored=ignored,
        cache_dir=cache_dir,
        num_workers=num_workers,
        strict=strict,
        progress=progress,
    )


def _find_folders(root: Path) -> tuple[list[str], list[str]]:
    """Return the folders of the root that are classes, and those that are not; both sorted."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is no folder; {_LAYOUT}")
    classes: list[str] = []
    others: list[str] = []
    with os.scandir(root) as entries:
        for entry in entries:
            if entry.is_dir() and not entry.name.startswith("."):
                has_split = any((root / entry.name / split).is_dir() for split in SPLITS)
                (classes if has_split else others).append(entry.name)
    return sorted(classes), sorted(others)


def _find_sources(
    root: Path, split: str, class_names: tuple[str, ...]
) -> tuple[list[Source], list[str]]:
    """Return the mesh files of a split, sorted, and the other entries beside them."""
    suffixes = mesh_suffixes()
    sources: list[Source] = []
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
                    sources.append(Source(name, label, stat.st_size, stat.st_mtime_ns))
                else:
                    ignored.append(name)
    return sorted(sources, key=lambda source: source.name), sorted(ignored)


def _sample(source: Source, *, root: Path, pool_size: int, normals: bool, seed: int) -> SampledFile:
    """Sample one mesh; runs in a worker process."""
    path = root / source.name
    try:
        mesh = read_mesh(path)
    except MeshReadError as error:
        return failed_file(path, error.reason)
    rng = generator_for_name(seed, source.name)
    return SampledFile(normalize_points(draw_surface(mesh, pool_size, seed=rng, normals=normals)))
