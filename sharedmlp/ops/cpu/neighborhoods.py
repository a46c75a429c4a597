"""The max over gathered rows, and the moments of sums over pairs, without the pairs in memory.

Each of Q centers has K neighbors among N sources. For `a (B, N, D)` of the sources and
`b (B, Q, D)` of the centers this finds the largest `a_j` among each center's neighbors, and the
first two moments of `y_ij = a_j + b_i` over all Q * K pairs. A tensor of size Q * K * D never
exists: the neighbors are gathered one position at a time into a buffer that fits the cache, and all
sums over pairs follow from sums over the neighbors of each center and over the centers of each
neighbor.

That is all that a layer on pairs needs before a max (see sharedmlp.ops.neighborhoods).

Which neighbor won is not kept. The backward pass gathers once more and finds it by equality, which
takes twice the time of the max where no neighbors are equal; a max that keeps the winner
(`Tensor.max`, `embedding_bag`, or compare and fill) takes six to ten times as long. Packing a
float32 and its row into a float64 costs as much as both passes, prefers the lowest row instead of
the first position, and does not work for float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from sharedmlp.ops.cpu.gather import BUFFER_SIZE, FEWEST_CHUNKS, Gather
from sharedmlp.ops.cpu.huge_pages import empty_large
from sharedmlp.ops.cpu.sort import stable_order
from sharedmlp.ops.cpu.threads import run_chunks
from sharedmlp.ops.custom_op import custom_op
from sharedmlp.ops.gather_rows import gather_rows
from sharedmlp.ops.reference import double_backward

# Rows that `stable_order` sorts fast: those that 16 bits can number.
_SHORT = 2**16


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


def neighbor_moments(a: Tensor, neighbors: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the second moment of `neighbor_max` alone."""
    _, mean, second_moment = _neighbor_max(a.contiguous(), b.contiguous(), neighbors, None, False)
    return mean, second_moment


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
    return NeighborMax(*_neighbor_max(a.contiguous(), _contiguous(b), neighbors, tied, True))


@torch.no_grad()
def winning_positions(a: Tensor, neighbors: Tensor, values: Tensor) -> Tensor:
    """Return which of the K neighbors has the values of `neighbor_max`, `(B, Q, D)` int64.

    The first of equal ones, as for `Tensor.max`.
    """
    a = a.contiguous()
    positions = torch.empty_like(values, dtype=torch.int64)
    gather = Gather(a, neighbors)

    def worker(chunks: Iterator[int]) -> None:
        for chunk in map(gather.chunk, chunks):
            for tile in chunk.tiles():
                found = chunk.positions(tile, values)
                positions[chunk.cloud, tile, chunk.columns] = found

    run_chunks(worker, gather.num_chunks)
    return positions


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _degrees(neighbors: Tensor, num_sources: int, like: Tensor) -> Tensor:
    """Return how often each source is a neighbor in a cloud `(Q, K)`, `(N,)`."""
    return torch.bincount(neighbors.flatten(), minlength=num_sources).to(like.dtype)


def _centers_by_source(neighbors: Tensor, num_sources: int) -> Tensor:
    """Return the centers `(Q * K,)` of all pairs of a cloud, in the order of their sources."""
    return stable_order(neighbors.flatten(), num_sources) // neighbors.shape[1]


def _join_clouds(
    neighbors: Tensor, a: Tensor, *others: Tensor | None
) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    """View several small clouds as one, so that each call in a thread has enough to do.

    Threads wait for each other between calls. It depends on sizes alone, as sums over other shapes
    may round differently.

    Args:
        neighbors: `(B, Q, K)`.
        a: `(B, N, D)`.
        *others: `(B, Q, D)` or None.

    Returns:
        Neighbors `(B / g, g Q, K)`, a `(B / g, g N, D)`, and the others likewise.
    """
    num_clouds, num_sources, channels = a.shape
    rows, count = max(num_sources, neighbors.shape[1]), 1
    while (
        num_clouds % (2 * count) == 0
        and num_clouds // (2 * count) >= FEWEST_CHUNKS
        and 2 * count * rows * channels <= BUFFER_SIZE
        and 2 * count * num_sources <= _SHORT
    ):
        count *= 2
    if count == 1:
        return neighbors, a, list(others)
    first = torch.arange(num_clouds, device=a.device) % count * num_sources
    joined = (neighbors + first[:, None, None]).view(num_clouds // count, -1, neighbors.shape[2])
    views = [x if x is None else x.reshape(num_clouds // count, -1, channels) for x in others]
    return joined, a.view(num_clouds // count, -1, channels), views


def _forward(
    a: Tensor, b: Tensor | None, neighbors: Tensor, tied: Tensor | None, largest: bool
) -> tuple[Tensor, Tensor, Tensor]:
    shape = (*neighbors.shape[:2], a.shape[2])
    neighbors, a, (b,) = _join_clouds(neighbors, a, b)
    num_clouds, num_sources, channels = a.shape
    num_centers, num_neighbors = neighbors.shape[1:]
    values = empty_large(a, *((num_clouds, num_centers, channels) if largest else (0,)))
    sums = torch.zeros(num_clouds, 2, channels, dtype=torch.float64)
    gather = Gather(a, neighbors)

    def worker(chunks: Iterator[int]) -> None:
        for chunk in map(gather.chunk, chunks):
            first, second = sums[chunk.cloud, :, chunk.columns]
            if b is not None:
                degrees = _degrees(neighbors[chunk.cloud], num_sources, a)
                second.add_(chunk.of(a).square().t() @ degrees)
            for tile in chunk.tiles():
                if largest:
                    values[chunk.cloud, tile, chunk.columns] = chunk.largest(tile, tied)
                if b is None:
                    continue
                of_centers = chunk.of(b)[tile]
                of_neighbors = chunk.sums(tile)
                first.add_(torch.add(of_neighbors, of_centers, alpha=num_neighbors).sum(0))
                # the sum of 2 b_i s_i + K b_i^2
                of_neighbors.add_(of_centers, alpha=num_neighbors / 2).mul_(of_centers)
                second.add_(of_neighbors.sum(0), alpha=2)

    run_chunks(worker, gather.num_chunks)
    mean, second_moment = (sums.sum(0) / neighbors.numel()).to(a.dtype)
    return values.view(shape) if largest else values, mean.clone(), second_moment.clone()


def _fake(
    a: Tensor, b: Tensor | None, neighbors: Tensor, tied: Tensor | None, largest: bool
) -> tuple[Tensor, Tensor, Tensor]:
    channels = a.shape[-1]
    shape = (*neighbors.shape[:2], channels) if largest else (0,)
    return a.new_empty(shape), a.new_empty(channels), a.new_empty(channels)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    a, b, neighbors, _, ctx.largest = inputs
    ctx.save_for_backward(a, b, neighbors, output[0])


def _backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
    a, b, neighbors, values = ctx.saved_tensors
    if torch.is_grad_enabled():  # somebody will differentiate the gradients again
        winners = None
        if ctx.largest:
            winners = neighbors.gather(2, winning_positions(a, neighbors, values))

        def formula(a: Tensor, b: Tensor | None) -> tuple[Tensor, ...]:
            found = () if winners is None else (a.gather(1, winners),)
            if b is None:
                return found
            pairs = (gather_rows(a, neighbors) + b[:, :, None]).flatten(0, 2)
            return (*found, pairs.mean(0), pairs.square().mean(0))

        wanted = gradients[0 if ctx.largest else 1 : 1 if b is None else 3]
        return (*double_backward(formula, (a, b), wanted), None, None, None)
    of_values, of_mean, of_second = gradients
    of_a, of_b = _gradient(a, b, neighbors, values, of_values, of_mean, of_second)
    return of_a, None if b is None else of_b, None, None, None


def _gradient_forward(
    a: Tensor,
    b: Tensor | None,
    neighbors: Tensor,
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
    shape_of_a, shape_of_b = a.shape, (0,) if b is None else b.shape
    largest = len(values) > 0
    neighbors, a, (b, best, sent) = _join_clouds(
        neighbors, a, b, values if largest else None, of_values if largest else None
    )
    num_sources = a.shape[1]
    num_neighbors = neighbors.shape[2]
    of_a = torch.zeros_like(a) if b is None else empty_large(a, *a.shape)
    of_b = empty_large(a, *(b.shape if b is not None else (0,)))
    offset, slope = of_mean / neighbors.numel(), 2 * of_second / neighbors.numel()
    gather = Gather(a, neighbors)

    def worker(chunks: Iterator[int]) -> None:
        for chunk in map(gather.chunk, chunks):
            u, v = offset[chunk.columns], slope[chunk.columns]
            target = chunk.of(of_a)
            if b is not None:
                degree = _degrees(neighbors[chunk.cloud], num_sources, a)
                centers = _centers_by_source(neighbors[chunk.cloud], num_sources)
                ends = degree.long().cumsum(0)
                reverse = functional.embedding_bag(
                    chunk.rows(centers), chunk.narrow(b), ends - degree.long(), mode="sum"
                )
                reverse.addcmul_(chunk.of(a), degree[:, None]).mul_(v)
                torch.addcmul(reverse, degree[:, None], u, out=target)
            for tile in chunk.tiles():
                if best is not None and sent is not None:
                    winners = chunk.winners(tile, best)
                    target.scatter_add_(0, winners, chunk.of(sent)[tile])
                if b is not None:
                    sums = chunk.sums(tile).add_(chunk.of(b)[tile], alpha=num_neighbors)
                    torch.addcmul(u * num_neighbors, sums, v, out=chunk.of(of_b)[tile])

    run_chunks(worker, gather.num_chunks)
    return of_a.view(shape_of_a), of_b.view(shape_of_b)


def _gradient_fake(
    a: Tensor,
    b: Tensor | None,
    neighbors: Tensor,
    values: Tensor,
    of_values: Tensor,
    of_mean: Tensor,
    of_second: Tensor,
) -> tuple[Tensor, Tensor]:
    return a.new_empty(a.shape), a.new_empty(b.shape if b is not None else (0,))


_gradient = custom_op("neighbor_max_backward", _gradient_forward, _gradient_fake)
_neighbor_max = custom_op("neighbor_max", _forward, _fake, _setup, _backward)
