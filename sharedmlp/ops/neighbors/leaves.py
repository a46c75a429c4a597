"""Large clouds in few dimensions: leaves of a k-d tree, so that only near ones are searched.

The leaves decide which pairs are looked at, never what the answer is: whatever is left out is
farther away by the bits of `squared_distances`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sharedmlp.ops.neighbors.distances import squared_distances
from sharedmlp.ops.neighbors.nearest import kth_distance, nearest

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_DIMENSIONS = 8
# From this many pairs on, leaves are faster than all pairs.
_MIN_PAIRS = 2**26
_LEAF_SIZE = 256


def leaves_pay(points: Tensor, queries: Tensor) -> bool:
    """Return whether a search among `(b, n, C)` is faster with leaves than with all pairs."""
    num_pairs = points.shape[1] * queries.shape[1]
    return points.shape[-1] <= MAX_DIMENSIONS and num_pairs >= _MIN_PAIRS


class Leaves:
    """The rows of one cloud, split into boxes of near points.

    Attributes:
        rows: For each of the L leaves its rows, int64, ascending.
        low: `(L, C)`, the lower corners of the boxes.
        high: `(L, C)`, the upper corners.
    """

    def __init__(self, points: Tensor) -> None:
        """Split a cloud `(n, C)` at medians of its widest axis; equal points stay together."""
        array = points.cpu().numpy()
        self.rows: list[Tensor] = []
        low, high = [], []
        stack: list[NDArray[np.int64]] = [np.arange(len(array))]
        while stack:
            rows = stack.pop()
            block = array[rows]
            extent = block.max(0) - block.min(0)
            axis = int(extent.argmax())
            if len(rows) > _LEAF_SIZE and extent[axis] > 0:
                half = len(rows) // 2
                order = block[:, axis].argpartition(half)
                stack += [rows[order[half:]], rows[order[:half]]]
            else:
                self.rows.append(torch.from_numpy(np.sort(rows)).to(points.device))
                low.append(block.min(0))
                high.append(block.max(0))
        self.low = torch.from_numpy(np.stack(low)).to(points.device)
        self.high = torch.from_numpy(np.stack(high)).to(points.device)
        self._counts = torch.tensor([len(rows) for rows in self.rows], device=points.device)

    def distances(self, low: Tensor, high: Tensor) -> Tensor:
        """Return lower bounds `(L,)` of the squared distances to the points in a box `(C,)`."""
        gap = torch.maximum(self.low - high, low - self.high).clamp_(min=0)
        return squared_distances(gap, torch.zeros_like(gap))

    def join(self, chosen: Tensor) -> Tensor:
        """Return the rows of the leaves in a bool `(L,)`, ascending."""
        return torch.cat([self.rows[i] for i in chosen.nonzero()[:, 0].tolist()]).sort().values

    def enough(self, distances: Tensor, count: int) -> Tensor:
        """Return which leaves, the nearest first, have this many points together, bool `(L,)`."""
        order = distances.argsort()
        before = self._counts[order].cumsum(0) - self._counts[order]
        return torch.zeros_like(order, dtype=torch.bool).scatter_(0, order, before < count)


def near_queries(leaves: Leaves, queries: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield near queries together: their rows, themselves, and the distances of all leaves `(L,)`.

    Of queries that are all equal only one is given; its answer is everybody's.
    """
    of_queries = Leaves(queries)
    for rows, low, high in zip(of_queries.rows, of_queries.low, of_queries.high, strict=True):
        some = queries[rows[:1] if torch.equal(low, high) else rows]
        yield rows, some, leaves.distances(low, high)


def nearest_in_leaves(points: Tensor, queries: Tensor, k: int) -> Tensor:
    """Do what `nearest` does, for one cloud `(n, C)` and its queries `(q, C)`."""
    result = points.new_empty((len(queries), k), dtype=torch.int64)
    leaves = Leaves(points)
    for rows, some, distances in near_queries(leaves, queries):
        first = points[leaves.join(leaves.enough(distances, k))]
        reach = kth_distance(first[None], some[None], k).max()
        candidates = leaves.join(distances <= reach)
        found = nearest(points[candidates][None], some[None], k)[0]
        result[rows] = candidates[found]
    return result
