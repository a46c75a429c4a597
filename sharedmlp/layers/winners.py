"""The winners of a max over points of pointwise products, without the products in memory.

For clouds ``x (G, N, C)`` and a weight ``W (D, C)`` this finds, for every cloud and channel, the
point with the largest of the N products ``sign_d * W_d . (x_n - center)``, together with the first
two moments of ``x - center`` over all points. The ``(G, N, D)`` products exist one cache-sized tile
at a time; the backward pass touches the winners and one C x C product a point.

This is all that a batch norm between the product and the max needs (see
:mod:`sharedmlp.layers.fused`): its statistics follow from the moments, and it is monotone in each
channel.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sharedmlp.layers.threads import run_jobs, thread_buffer

# Columns of the (D, columns) buffer of products. On a CPU the buffer then stays in the caches; on
# a GPU few large kernels beat many small ones.
_CPU_COLUMNS = 1024
_GPU_COLUMNS = 65536
# Sums over points are taken in at most this many parts and then added in order, so that neither the
# number of threads nor their timing changes a bit of the result.
_MAX_JOBS = 16
# A CPU's max with index looks at one number at a time, amax at a vector of them: so amax leaves
# one candidate for each of this many columns modulo it, and max looks at those.
_GROUP = 64


class Winners(NamedTuple):
    """What :func:`find_winners` finds in G clouds of N points, M = G * N.

    Attributes:
        values: ``(G, D)``, ``W_d . (x_n - center)`` of the winner (without the sign).
        indices: ``(G, D)`` int64, which of the N points won. Where a sign is zero all points tie,
            and the first wins.
        mean: ``(C,)``, the mean of ``x - center``; zeros without ``moments``.
        second_moment: ``(C, C)``, the mean of ``(x - center) (x - center)^T``, likewise.
    """

    values: Tensor
    indices: Tensor
    mean: Tensor
    second_moment: Tensor


def find_winners(
    clouds: Tensor,
    weight: Tensor,
    sign: Tensor,
    center: Tensor,
    *,
    moments: bool,
    search_dtype: torch.dtype,
) -> Winners:
    """Finds the winners and the moments; differentiable in ``clouds`` and ``weight``.

    Args:
        clouds: ``(G, N, C)``, of any strides.
        weight: ``(D, C)``.
        sign: ``(D,)``, 1, -1 or 0; a constant.
        center: ``(C,)``; a constant. Near the mean it saves the moments from cancellation.
        moments: Whether to compute the moments.
        search_dtype: Precision of the products among which the winner is searched. Where it is not
            that of the clouds, the winner's value is computed again in theirs.
    """
    outputs = _FindWinners.apply(clouds, weight, sign, center, moments, search_dtype)  # type: ignore[no-untyped-call]
    return Winners(*outputs)


class _FindWinners(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        clouds: Tensor,
        weight: Tensor,
        sign: Tensor,
        center: Tensor,
        moments: bool,
        search_dtype: torch.dtype,
    ) -> Winners:
        found = _search(clouds, weight, sign, center, moments, search_dtype)
        ctx.mark_non_differentiable(found.indices)
        ctx.save_for_backward(clouds, weight, center, found.indices)
        ctx.moments = moments
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        clouds, weight, center, indices = ctx.saved_tensors
        of_values, _, of_mean, of_second = gradients
        if torch.is_grad_enabled():  # somebody will differentiate the gradients again
            outputs = _plain(clouds, weight, center, indices)
            of_outputs = (of_values, of_mean, of_second)
            inputs = [t for t in (clouds, weight) if t.requires_grad]
            found = iter(
                torch.autograd.grad(
                    outputs, inputs, of_outputs, create_graph=True, allow_unused=True
                )
            )
            return (
                *(next(found) if t.requires_grad else None for t in (clouds, weight)),
                *[None] * 4,
            )
        of_clouds, of_weight = _backward(
            clouds,
            weight,
            center,
            indices,
            of_values,
            (of_mean, of_second + of_second.t()) if ctx.moments else None,
            needs_clouds=ctx.needs_input_grad[0],
        )
        return of_clouds, of_weight, None, None, None, None


def _plain(
    clouds: Tensor, weight: Tensor, center: Tensor, indices: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The differentiable outputs as a formula of the inputs, for derivatives of any order."""
    centred = clouds - center
    rows = torch.arange(len(clouds), device=clouds.device)[:, None]
    values = (centred[rows, indices] * weight).sum(-1)
    flat = centred.reshape(-1, centred.shape[-1])
    return values, flat.mean(0), flat.t() @ flat / len(flat)


def deal_clouds(clouds: Tensor) -> list[list[tuple[int, int]]]:
    """Deals the clouds to jobs, each a list of ranges of clouds small enough for one tile."""
    num_clouds, num_points, _ = clouds.shape
    step = max(1, tile_columns(clouds) // num_points)
    ranges = [(i, min(i + step, num_clouds)) for i in range(0, num_clouds, step)]
    num_jobs = min(_MAX_JOBS, len(ranges)) if clouds.device.type == "cpu" else 1
    bounds = [len(ranges) * i // num_jobs for i in range(num_jobs + 1)]
    return [ranges[low:high] for low, high in pairwise(bounds)]


def tile_columns(clouds: Tensor) -> int:
    """Points in a tile, at most."""
    return _CPU_COLUMNS if clouds.device.type == "cpu" else _GPU_COLUMNS


def _search(
    clouds: Tensor,
    weight: Tensor,
    sign: Tensor,
    center: Tensor,
    moments: bool,
    search_dtype: torch.dtype,
) -> Winners:
    num_clouds, num_points, channels = clouds.shape
    out_channels, columns = len(weight), tile_columns(clouds)
    jobs = deal_clouds(clouds)
    values = clouds.new_empty(num_clouds, out_channels)
    indices = torch.empty(num_clouds, out_channels, dtype=torch.int64, device=clouds.device)
    sums = clouds.new_zeros(len(jobs), channels)
    products = clouds.new_zeros(len(jobs), channels, channels)
    signed_weight = (weight * sign[:, None]).to(search_dtype)

    def worker(numbers: Iterator[int]) -> None:
        buffer = _Buffer(clouds, search_dtype, out_channels)
        for number in numbers:
            for first, last in jobs[number]:
                for point in range(0, num_points, columns):
                    tile = clouds[first:last, point : point + columns]
                    centred = buffer.center(tile, center)
                    if moments:
                        sums[number].add_(centred.sum(0))
                        products[number].addmm_(centred.t(), centred)
                    best, where = buffer.search(signed_weight, centred, last - first)
                    if search_dtype != clouds.dtype:
                        best = _products_at(centred, where, weight * sign[:, None], last - first)
                    if point == 0:
                        values[first:last], indices[first:last] = best, where
                    else:
                        better = best > values[first:last]
                        values[first:last] = torch.where(better, best, values[first:last])
                        indices[first:last] = torch.where(
                            better, where + point, indices[first:last]
                        )

    run_jobs(worker, len(jobs))
    # The value without the sign; where the sign is zero, that of the first point.
    values = torch.where(sign == 0, (clouds[:, 0] - center) @ weight.t(), values * sign)
    count = num_clouds * num_points
    return Winners(values, indices, sums.sum(0) / count, products.sum(0) / count)


class _Buffer:
    """The memory of one thread, used again for every tile."""

    def __init__(self, clouds: Tensor, search_dtype: torch.dtype, out_channels: int) -> None:
        _, num_points, self._channels = clouds.shape
        rows = max(
            min(num_points, tile_columns(clouds)), tile_columns(clouds) // num_points * num_points
        )
        rows = min(rows, clouds.shape[0] * num_points)
        padded = -(-rows // _GROUP) * _GROUP
        self._centred = thread_buffer("rows", rows * self._channels, clouds).view(rows, -1)
        like = clouds.new_empty(0, dtype=search_dtype)
        self._products = thread_buffer("products", out_channels * padded, like)
        self._out_channels = out_channels
        self._grouped = clouds.device.type == "cpu"

    def center(self, tile: Tensor, center: Tensor) -> Tensor:
        """Returns ``tile (g, n, C) - center`` as ``(g * n, C)``."""
        centred = self._centred[: tile.shape[0] * tile.shape[1]]
        torch.sub(tile, center, out=centred.view(tile.shape))
        return centred

    def search(self, weight: Tensor, centred: Tensor, num_clouds: int) -> tuple[Tensor, Tensor]:
        """Returns the largest product of each cloud and channel and its point, ``(g, D)``."""
        count = len(centred)
        if not self._grouped or num_clouds > 1:
            products = self._products[: self._out_channels * count].view(-1, count)
            torch.mm(weight, centred.to(weight.dtype).t(), out=products)
            best, where = products.view(self._out_channels, num_clouds, -1).max(-1)
            return best.t(), where.t()
        padded = -(-count // _GROUP) * _GROUP
        products = self._products[: self._out_channels * padded].view(-1, padded)
        products[:, count:] = -torch.inf
        torch.mm(weight, centred.to(weight.dtype).t(), out=products[:, :count])
        groups = products.view(self._out_channels, -1, _GROUP)
        best, column = groups.amax(1).max(1)
        row = groups.gather(2, column[:, None, None].expand(-1, groups.shape[1], 1))[..., 0].argmax(
            1
        )
        return best[None], (row * _GROUP + column)[None]


def _products_at(centred: Tensor, indices: Tensor, weight: Tensor, num_clouds: int) -> Tensor:
    """Returns ``W_d . x`` at the given points ``(g, D)`` of ``centred (g * n, C)``."""
    rows = _flat_rows(indices, len(centred) // num_clouds)
    return (centred[rows].view(num_clouds, *weight.shape) * weight).sum(-1)


def _flat_rows(indices: Tensor, num_points: int) -> Tensor:
    """Turns points ``(g, D)`` of g clouds into rows of the clouds laid end to end."""
    offsets = torch.arange(len(indices), device=indices.device)[:, None] * num_points
    return (indices + offsets).flatten()


def _backward(
    clouds: Tensor,
    weight: Tensor,
    center: Tensor,
    indices: Tensor,
    of_values: Tensor,
    of_moments: tuple[Tensor, Tensor] | None,
    *,
    needs_clouds: bool,
) -> tuple[Tensor | None, Tensor]:
    """Returns the gradients of the clouds and of the weight.

    Each winner sends ``gradient * W_d`` to its point and ``gradient * (x - center)`` to its row of
    the weight. The moments send ``(mean's + (S's + S's^T) (x - center)) / M`` to every point.
    """
    num_clouds, num_points, channels = clouds.shape
    count = num_clouds * num_points
    columns = tile_columns(clouds)
    clouds = clouds.contiguous()  # a row of a (B, C, N) cloud is scattered
    of_weight = _gather_weight_gradient(clouds, center, indices, of_values)
    if not needs_clouds:
        return None, of_weight
    jobs = deal_clouds(clouds)
    if of_moments is not None:
        of_mean, of_second = (gradient / count for gradient in of_moments)
    of_clouds = torch.empty_like(clouds)

    def worker(numbers: Iterator[int]) -> None:
        buffer = _Buffer(clouds, clouds.dtype, 0)
        for number in numbers:
            for first, last in jobs[number]:
                target = of_clouds[first:last].view(-1, channels)
                if of_moments is None:
                    target.zero_()
                else:
                    for point in range(0, num_points, columns):
                        tile = clouds[first:last, point : point + columns]
                        centred = buffer.center(tile, center)
                        out = target[point : point + len(centred)]
                        torch.addmm(of_mean, centred, of_second, out=out)
                sent = weight * of_values[first:last, :, None]
                rows = _flat_rows(indices[first:last], num_points)
                target.index_add_(0, rows, sent.view(-1, channels))

    run_jobs(worker, len(jobs))
    return of_clouds, of_weight


def _gather_weight_gradient(
    clouds: Tensor, center: Tensor, indices: Tensor, of_values: Tensor
) -> Tensor:
    """Returns ``sum over the clouds of gradient * (x_winner - center)``, ``(D, C)``.

    The rows of the weight are dealt to the threads: each row's sum is taken whole, in one order.
    """
    num_points, channels = clouds.shape[1:]
    num_clouds, out_channels = indices.shape
    inputs = clouds.reshape(-1, channels)
    result = clouds.new_empty(out_channels, channels)
    step = -(-out_channels // _MAX_JOBS) if clouds.device.type == "cpu" else out_channels
    # No more than a tile's worth of gathered points at a time.
    group = max(1, tile_columns(clouds) * 4 // step)

    def worker(numbers: Iterator[int]) -> None:
        for number in numbers:
            own = slice(number * step, (number + 1) * step)
            target = result[own].zero_()
            for first in range(0, num_clouds, group):
                some = slice(first, first + group)
                rows = _flat_rows(indices[some, own], num_points).add_(first * num_points)
                winners = inputs.index_select(0, rows).sub_(center)
                winners.mul_(of_values[some, own].reshape(-1, 1))
                target.add_(winners.view(-1, *target.shape).sum(0))

    run_jobs(worker, -(-out_channels // step))
    return result
