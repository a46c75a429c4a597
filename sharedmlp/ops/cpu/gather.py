"""Gathered rows, one position of all neighborhoods at a time, in buffers that fit the cache."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from sharedmlp.ops.cpu.threads import thread_buffer

# Numbers of a buffer for gathered rows: it stays in the cache, and a call on it hides its overhead.
_BUFFER = 65536
# With fewer clouds than this the channels are split, so that there is work for several threads. It
# must not depend on the number of threads: sums over other shapes may round differently.
_JOBS = 8
_FEWEST_CHANNELS = 16


class Gather:
    """The gathered rows of a table `(B, N, D)`, as jobs of one cloud and some channels each.

    Attributes:
        table: `(B, N, D)`, contiguous.
        neighbors: `(B, Q, K)`.
        by_position: `(B, K, Q)`, the same, contiguous.
        splits: Into how many groups the channels are split.
        num_jobs: How many jobs there are.
    """

    def __init__(self, table: Tensor, neighbors: Tensor) -> None:
        num_clouds, _, channels = table.shape
        self.table = table
        self.neighbors = neighbors
        self.by_position = neighbors.transpose(1, 2).contiguous()
        self.splits = 1
        while (
            num_clouds * self.splits < _JOBS
            and channels % (2 * self.splits) == 0
            and channels // (2 * self.splits) >= _FEWEST_CHANNELS
        ):
            self.splits *= 2
        self.num_jobs = num_clouds * self.splits

    def job(self, number: int) -> Job:
        """Return a job by its number."""
        return Job(self, *divmod(number, self.splits))


class Job:
    """One cloud and some of the channels.

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

    def chunks(self) -> Iterator[slice]:
        """Yield the centers, as many at a time as a buffer holds."""
        num_centers = self._gather.neighbors.shape[1]
        step = max(1, _BUFFER // self._width)
        for start in range(0, num_centers, step):
            yield slice(start, min(start + step, num_centers))

    def rows(self, rows: Tensor) -> Tensor:
        """Return where rows of the cloud stand in `narrow` of a tensor."""
        splits = self._gather.splits
        return rows if splits == 1 else rows * splits + self.split

    def narrow(self, table: Tensor) -> Tensor:
        """View the cloud of a contiguous `(B, N, D)` as rows of this job's width."""
        return table[self.cloud].view(-1, self._width)

    def of(self, table: Tensor) -> Tensor:
        """View this job's part of `(B, N, D)` as `(N, width)`."""
        return table[self.cloud, :, self.columns]

    def sums(self, some: slice) -> Tensor:
        """Return the sums over the neighbors of some centers, `(q, width)`."""
        rows = self.rows(self._gather.neighbors[self.cloud, some])
        return functional.embedding_bag(rows, self.narrow(self._gather.table), mode="sum")

    def largest(self, some: slice, tied: Tensor | None) -> Tensor:
        """Return the largest neighbors of some centers, `(q, width)`, in a buffer."""
        rows, table = self._by_position(some), self.narrow(self._gather.table)
        best, gathered = self._buffer("best", some), self._buffer("gathered", some)
        torch.index_select(table, 0, rows[0], out=best)
        for of_position in rows[1:]:
            torch.index_select(table, 0, of_position, out=gathered)
            torch.maximum(best, gathered, out=best)
        if tied is not None:
            torch.index_select(table, 0, rows[0], out=gathered)
            torch.where(tied[self.columns], gathered, best, out=best)
        return best

    def positions(self, some: slice, values: Tensor) -> Tensor:
        """Return the first position at which each of the largest values stands, `(q, width)`."""
        rows, table = self._by_position(some), self.narrow(self._gather.table)
        wanted = values[self.cloud, some, self.columns]
        found, gathered = self._buffer("found", some).zero_(), self._buffer("gathered", some)
        # As numbers, not as bools and masks: these calls run at the speed of the cache.
        for position, of_position in enumerate(rows):
            torch.index_select(table, 0, of_position, out=gathered)
            gathered.eq_(wanted).mul_(len(rows) - position)
            torch.maximum(found, gathered, out=found)
        return found.neg_().add_(len(rows)).long()

    def _by_position(self, some: slice) -> Tensor:
        return self.rows(self._gather.by_position[self.cloud, :, some])

    def _buffer(self, name: str, some: slice) -> Tensor:
        size = (some.stop - some.start) * self._width
        return thread_buffer(name, size, self._gather.table).view(-1, self._width)
