"""All clouds of one split as one array."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

IGNORED_LABEL = -1
"""The label of a point that has none: it counts in no loss and in no metric."""


@dataclass(frozen=True, eq=False)
class PointCloudStore:
    """All clouds of a split, with P points each, of which a data set draws what it needs.

    Attributes:
        points: (n, P, C) float32, an array or a read-only memory map; x, y, z normalized into
            the unit sphere, then, if C is 6, the unit normal.
        labels: Positions in `class_names`: of each cloud, (n,) int64, or of each point, (n, P) of
            any type of integer, an array or a read-only memory map. A point without a label has
            `IGNORED_LABEL`.
        names: Where each cloud comes from: the path of its mesh below the root, or the HDF5 file
            and the row.
        class_names: The classes in the order of their labels.
        failures: `"path: reason"` of every mesh that could not be read and is not in the store.
        notes: `"path: note"` of what is in the store but not as expected.
        categories: (n,) int64, the category of each cloud whose points are labelled, if they have
            categories: an airplane, whose points are wings and body.
    """

    points: NDArray[np.float32]
    labels: NDArray[Any]
    names: tuple[str, ...]
    class_names: tuple[str, ...]
    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    categories: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if self.points.ndim != 3 or self.points.dtype != np.float32:
            raise ValueError(
                "expected points of shape (n, P, C) and dtype float32, got shape "
                f"{self.points.shape} and dtype {self.points.dtype}"
            )
        shapes = (self.points.shape[:1], self.points.shape[:2])
        if self.labels.shape not in shapes or len(self.names) != len(self.points):
            raise ValueError(
                f"expected one label and one name for each of {len(self.points)} clouds, or one "
                f"label for each point, got labels of shape {self.labels.shape} and "
                f"{len(self.names)} names"
            )
        lowest = IGNORED_LABEL if self.has_point_labels else 0
        if self.labels.size and not (
            self.labels.min() >= lowest and self.labels.max() < len(self.class_names)
        ):
            raise ValueError(
                f"expected labels from {lowest} to {len(self.class_names) - 1} for "
                f"{len(self.class_names)} classes, got {self.labels.min()} to {self.labels.max()}"
            )
        if self.categories is not None and self.categories.shape != shapes[0]:
            raise ValueError(
                f"expected one category for each of {len(self.points)} clouds, got categories of "
                f"shape {self.categories.shape}"
            )

    def __len__(self) -> int:
        return len(self.points)

    @property
    def has_point_labels(self) -> bool:
        """Whether points have labels, rather than clouds."""
        return self.labels.ndim == 2

    def __reduce__(self) -> tuple[Callable[..., "PointCloudStore"], tuple[Any, ...]]:
        # A worker process that is not forked receives a copy. Of a memory map that would be all
        # the points, once a worker: send the name of its file instead.
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in ("points", "labels"):
            if (file := _mapped_file(values[name])) is not None:
                values[name] = file
        return _restore, (values,)


def _mapped_file(array: NDArray[Any]) -> Path | None:
    """Return the file of which an array is a read-only map, if it is all of it."""
    if not isinstance(array, np.memmap) or array.filename is None or array.mode != "r":
        return None
    path = Path(array.filename)
    complete = array.flags.c_contiguous and array.offset + array.nbytes == path.stat().st_size
    return path if complete else None


def _restore(values: dict[str, Any]) -> PointCloudStore:
    for name in ("points", "labels"):
        if isinstance(values[name], Path):
            values[name] = np.load(values[name], mmap_mode="r", allow_pickle=False)
    return PointCloudStore(**values)
