"""Gathered rows, one position of all neighborhoods at a time, in buffers that fit the cache."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from sharedmlp.ops.cpu.workspace import Buffer, workspace

# Numbers of a buffer for gathered rows: large enough for a call on it to hide its overhead and what
# threads wait for each other between calls, and small enough for the caches that cores share.
BUFFER_SIZE = 262144
# With fewer clouds than this the channels are split, so that there is work for several threads. It
# must not depend on the number of threads: sums over other shapes may round differently.
FEWEST_CHUNKS = 8
_FEWEST_CHANNELS = 16
# A float32 has all integers up to this one.
_LARGEST_SUM = 2**24


class Gather:
    """The gathered rows of a table `(B, N, D)`, in chunks of one cloud and a group of channels.

    Attributes:
        table: `(B, N, D)`, contiguous.
        neighbors: `(B, Q, K)`.
        clear: Whether every maximum so far was found at one position alone.
        splits: Into how many groups the channels are split.
        num_chunks: How many chunks there are.
    """

    def __init__(self, table: Tensor, neighbors: Tensor) -> None:
        num_clouds, _, channels = table.shape
        self.table = table
        self.neighbors = neighbors
        self.clear = True
        self.splits = 1
        while (
            num_clouds * self.splits < FEWEST_CHUNKS
            and channels % (2 * self.splits) == 0
            and channels // (2 * self.splits) >= _FEWEST_CHANNELS
        ):
            self.splits *= 2
        self.num_chunks = num_clouds * self.splits

    def chunk(self, number: int) -> Chunk:
        """Return a chunk by its number."""
        return Chunk(self, *divmod(number, self.splits))


class Chunk:
    """One cloud and a group of the channels.

    Attributes:
        cloud: The number of the cloud.
        split: The number of the group of channels.
        columns: The channels.
    """

    def __init__(self, gather: Gather, cloud: int, split: int) -> None:
        self._gather = gather
        self.cloud = cloud
        self.split = split
        self._width = gather.table.shape[-1] // gather.splits
        self.columns = slice(split * self._width, (split + 1) * self._width)
        self._by_position = gather.neighbors[cloud].t().contiguous()  # (K, Q)

    def tiles(self) -> Iterator[slice]:
        """Yield the centers, as many at a time as a buffer holds."""
        num_centers = self._gather.neighbors.shape[1]
        step = max(1, BUFFER_SIZE // self._width)
        for start in range(0, num_centers, step):
            yield slice(start, min(start + step, num_centers))

    def rows(self, rows: Tensor) -> Tensor:
        """Return where rows of the cloud stand in `narrow` of a tensor."""
        splits = self._gather.splits
        return rows if splits == 1 else rows * splits + self.split

    def narrow(self, table: Tensor) -> Tensor:
        """View the cloud of a contiguous `(B, N, D)` as rows of this chunk's width."""
        return table[self.cloud].view(-1, self._width)

    def of(self, table: Tensor) -> Tensor:
        """View this chunk's part of `(B, N, D)` as `(N, width)`."""
        return table[self.cloud, :, self.columns]

    def sums(self, tile: slice) -> Tensor:
        """Return the sums over the neighbors of the centers of a tile, `(q, width)`."""
        rows = self.rows(self._gather.neighbors[self.cloud, tile])
        return functional.embedding_bag(rows, self.narrow(self._gather.table), mode="sum")

    def largest(self, tile: slice, tied: Tensor | None) -> Tensor:
        """Return the largest neighbors of the centers of a tile, `(q, width)`, in a buffer."""
        rows, table = self._rows_by_position(tile), self.narrow(self._gather.table)
        best = self._take(workspace().best, tile)
        gathered = self._take(workspace().gathered, tile)
        torch.index_select(table, 0, rows[0], out=best)
        for of_position in rows[1:]:
            torch.index_select(table, 0, of_position, out=gathered)
            torch.maximum(best, gathered, out=best)
        if tied is not None:
            torch.index_select(table, 0, rows[0], out=gathered)
            torch.where(tied[self.columns], gathered, best, out=best)
        return best

    def positions(self, tile: slice, values: Tensor) -> Tensor:
        """Return the first position at which each of the largest values stands, `(q, width)`."""
        rows, table = self._rows_by_position(tile), self.narrow(self._gather.table)
        wanted = values[self.cloud, tile, self.columns]
        found = self._take(workspace().positions, tile).zero_()
        gathered = self._take(workspace().gathered, tile)
        # As numbers, not as bools and masks: these calls run at the speed of the cache.
        for position, of_position in enumerate(rows):
            torch.index_select(table, 0, of_position, out=gathered)
            gathered.eq_(wanted).mul_(len(rows) - position)
            torch.maximum(found, gathered, out=found)
        return found.neg_().add_(len(rows)).long()

    def winners(self, tile: slice, values: Tensor) -> Tensor:
        """Return the row of the neighbor that `positions` finds, `(q, width)` int64."""
        neighbors = self._gather.neighbors[self.cloud, tile]
        num_sources = self._gather.table.shape[1]
        if self._gather.clear and 2 * num_sources <= _LARGEST_SUM:
            rows = self._only_winners(tile, values, 2 ** (num_sources - 1).bit_length())
            if rows is not None:
                return rows
            # It takes time to try: ties and neighbors that come twice are seldom alone.
            self._gather.clear = False
        return neighbors.gather(1, self.positions(tile, values))

    def _only_winners(self, tile: slice, values: Tensor, offset: int) -> Tensor | None:
        """Return the row of the one neighbor with each of the values; None if one has several.

        The rows of all neighbors with the value are summed, with an offset for each: the sum says
        whether there was one.
        """
        rows, table = self._rows_by_position(tile), self.narrow(self._gather.table)
        numbers = (self._by_position[:, tile, None] + offset).to(table.dtype)
        wanted = values[self.cloud, tile, self.columns]
        found = self._take(workspace().positions, tile).zero_()
        gathered = self._take(workspace().gathered, tile)
        for of_position, number in zip(rows, numbers, strict=True):
            torch.index_select(table, 0, of_position, out=gathered)
            found.addcmul_(gathered.eq_(wanted), number)
        low, high = found.aminmax()
        if low < offset or high >= 2 * offset:
            return None
        return found.sub_(offset).long()

    def _rows_by_position(self, tile: slice) -> Tensor:
        return self.rows(self._by_position[:, tile])

    def _take(self, buffer: Buffer, tile: slice) -> Tensor:
        return buffer.take(self._gather.table, tile.stop - tile.start, self._width)
