"""All clouds of one split as one array."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class PointCloudStore:
    """All clouds of a split, with P points each, of which a data set draws what it needs.

    Attributes:
        points: (n, P, C) float32, an array or a read-only memory map; x, y, z normalized into
            the unit sphere, then, if C is 6, the unit normal.
        labels: (n,) int64, positions in `class_names`.
        names: Where each cloud comes from: the path of its mesh below the root, or the HDF5 file
            and the row.
        class_names: The classes in the order of their labels.
        failures: `"path: reason"` of every mesh that could not be read and is not in the store.
        notes: `"path: note"` of what is in the store but not as expected.
    """

    points: NDArray[np.float32]
    labels: NDArray[np.int64]
    names: tuple[str, ...]
    class_names: tuple[str, ...]
    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.points.ndim != 3 or self.points.dtype != np.float32:
            raise ValueError(
                "expected points of shape (n, P, C) and dtype float32, got shape "
                f"{self.points.shape} and dtype {self.points.dtype}"
            )
        if self.labels.shape != self.points.shape[:1] or len(self.names) != len(self.points):
            raise ValueError(
                f"expected one label and one name for each of {len(self.points)} clouds, got "
                f"labels of shape {self.labels.shape} and {len(self.names)} names"
            )
        if len(self.labels) and not (
            self.labels.min() >= 0 and self.labels.max() < len(self.class_names)
        ):
            raise ValueError(
                f"expected labels from 0 to {len(self.class_names) - 1} for "
                f"{len(self.class_names)} classes, got {self.labels.min()} to {self.labels.max()}"
            )

    def __len__(self) -> int:
        return len(self.points)

    def __reduce__(self) -> tuple[Callable[..., "PointCloudStore"], tuple[Any, ...]]:
        # A worker process that is not forked receives a copy. Of a memory map that would be all
        # the points, once a worker: send the name of its file instead.
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        if (file := _mapped_file(self.points)) is not None:
            values["points"] = file
        return _restore, (values,)


def _mapped_file(points: NDArray[np.float32]) -> Path | None:
    """Return the file of which the points are a read-only map, if they are all of it."""
    if not isinstance(points, np.memmap) or points.filename is None or points.mode != "r":
        return None
    path = Path(points.filename)
    complete = points.flags.c_contiguous and points.offset + points.nbytes == path.stat().st_size
    return path if complete else None


def _restore(values: dict[str, Any]) -> PointCloudStore:
    if isinstance(values["points"], Path):
        values["points"] = np.load(values["points"], mmap_mode="r", allow_pickle=False)
    return PointCloudStore(**values)
