"""Meshes whose faces are parts: sampled into clouds whose points are labelled by part.

The layout is what `write_shapes(root, parts=True)` writes, and takes meshes of one's own too:

<root>/parts.json                             {"mug": ["cup", "handle"], ...}
<root>/<category>/{train,val,test}/<name>.off     any format of meshes
<root>/<category>/{train,val,test}/<name>.seg     the part of each face, from 0 within its category

Parts of different categories are different classes, as in ShapeNetPart: "mug handle".
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sharedmlp.data.build import SampledFile, Source, build_store, check_store, failed_file
from sharedmlp.data.errors import DataError, MissingDataError
from sharedmlp.data.io.base import MeshReadError
from sharedmlp.data.io.formats import FORMATS
from sharedmlp.data.io.mesh import read_mesh
from sharedmlp.data.part_classes import PartClasses
from sharedmlp.data.sampling import draw_surface_and_faces, normalize_points
from sharedmlp.data.shape_classes import PARTS
from sharedmlp.data.shapes import PART_NAMES_FILE
from sharedmlp.data.store import PointCloudStore
from sharedmlp.utils.seeds import generator_for_name

_LAYOUT = (
    f"expected {PART_NAMES_FILE} with the names of the parts of each category, and "
    "<category>/{train,test}/<name>.off with <name>.seg beside it"
)


def generated_part_classes() -> PartClasses:
    """Return the categories and parts of the generated shapes (`write_shapes(parts=True)`)."""
    return PartClasses(tuple(sorted(PARTS)), tuple(PARTS[name] for name in sorted(PARTS)))


def read_part_classes(root: str | Path) -> PartClasses:
    """Return the categories of a set, in the order of `parts.json`, and their parts.

    Raises:
        MissingDataError: If that file is missing.
        DataError: If it is not what the layout says.
    """
    path = Path(root) / PART_NAMES_FILE
    if not path.is_file():
        raise MissingDataError(f"{path} is missing; {_LAYOUT}")
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is no JSON ({error}); {_LAYOUT}") from error
    if not isinstance(names, Mapping) or not all(
        isinstance(parts, list) and parts and all(isinstance(part, str) for part in parts)
        for parts in names.values()
    ):
        raise DataError(f"{path} has no list of names for each category; {_LAYOUT}")
    return PartClasses(tuple(names), tuple(tuple(parts) for parts in names.values()))


def find_part_meshes(root: str | Path, split: str) -> list[Path]:
    """Return the meshes of a split, by category and name."""
    suffixes = {suffix for suffix, entry in FORMATS.items() if entry.kind == "mesh"}
    return [
        path
        for category in read_part_classes(root).categories
        for path in sorted((Path(root) / category / split).glob("*"))
        if path.suffix.lower() in suffixes
    ]


def prepare_part_meshes(
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
    """Sample every mesh of a split, once, and open the result.

    Each point has the part of the face that it lies on. Cache, failures, processes and the other
    arguments are as in `prepare_mesh_tree`.

    Returns:
        The store of (n, P, C) points, normalized, with the labels of points and the category of
        each cloud.

    Raises:
        MissingDataError: If the names of the parts or the files of the split are missing.
        DataError: If the names are not what the layout says.
        MeshTreeError: As `prepare_mesh_tree`.
        OSError: If the cache cannot be written.
    """
    check_store(split, pool_size)
    root, classes = Path(root), read_part_classes(root)
    sources = []
    for path in find_part_meshes(root, split):
        parts = path.with_suffix(".seg")
        size = parts.stat().st_size if parts.is_file() else -1
        # A change of either file is a change of the source.
        stat, label = path.stat(), classes.categories.index(path.parent.parent.name)
        time = max(stat.st_mtime_ns, parts.stat().st_mtime_ns if size >= 0 else 0)
        name = path.relative_to(root).as_posix()
        sources.append(Source(name, label, stat.st_size + size, time))
    if not sources:
        raise MissingDataError(f"{root} has no meshes for the {split} split; {_LAYOUT}")
    return build_store(
        root,
        split,
        sources,
        functools.partial(
            _sample, root=root, classes=classes, pool_size=pool_size, normals=normals, seed=seed
        ),
        kind="meshes",
        settings={"parts": classes.parts, "pool_size": pool_size, "normals": normals, "seed": seed},
        cloud_shape=(pool_size, 6 if normals else 3),
        class_names=classes.class_names,
        cache_dir=cache_dir,
        num_workers=num_workers,
        strict=strict,
        progress=progress,
    )


def read_face_parts(path: Path, num_faces: int, num_parts: int) -> NDArray[np.int64]:
    """Return the part of each face of a mesh, (num_faces,).

    Raises:
        MeshReadError: If the file cannot be read, or does not fit the mesh or the category.
    """
    try:
        words = path.read_text(encoding="ascii").split()
        parts = np.array([int(word) for word in words], dtype=np.int64)
    except OSError as error:
        reason = f"cannot be opened ({error.strerror}): expected the part of each face, one a line"
        raise MeshReadError(path, reason) from error
    except ValueError as error:
        raise MeshReadError(path, f"expected one number a line ({error})") from error
    if len(parts) != num_faces:
        raise MeshReadError(path, f"has {len(parts)} lines for a mesh of {num_faces} faces")
    if parts.min() < 0 or parts.max() >= num_parts:
        raise MeshReadError(
            path,
            f"expected parts from 0 to {num_parts - 1}, as {PART_NAMES_FILE} has {num_parts} of "
            f"this category, got {parts.min()} to {parts.max()}",
        )
    return parts


def _sample(
    source: Source, *, root: Path, classes: PartClasses, pool_size: int, normals: bool, seed: int
) -> SampledFile:
    """Sample one mesh; runs in a worker process."""
    path = root / source.name
    parts = classes.parts_of_category[source.label]
    try:
        mesh = read_mesh(path)
        face_parts = read_face_parts(path.with_suffix(".seg"), len(mesh.faces), len(parts))
    except MeshReadError as error:
        return failed_file(error.path, str(error))
    rng = generator_for_name(seed, source.name)
    points, faces = draw_surface_and_faces(mesh, pool_size, seed=rng, normals=normals)
    labels = np.asarray(parts)[face_parts[faces]]
    return SampledFile(normalize_points(points), point_labels=labels)
