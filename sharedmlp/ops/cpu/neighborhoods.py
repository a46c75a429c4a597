"""The max over gathered rows, and the moments of sums over pairs, without the pairs in memory.

Each of Q centers has K neighbors among N sources. For `a (B, N, D)` of the sources and
`b (B, Q, D)` of the centers this finds the largest `a_j` among each center's neighbors, and the
first two moments of `y_ij = a_j + b_i` over all Q * K pairs. A tensor of size Q * K * D never
exists: the neighbors are gathered one position at a time into a buffer that fits the cache, and all
sums over pairs follow from sums over the neighbors of each center and over the centers of each
neighbor.

That is all that a layer on pairs needs before a max (see sharedmlp.ops.neighborhoods).

Which neighbor won is not kept. The backward pass gathers once more and finds it by equality, which
takes twice the time of the max; a max that keeps the winner (`Tensor.max`, or compare and fill)
takes ten times as long. Packing a float32 and its row into a float64 costs as much as both passes,
prefers the lowest row instead of the first position, and does not work for float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sharedmlp.ops.cpu.sums import double_backward
from sharedmlp.ops.cpu.threads import run_jobs, thread_buffer
from sharedmlp.ops.custom_op import custom_op

# Numbers of a buffer for gathered rows: it stays in the cache, and a call on it hides its overhead.
_BUFFER = 65536
# With fewer clouds than this the channels are split, so that there is work for several threads. It
# must not depend on the number of threads: sums over other shapes may round differently.
_JOBS = 8
_FEWEST_CHANNELS = 16


class NeighborMax(NamedTuple):
    """What `neighbor_max` finds.

    Attributes:
        values: `(B, Q, D)`, the largest `a_j` among the neighbors of each center.
        mean: `(D,)`, the mean of `a_j + b_i` over all pairs; zeros without `b`.
        second_moment: `(D,)`, the mean of `(a_j + b_i) ** 2`, likewise.
    """

    values: Tensor
    mean: Tensor
    second_moment: Tensor


def neighbor_max(
    a: Tensor, neighbors: Tensor, b: Tensor | None = None, tied: Tensor | None = None
) -> NeighborMax:
    """Find the largest neighbors and the moments; differentiable in `a` and `b`.

    Args:
        a: `(B, N, D)`, finite: the winner of the backward pass is found by equality.
        neighbors: `(B, Q, K)` int64, rows of `a` within each cloud.
        b: `(B, Q, D)`; None if no moments are needed.
        tied: `(D,)` bool, channels in which all neighbors count as equal, so that the first wins;
            None for none.
    """
    return NeighborMax(*_neighbor_max(a.contiguous(), _contiguous(b), neighbors, tied))


@torch.no_grad()
def winning_positions(
    a: Tensor, neighbors: Tensor, values: Tensor, tied: Tensor | None = None
) -> Tensor:
    """Return which of the K neighbors has the values of `neighbor_max`, `(B, Q, D)` int64.

    The first of equal ones, as for `Tensor.max`.
    """
    a = a.contiguous()
    positions = torch.empty_like(values, dtype=torch.int64)
    gather = _Gather(a, neighbors)

    def worker(jobs: Iterator[int]) -> None:
        for job in map(gather.job, jobs):
            for some in job.chunks():
                found = job.positions(some, values, tied)
                positions[job.cloud, some, job.columns] = found

    run_jobs(worker, gather.num_jobs)
    return positions


class _Gather:
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

    def job(self, number: int) -> _Job:
        """Return a job by its number."""
        return _Job(self, *divmod(number, self.splits))


class _Job:
    """One cloud and some of the channels.

    Attributes:
        cloud: The number of the cloud.
        split: The number of the group of channels.
        columns: The channels.
    """

    def __init__(self, gather: _Gather, cloud: int, split: int) -> None:
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

    def positions(self, some: slice, values: Tensor, tied: Tensor | None) -> Tensor:
        """Return the first position at which each of the largest values stands, `(q, width)`."""
        rows, table = self._by_position(some), self.narrow(self._gather.table)
        wanted = values[self.cloud, some, self.columns]
        found, gathered = self._buffer("found", some).zero_(), self._buffer("gathered", some)
        # As numbers, not as bools and masks: these calls run at the speed of the cache.
        for position, of_position in enumerate(rows):
            torch.index_select(table, 0, of_position, out=gathered)
            gathered.eq_(wanted).mul_(len(rows) - position)
            torch.maximum(found, gathered, out=found)
        if tied is not None:
            found.masked_fill_(tied[self.columns], len(rows))
        return found.neg_().add_(len(rows)).long()

    def _by_position(self, some: slice) -> Tensor:
        return self.rows(self._gather.by_position[self.cloud, :, some])

    def _buffer(self, name: str, some: slice) -> Tensor:
        size = (some.stop - some.start) * self._width
        return thread_buffer(name, size, self._gather.table).view(-1, self._width)


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _degrees(neighbors: Tensor, num_sources: int, like: Tensor) -> Tensor:
    """Return how often each source is a neighbor, `(B, N)`."""
    first = torch.arange(len(neighbors), device=neighbors.device) * num_sources
    rows = (neighbors + first[:, None, None]).flatten()
    counts = torch.bincount(rows, minlength=len(neighbors) * num_sources)
    return counts.view(len(neighbors), num_sources).to(like.dtype)


def _centers_by_source(neighbors: Tensor, num_sources: int) -> Tensor:
    """Return the centers `(Q * K,)` of all pairs of a cloud, in the order of their sources."""
    rows = neighbors.flatten()
    if num_sources <= 2**16:  # numpy sorts 16 bits by radix, in a tenth of the time
        order = torch.from_numpy(np.argsort(rows.numpy().astype(np.uint16), kind="stable"))
    else:
        order = torch.argsort(rows, stable=True)
    return order // neighbors.shape[1]


def _forward(
    a: Tensor, b: Tensor | None, neighbors: Tensor, tied: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    num_clouds, num_sources, channels = a.shape
    num_centers, num_neighbors = neighbors.shape[1:]
    values = a.new_empty(num_clouds, num_centers, channels)
    sums = torch.zeros(num_clouds, 2, channels, dtype=torch.float64)
    degrees = None if b is None else _degrees(neighbors, num_sources, a)
    gather = _Gather(a, neighbors)

    def worker(jobs: Iterator[int]) -> None:
        for job in map(gather.job, jobs):
            first, second = sums[job.cloud, :, job.columns]
            if degrees is not None:
                second.add_(job.of(a).square().t() @ degrees[job.cloud])
            for some in job.chunks():
                values[job.cloud, some, job.columns] = job.largest(some, tied)
                if b is None:
                    continue
                of_centers = job.of(b)[some]
                of_neighbors = job.sums(some)
                first.add_(torch.add(of_neighbors, of_centers, alpha=num_neighbors).sum(0))
                # the sum of 2 b_i s_i + K b_i^2
                of_neighbors.add_(of_centers, alpha=num_neighbors / 2).mul_(of_centers)
                second.add_(of_neighbors.sum(0), alpha=2)

    run_jobs(worker, gather.num_jobs)
    mean, second_moment = (sums.sum(0) / neighbors.numel()).to(a.dtype)
    return values, mean.clone(), second_moment.clone()


def _fake(
    a: Tensor, b: Tensor | None, neighbors: Tensor, tied: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    channels = a.shape[-1]
    return a.new_empty(*neighbors.shape[:2], channels), a.new_empty(channels), a.new_empty(channels)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs, output[0])


def _backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
    a, b, neighbors, tied, values = ctx.saved_tensors
    if torch.is_grad_enabled():  # somebody will differentiate the gradients again
        positions = winning_positions(a, neighbors, values, tied)
        winners = neighbors.gather(2, positions)

        def formula(a: Tensor, b: Tensor | None) -> tuple[Tensor, ...]:
            largest = a.gather(1, winners)
            if b is None:
                return (largest,)
            clouds = torch.arange(len(a), device=a.device)[:, None, None]
            pairs = (a[clouds, neighbors] + b[:, :, None]).flatten(0, 2)
            return largest, pairs.mean(0), pairs.square().mean(0)

        wanted = gradients if b is not None else gradients[:1]
        return (*double_backward(formula, (a, b), wanted), None, None)
    of_values, of_mean, of_second = gradients
    of_a, of_b = _gradient(a, b, neighbors, tied, values, of_values, of_mean, of_second)
    return of_a, None if b is None else of_b, None, None


def _gradient_forward(
    a: Tensor,
    b: Tensor | None,
    neighbors: Tensor,
    tied: Tensor | None,
    values: Tensor,
    of_values: Tensor,
    of_mean: Tensor,
    of_second: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of a and b.

    Each winner takes that of its value. With M pairs, u = of_mean / M and v = 2 of_second / M, the
    moments send `u + v (a_j + b_i)` to each pair; summed over the pairs of a source and of a
    center that is `deg_j (u + v a_j) + v r_j` and `K (u + v b_i) + v s_i`.
    """
    num_sources = a.shape[1]
    num_neighbors = neighbors.shape[2]
    of_a = torch.zeros_like(a) if b is None else torch.empty_like(a)
    of_b = torch.empty_like(a[:0] if b is None else b)
    offset, slope = of_mean / neighbors.numel(), 2 * of_second / neighbors.numel()
    degrees = None if b is None else _degrees(neighbors, num_sources, a)
    gather = _Gather(a, neighbors)

    def worker(jobs: Iterator[int]) -> None:
        for job in map(gather.job, jobs):
            u, v = offset[job.columns], slope[job.columns]
            target = job.of(of_a)
            if b is not None and degrees is not None:
                degree = degrees[job.cloud]
                centers = _centers_by_source(neighbors[job.cloud], num_sources)
                ends = degree.long().cumsum(0)
                reverse = functional.embedding_bag(
                    job.rows(centers), job.narrow(b), ends - degree.long(), mode="sum"
                )
                reverse.addcmul_(job.of(a), degree[:, None]).mul_(v)
                torch.addcmul(reverse, degree[:, None], u, out=target)
            for some in job.chunks():
                positions = job.positions(some, values, tied)
                winners = neighbors[job.cloud, some].gather(1, positions)
                target.scatter_add_(0, winners, job.of(of_values)[some])
                if b is not None:
                    sums = job.sums(some).add_(job.of(b)[some], alpha=num_neighbors)
                    torch.addcmul(u * num_neighbors, sums, v, out=job.of(of_b)[some])

    run_jobs(worker, gather.num_jobs)
    return of_a, of_b


def _gradient_fake(
    a: Tensor,
    b: Tensor | None,
    neighbors: Tensor,
    tied: Tensor | None,
    values: Tensor,
    of_values: Tensor,
    of_mean: Tensor,
    of_second: Tensor,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(a), torch.empty_like(a[:0] if b is None else b)


_gradient = custom_op("neighbor_max_backward", _gradient_forward, _gradient_fake)
_neighbor_max = custom_op("neighbor_max", _forward, _fake, _setup, _backward)
