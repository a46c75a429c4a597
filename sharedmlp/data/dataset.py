"""The data set: a view of a store that draws the points of each cloud."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.utils.data import Dataset

from sharedmlp.data.errors import DataError
from sharedmlp.data.store import PointCloudStore

T = TypeVar("T")


def identity_collate(batch: T) -> T:
    """Return what the data set has batched already; for `DataLoader(collate_fn=...)`."""
    return batch


class PointCloudDataset(Dataset[dict[str, Tensor]]):
    """Clouds of `num_points` points, drawn from a store.

    An item is a dict of `points` (N, C) float32, `label` () int64 and `index` () int64, the
    cloud's position in the store. If the points of the store have labels, `label` is (N,), that of
    each point drawn, and clouds of categories have `category` () int64. A `DataLoader` asks for a
    whole batch at once (`__getitems__`) and gets it batched, by one read; it therefore needs
    `collate_fn=identity_collate`.

    Args:
        pool: The store that the points are drawn from.
        num_points: Points of a cloud, N; at most as many as in the store.
        indices: The positions in the store that belong to this data set; None for all.
        resample: True draws the points of each access anew, without replacement, as a function
            of the seed, the epoch (`set_epoch`) and the cloud alone: whatever the batch or the
            worker process. False takes the same random subset always.
        seed: Seeds the draws.

    Attributes:
        transform: Applied to points (B, N, C) after they are drawn, if not None.

    Raises:
        DataError: If `num_points` does not fit the store.
        ValueError: If an index does not.
    """

    def __init__(
        self,
        pool: PointCloudStore,
        *,
        num_points: int,
        indices: ArrayLike | None = None,
        resample: bool,
        seed: int = 0,
    ) -> None:
        pool_size = pool.points.shape[1]
        if not 1 <= num_points <= pool_size:
            raise DataError(
                f"expected num_points from 1 to {pool_size}, the points of a cloud in the pool, "
                f"got {num_points}; for more, sample the files with a larger pool_size"
            )
        chosen = np.arange(len(pool)) if indices is None else np.array(indices, dtype=np.int64)
        if chosen.ndim != 1 or (
            len(chosen) and not (chosen.min() >= 0 and chosen.max() < len(pool))
        ):
            raise ValueError(
                f"expected a list of indices from 0 to {len(pool) - 1}, the clouds of the pool, "
                f"got shape {chosen.shape} with {chosen.tolist()[:5]}"
            )
        self.pool = pool
        self.num_points = num_points
        self.indices = chosen
        self.resample = resample
        self.seed = seed
        self.transform: Callable[[NDArray[np.float32]], NDArray[np.float32]] | None = None
        # Not the first N: nothing says that their order is random.
        rng = np.random.default_rng(_entropy(seed))
        self._columns = np.sort(rng.choice(pool_size, num_points, replace=False))
        # In shared memory, so that worker processes that live on see the next epoch.
        self._epoch = torch.zeros((), dtype=torch.int64)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose draws `resample` makes; to be called before it is iterated."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return one item, from -len(self) to len(self) - 1."""
        return {name: values[0] for name, values in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Return the items as one batch: `points` (B, N, C), `label` (B,) or (B, N), `index` (B,).

        Clouds of categories have `category` (B,) as well.
        """
        rows = self.indices[np.asarray(indices, dtype=np.int64)]
        columns = self._choose(rows, int(self._epoch)) if self.resample else self._columns
        chosen = (rows[:, None], columns) if self.pool.has_point_labels else rows
        batch = {
            "points": self._read(rows, columns),
            "label": torch.from_numpy(np.array(self.pool.labels[chosen], dtype=np.int64)),
            "index": torch.from_numpy(rows),
        }
        if self.pool.categories is not None:
            batch["category"] = torch.from_numpy(self.pool.categories[rows])
        return batch

    def draw(self, rows: ArrayLike, number: int) -> Tensor:
        """Draw points that depend on the seed, the cloud and the number of the draw alone.

        Args:
            rows: Positions in the store, (B,); those that are the items' `index`.
            number: Which draw; `resample` makes the one with the number of the epoch.

        Returns:
            (B, N, C).
        """
        rows = np.asarray(rows, dtype=np.int64)
        return self._read(rows, self._choose(rows, number))

    def _choose(self, rows: NDArray[np.int64], number: int) -> NDArray[np.int64]:
        """Return which points of each cloud are drawn, (B, N), or (N,) if the same ones of all."""
        pool_size = self.pool.points.shape[1]
        if self.num_points == pool_size:
            return self._columns
        draws = np.empty((len(rows), self.num_points), dtype=np.int64)
        for draw, row in zip(draws, rows, strict=True):
            rng = np.random.default_rng(_entropy(self.seed, number, int(row)))
            draw[:] = rng.choice(pool_size, self.num_points, replace=False, shuffle=False)
        return draws

    def _read(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Tensor:
        # np.array: a copy in memory, also if the store is memory-mapped and read-only.
        points = np.array(self.pool.points[rows[:, None], columns])
        return torch.from_numpy(points if self.transform is None else self.transform(points))


def _entropy(*values: int) -> list[int]:
    # SeedSequence takes no negative numbers, and a seed may be one.
    return [value % 2**64 for value in values]
