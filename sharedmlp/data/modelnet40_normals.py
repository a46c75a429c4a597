"""The text layout in which ModelNet is passed on with normals (`modelnet40_normal_resampled`).

<root>/modelnet40_shape_names.txt     one class name a line, in the order of the labels
<root>/modelnet40_train.txt           one cloud a line: `night_stand_0001`
<root>/modelnet40_test.txt
<root>/modelnet10_...                 the same three of ModelNet10, a part of the clouds
<root>/night_stand/night_stand_0001.txt   `x,y,z,nx,ny,nz` a line, 10,000 lines

Text is slow to read: the clouds are parsed once, on all cores, into the same kind of cache that
meshes are sampled into.
"""

import functools
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sharedmlp.data.build import SampledFile, Source, build_store, check_store, failed_file
from sharedmlp.data.errors import DataError, MissingDataError
from sharedmlp.data.io.base import MeshReadError, read_file
from sharedmlp.data.io.fields import are_unit_vectors
from sharedmlp.data.io.number_table import parse_floats
from sharedmlp.data.name_list import read_names
from sharedmlp.data.sampling import normalize_points
from sharedmlp.data.store import PointCloudStore
from sharedmlp.utils.seeds import generator_for_name

Subset = Literal["modelnet40", "modelnet10"]

_COLUMNS = 6
_LARGEST = float(np.finfo(np.float32).max)
_LAYOUT = (
    "expected the layout of modelnet40_normal_resampled: modelnet40_shape_names.txt, "
    "modelnet40_train.txt, modelnet40_test.txt and <class>/<class>_0001.txt"
)


def is_modelnet40_normals(root: str | Path) -> bool:
    """Return whether a folder has the lists of this layout."""
    return (Path(root) / "modelnet40_shape_names.txt").is_file()


def read_modelnet40_normals_class_names(
    root: str | Path, subset: Subset = "modelnet40"
) -> tuple[str, ...]:
    """Return the class names of a subset, in the order of its labels.

    Raises:
        MissingDataError: If their file is missing.
        DataError: If it is empty.
        ValueError: If there is no such subset.
    """
    if subset not in ("modelnet40", "modelnet10"):
        raise ValueError(f"expected the subset 'modelnet40' or 'modelnet10', got {subset!r}")
    return tuple(read_names(Path(root) / f"{subset}_shape_names.txt", _LAYOUT))


def prepare_modelnet40_normals(
    root: str | Path,
    split: Literal["train", "test"],
    *,
    subset: Subset = "modelnet40",
    pool_size: int = 10_000,
    normals: bool = False,
    seed: int = 0,
    cache_dir: str | Path | None = None,
    num_workers: int | None = None,
    strict: bool = False,
    progress: bool = True,
) -> PointCloudStore:
    """Parse every cloud of a split, once, and open the result.

    Cache, failures and processes are as in `prepare_mesh_tree`. The points are normalized
    (`normalize_points`) before some are chosen. This set has y up.

    Args:
        root: The folder with `modelnet40_shape_names.txt`.
        split: "train" or "test".
        subset: Which of the two lists to read.
        pool_size: Points kept of a cloud, P; a random subset if it has more.
        normals: Whether to keep the normals: C is 6 instead of 3.
        seed: Seeds the subsets.
        cache_dir: Where caches are kept; None for `<root>/.sharedmlp_cache`.
        num_workers: Number of processes: None for one a core, 0 or 1 for no further one.
        strict: Whether a file that cannot be used is an error.
        progress: Show a progress bar on stderr while parsing.

    Returns:
        The store of (n, P, C) points, memory-mapped.

    Raises:
        MissingDataError: If a list or a cloud that it names is missing.
        DataError: If a list does not fit the classes.
        ValueError: If an argument is out of range.
        MeshTreeError: If no cloud can be used, if a file cannot be opened at all, or, with
            `strict`, if any file cannot be used; it lists all of them.
        OSError: If the cache cannot be written.
    """
    if split not in ("train", "test"):
        raise ValueError(f"expected the split 'train' or 'test', got {split!r}")
    check_store(split, pool_size)
    root = Path(root)
    class_names = read_modelnet40_normals_class_names(root, subset)
    return build_store(
        root,
        split,
        _find_sources(root, root / f"{subset}_{split}.txt", class_names),
        functools.partial(_sample, root=root, pool_size=pool_size, normals=normals, seed=seed),
        kind="clouds",
        settings={"pool_size": pool_size, "normals": normals, "seed": seed},
        cloud_shape=(pool_size, _COLUMNS if normals else 3),
        class_names=class_names,
        cache_dir=cache_dir,
        num_workers=num_workers,
        strict=strict,
        progress=progress,
    )


def read_cloud_with_normals(path: Path) -> NDArray[np.float64]:
    """Read one text file of the set.

    Args:
        path: The file, `x,y,z,nx,ny,nz` a line.

    Returns:
        (lines, 6), in the file's own units.

    Raises:
        MeshReadError: If the file cannot be opened, is empty, or a line is not six numbers
            that are finite in float32; it names the line.
    """
    content = read_file(path)
    values = _parse_plain(content)
    return _parse_lines(path, content) if values is None else values


def _parse_plain(content: bytes) -> NDArray[np.float64] | None:
    """Parse a file without any blanks; None for another one, or one that is not sound."""
    text = content.replace(b"\r\n", b"\n").rstrip(b"\n") + b"\n"
    if b" " in text or b"\t" in text:
        return None
    # Counted, as two commas would look like one when they have become blanks.
    if text.count(b",") != (_COLUMNS - 1) * text.count(b"\n"):
        return None
    values = parse_floats(text.replace(b",", b" "), _COLUMNS)
    return values if values is not None and np.abs(values).max() < _LARGEST else None


def _parse_lines(path: Path, content: bytes) -> NDArray[np.float64]:
    """Parse any file line by line, to find the words for what is wrong."""
    rows: list[list[float]] = []
    lines = content.decode("ascii", errors="replace").replace("\r\n", "\n").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = [float(token) for token in line.split(",")]
        except ValueError:
            row = []
        if len(row) != _COLUMNS or "_" in line or not all(abs(v) < _LARGEST for v in row):
            found = repr(line if len(line) <= 60 else line[:57] + "...")
            raise MeshReadError(
                path,
                f"line {number}: expected x,y,z,nx,ny,nz, six finite numbers, found {found}",
            )
        rows.append(row)
    if not rows:
        raise MeshReadError(path, "the file is empty")
    return np.array(rows)


def _find_sources(root: Path, listing: Path, class_names: tuple[str, ...]) -> list[Source]:
    """Return the files that a list names, in its order."""
    labels = {name: label for label, name in enumerate(class_names)}
    sources: list[Source] = []
    missing: list[str] = []
    names = read_names(listing, _LAYOUT)
    for cloud in names:
        class_name = cloud.rpartition("_")[0]
        # A name with a folder in it would lead elsewhere, if a class is called so too.
        if class_name not in labels or Path(cloud).name != cloud or class_name in (".", ".."):
            raise DataError(
                f"{listing}: {cloud!r} belongs to no class of {len(labels)} in the list of "
                f"names; {_LAYOUT}"
            )
        name = f"{class_name}/{cloud}.txt"
        try:
            stat = (root / name).stat()
        except FileNotFoundError:
            missing.append(name)
            continue
        sources.append(Source(name, labels[class_name], stat.st_size, stat.st_mtime_ns))
    if missing:
        raise MissingDataError(
            f"{root}: {len(missing)} of {len(names)} clouds that {listing.name} names are "
            f"missing, the first is {missing[0]}: unpack the set again; {_LAYOUT}"
        )
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{listing}: {twice!r} is named more than once")
    return sources


def _sample(source: Source, *, root: Path, pool_size: int, normals: bool, seed: int) -> SampledFile:
    """Read one cloud; runs in a worker process."""
    path = root / source.name
    try:
        values = read_cloud_with_normals(path)
    except MeshReadError as error:
        return failed_file(path, error.reason)
    if len(values) < pool_size:
        return SampledFile(None, f"{len(values)} points where pool_size asks for {pool_size}")
    if not np.ptp(values[:, :3], axis=0).any():
        return failed_file(path, f"all {len(values)} points are equal")
    if normals and not are_unit_vectors(values[:, 3:]):
        lengths = np.linalg.norm(values[:, 3:], axis=1)
        return failed_file(
            path,
            f"columns 4 to 6 are no normals: their lengths are from {lengths.min():.3g} to "
            f"{lengths.max():.3g}, expected 1",
        )
    points = normalize_points(values if normals else values[:, :3])
    if len(points) > pool_size:
        rng = generator_for_name(seed, source.name)
        points = points[np.sort(rng.choice(len(points), pool_size, replace=False))]
    return SampledFile(points)
