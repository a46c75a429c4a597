"""ShapeNetPart in the three layouts in which it is passed on; y up.

v0         <synset>/points/<id>.pts          x y z a line
           <synset>/points_label/<id>.seg    the part of each point, from 1 within its category
v0_normal  <synset>/<id>.txt                 x y z nx ny nz part, from 0 over all categories
both       synsetoffset2category.txt, train_test_split/shuffled_{train,val,test}_file_list.json
hdf5_data  ply_data_train0.h5 and so on      `data`, `label` (category), `pid` (as v0_normal)

Source: Yi et al. 2016, "A scalable active framework for region annotation in 3D shape
collections"; the splits are those of Chang et al. 2015.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sharedmlp.data.build import SampledFile, Source, build_store, check_store, failed_file
from sharedmlp.data.errors import DataError, MissingDataError
from sharedmlp.data.hdf5_arrays import open_array, read_labels, read_points
from sharedmlp.data.io.base import MeshReadError, read_file
from sharedmlp.data.io.cloud import load_cloud
from sharedmlp.data.part_classes import PartClasses
from sharedmlp.data.sampling import choose_or_repeat, normalize_points
from sharedmlp.data.store import PointCloudStore
from sharedmlp.utils.optional_imports import require_modules
from sharedmlp.utils.seeds import generator_for_name

_SYNSETS = {  # and the number of parts of each category, 50 in all
    "02691156": ("Airplane", 4),
    "02773838": ("Bag", 2),
    "02954340": ("Cap", 2),
    "02958343": ("Car", 4),
    "03001627": ("Chair", 4),
    "03261776": ("Earphone", 3),
    "03467517": ("Guitar", 3),
    "03624134": ("Knife", 2),
    "03636649": ("Lamp", 4),
    "03642806": ("Laptop", 2),
    "03790512": ("Motorbike", 6),
    "03797390": ("Mug", 2),
    "03948459": ("Pistol", 3),
    "04099429": ("Rocket", 3),
    "04225987": ("Skateboard", 3),
    "04379243": ("Table", 3),
}
SHAPENETPART = PartClasses(
    tuple(name for name, _ in _SYNSETS.values()),
    # The set numbers its parts and does not name them.
    tuple(tuple(str(part + 1) for part in range(count)) for _, count in _SYNSETS.values()),
)
"""The 16 categories of ShapeNetPart, and their 50 parts by number: "Airplane 1"."""

_COLUMNS = ("x", "y", "z", "nx", "ny", "nz", "label")
_LAYOUT = (
    "expected ShapeNetPart: shapenetcore_partanno_segmentation_benchmark_v0 or ..._v0_normal with "
    "train_test_split/shuffled_{train,val,test}_file_list.json, or hdf5_data with "
    "ply_data_train0.h5"
)


def has_shapenetpart_split(root: str | Path, split: str) -> bool:
    """Return whether a folder has the list or the HDF5 files of a split."""
    return bool(_list_file(Path(root), split).is_file() or _hdf5_files(Path(root), split))


def prepare_shapenetpart(
    root: str | Path,
    split: str,
    *,
    pool_size: int = 2048,
    normals: bool = False,
    seed: int = 0,
    cache_dir: str | Path | None = None,
    num_workers: int | None = None,
    strict: bool = False,
    progress: bool = True,
) -> PointCloudStore:
    """Read every shape of a split by the official lists, once, and open the result.

    Labels are checked against the parts of their category. Shapes of fewer than `pool_size` points
    have some of them more than once. HDF5 files are read into memory: their clouds are normalized
    and `pool_size` is that of the files. Cache, failures and the other arguments are as in
    `prepare_mesh_tree`.

    Returns:
        The store of (n, P, C) points, normalized, with the labels of points and the category of
        each cloud.

    Raises:
        MissingDataError: If a list, or a shape that it names, is missing.
        DataError: If a list or an HDF5 file is not what the layout says, or if normals are asked
            for and the layout has none.
        MeshTreeError: As `prepare_mesh_tree`.
        OSError: If the cache cannot be written.
    """
    check_store(split, pool_size)
    root = Path(root)
    if files := _hdf5_files(root, split):
        return _read_hdf5(root, files, normals)
    sources = _find_sources(root, split)
    if normals and sources[0].name.endswith(".pts"):
        raise DataError(f"{root} has no normals: take the layout v0_normal, or leave normals out")
    return build_store(
        root,
        split,
        sources,
        functools.partial(_sample, root=root, pool_size=pool_size, normals=normals, seed=seed),
        kind="shapes",
        settings={"shapenetpart": 1, "pool_size": pool_size, "normals": normals, "seed": seed},
        cloud_shape=(pool_size, 6 if normals else 3),
        class_names=SHAPENETPART.class_names,
        cache_dir=cache_dir,
        num_workers=num_workers,
        strict=strict,
        progress=progress,
    )


def read_shape(root: Path, name: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Read one shape: points (N, 3), or (N, 6) with normals, and their labels (N,) from 0 to 49.

    Args:
        root: The folder of the set.
        name: `<synset>/points/<id>.pts` or `<synset>/<id>.txt`.

    Raises:
        MeshReadError: If a file cannot be read, or a label is none of the category's parts.
    """
    path, category = root / name, list(_SYNSETS).index(name.split("/")[0])
    parts = SHAPENETPART.parts_of_category[category]
    if path.suffix == ".txt":
        cloud = load_cloud(path, columns=_COLUMNS)
        if cloud.labels is None or cloud.normals is None:
            raise MeshReadError(path, f"expected x y z nx ny nz part: {dict(cloud.reasons)}")
        _check_parts(path, cloud.labels, parts[0], parts[-1], category)
        return np.concatenate([cloud.points, cloud.normals], axis=1), cloud.labels
    points, seg = load_cloud(path).points, _parts_file(path)
    try:
        labels = np.array([int(word) for word in read_file(seg).split()], dtype=np.int64)
    except ValueError as error:
        raise MeshReadError(seg, f"expected one part a line ({error})") from error
    if len(labels) != len(points):
        raise MeshReadError(seg, f"has {len(labels)} lines for {len(points)} points")
    _check_parts(seg, labels, 1, len(parts), category)
    return points, labels - 1 + parts[0]


def _check_parts(
    path: Path, labels: NDArray[np.int64], lowest: int, highest: int, category: int
) -> None:
    if labels.min() < lowest or labels.max() > highest:
        raise MeshReadError(
            path,
            f"expected parts from {lowest} to {highest} of the category "
            f"{SHAPENETPART.categories[category]}, got {labels.min()} to {labels.max()}",
        )


def _list_file(root: Path, split: str) -> Path:
    return root / "train_test_split" / f"shuffled_{split}_file_list.json"


def _parts_file(points: Path) -> Path:
    return points.parent.parent / "points_label" / f"{points.stem}.seg"


def _find_sources(root: Path, split: str) -> list[Source]:
    """Return the shapes that the official list of a split names, in its order."""
    path = _list_file(root, split)
    if not path.is_file():
        raise MissingDataError(f"{path} is missing; {_LAYOUT}")
    try:
        entries = [entry.split("/")[-2:] for entry in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, AttributeError) as error:
        raise DataError(f"{path} is no JSON list of names ({error}); {_LAYOUT}") from error
    sources, missing = [], []
    for entry in entries:
        if len(entry) != 2 or entry[0] not in _SYNSETS or entry[1] in ("", ".", ".."):
            raise DataError(f"{path}: expected shape_data/<synset>/<id>, got {'/'.join(entry)!r}")
        synset, shape = entry
        label = list(_SYNSETS).index(synset)
        with_normals, points = root / synset / f"{shape}.txt", root / synset / "points" / shape
        points = points.with_name(f"{shape}.pts")
        found = [with_normals] if with_normals.is_file() else [points, _parts_file(points)]
        if not all(file.is_file() for file in found):
            missing.append(f"{synset}/{shape}")
            continue
        stats = [file.stat() for file in found]
        time = max(stat.st_mtime_ns for stat in stats)
        name = found[0].relative_to(root).as_posix()
        sources.append(Source(name, label, sum(stat.st_size for stat in stats), time))
    if missing or not sources:
        raise MissingDataError(
            f"{root}: {len(missing)} of {len(entries)} shapes that {path.name} names are missing"
            + (f", the first is {missing[0]}" if missing else "")
            + f": unpack the set again; {_LAYOUT}"
        )
    return sources


def _sample(source: Source, *, root: Path, pool_size: int, normals: bool, seed: int) -> SampledFile:
    """Read one shape; runs in a worker process."""
    try:
        points, labels = read_shape(root, source.name)
    except MeshReadError as error:
        return failed_file(error.path, str(error))
    rng = generator_for_name(seed, source.name)
    chosen = choose_or_repeat(len(points), pool_size, rng)
    kept = points[chosen] if normals else points[chosen, :3]
    # No note of repeated points: nearly every category has such shapes.
    return SampledFile(normalize_points(kept), point_labels=labels[chosen])


def _hdf5_files(root: Path, split: str) -> list[Path]:
    return sorted(root.glob(f"ply_data_{split}[0-9]*.h5"))


def _read_hdf5(root: Path, files: list[Path], normals: bool) -> PointCloudStore:
    """Read the HDF5 files of a split."""
    if normals:
        raise DataError(f"{root} has no normals: take the layout v0_normal, or leave normals out")
    require_modules("h5py", extra="train", purpose="Reading HDF5")
    import h5py

    points, labels, categories, names = [], [], [], []
    first = np.array([parts[0] for parts in SHAPENETPART.parts_of_category])
    last = np.array([parts[-1] for parts in SHAPENETPART.parts_of_category])
    for path in files:
        try:
            file = h5py.File(path, "r")
        except OSError as error:
            raise DataError(f"{path}: no readable HDF5 file ({error})") from error
        with file:
            clouds = read_points(path, file, ())
            category = read_labels(path, file, len(clouds))
            parts = np.asarray(open_array(path, file, "pid")[...]).astype(np.int64)
        if parts.shape != clouds.shape[:2] or category.min() < 0 or category.max() >= len(first):
            raise DataError(
                f"{path}: expected categories from 0 to {len(first) - 1} and 'pid' of shape "
                f"{clouds.shape[:2]}, got {category.min()} to {category.max()} and {parts.shape}"
            )
        wrong = (parts < first[category][:, None]) | (parts > last[category][:, None])
        if wrong.any():
            row = int(np.argmax(wrong.any(axis=1)))
            raise DataError(
                f"{path}: cloud {row} is of the category {SHAPENETPART.categories[category[row]]}, "
                f"whose parts are {first[category[row]]} to {last[category[row]]}, got "
                f"{parts[row].min()} to {parts[row].max()}"
            )
        points.append(normalize_points(clouds))
        labels.append(parts)
        categories.append(category)
        names += [f"{path.name}:{row}" for row in range(len(clouds))]
    return PointCloudStore(
        np.concatenate(points),
        np.concatenate(labels),
        tuple(names),
        SHAPENETPART.class_names,
        categories=np.concatenate(categories),
    )
