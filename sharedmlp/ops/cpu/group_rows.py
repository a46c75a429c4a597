"""The rows of groups: features of points, products with relative coordinates, an activation.

Each tile of pairs is gathered, multiplied and passed on into the moments of the next layer while it
is in the cache, and in the backward pass the same way back.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from sharedmlp.ops.cpu.sums import MomentSums, PartialSums, moment_gradients
from sharedmlp.ops.cpu.threads import run_chunks
from sharedmlp.ops.cpu.workspace import workspace
from sharedmlp.ops.custom_op import custom_op
from sharedmlp.ops.gather_rows import gather_rows
from sharedmlp.ops.reference import double_backward, moments

# Pairs of a tile: what is made of them then stays in the caches.
_PAIRS = 1024


class GroupRows(NamedTuple):
    """What `group_rows` returns.

    Attributes:
        rows: `(B, Q, K, D)`.
        mean: `(D,)`, the mean of the rows less the center; anything without a center.
        second_moment: `(D, D)`, likewise.
    """

    rows: Tensor
    mean: Tensor
    second_moment: Tensor


def group_rows(
    a: Tensor,
    relative: Tensor,
    weight: Tensor,
    neighbors: Tensor,
    slope: float,
    center: Tensor | None,
) -> GroupRows:
    """Return `leaky_relu(a_j + W z_ij)` of all pairs, and its moments around a center.

    Differentiable in a, z and W.

    Args:
        a: `(B, N, D)`, of the points.
        relative: z, `(B, Q, K, P)`, of the pairs.
        weight: W, `(D, P)`.
        neighbors: `(B, Q, K)` int64, rows of `a` within each cloud.
        slope: Of the leaky ReLU, not negative: 0 for ReLU, 1 for the identity.
        center: `(D,)`; None if nobody needs the moments.
    """
    return GroupRows(
        *_group_rows(a.contiguous(), relative.contiguous(), weight, neighbors, slope, center)
    )


def _tiles(neighbors: Tensor) -> list[slice]:
    """Split the centers of a cloud into tiles."""
    num_centers, num_neighbors = neighbors.shape[1:]
    step = max(1, _PAIRS // num_neighbors)
    return [slice(i, min(i + step, num_centers)) for i in range(0, num_centers, step)]


def _formula(
    neighbors: Tensor, slope: float, center: Tensor | None, a: Tensor, relative: Tensor, w: Tensor
) -> tuple[Tensor, ...]:
    rows = functional.leaky_relu(gather_rows(a, neighbors) + relative @ w.t(), slope)
    return (rows,) if center is None else (rows, *moments(rows.flatten(0, 2), center))


def _forward(
    a: Tensor,
    relative: Tensor,
    weight: Tensor,
    neighbors: Tensor,
    slope: float,
    center: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    channels = a.shape[2]
    rows = a.new_empty(*neighbors.shape, channels)
    tiles = _tiles(neighbors)
    sums = MomentSums(len(a), a, channels)
    transposed = weight.t().contiguous()

    def worker(clouds: Iterator[int]) -> None:
        for cloud in clouds:
            for tile in tiles:
                out = rows[cloud, tile].flatten(0, 1)
                torch.index_select(a[cloud], 0, neighbors[cloud, tile].flatten(), out=out)
                out.addmm_(relative[cloud, tile].flatten(0, 1), transposed)
                if slope == 0:
                    out.relu_()
                elif slope != 1:
                    functional.leaky_relu_(out, slope)
                if center is not None:
                    centered = workspace().centered.take(out, *out.shape)
                    sums.add(cloud, torch.sub(out, center, out=centered))

    run_chunks(worker, len(a))
    return (rows, *sums.means(neighbors.numel()))


def _fake(
    a: Tensor,
    relative: Tensor,
    weight: Tensor,
    neighbors: Tensor,
    slope: float,
    center: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    channels = a.shape[2]
    rows = a.new_empty(*neighbors.shape, channels)
    return rows, a.new_empty(channels), a.new_empty(channels, channels)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    a, relative, weight, neighbors, ctx.slope, center = inputs
    ctx.save_for_backward(a, relative, weight, neighbors, center, output[0])


def _backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
    a, relative, weight, neighbors, center, rows = ctx.saved_tensors
    if torch.is_grad_enabled():  # somebody will differentiate the gradients again
        formula = partial(_formula, neighbors, ctx.slope, center)
        wanted = gradients[: 1 if center is None else 3]
        return (*double_backward(formula, (a, relative, weight), wanted), None, None, None)
    offset = matrix = None
    if center is not None:
        offset, matrix = moment_gradients(gradients[1], gradients[2], neighbors.numel())
    needs_relative = ctx.needs_input_grad[1]
    of_a, of_relative, of_weight = _gradient(
        a,
        relative,
        weight,
        neighbors,
        rows,
        gradients[0],
        ctx.slope,
        center,
        offset,
        matrix,
        needs_relative,
    )
    return of_a, of_relative if needs_relative else None, of_weight, None, None, None


def _gradient_forward(
    a: Tensor,
    relative: Tensor,
    weight: Tensor,
    neighbors: Tensor,
    rows: Tensor,
    of_rows: Tensor,
    slope: float,
    center: Tensor | None,
    offset: Tensor | None,
    matrix: Tensor | None,
    needs_relative: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of a, z and W.

    A row receives that of itself and, from the moments, `offset + matrix (row - center)`.
    """
    of_a = torch.zeros_like(a, memory_format=torch.contiguous_format)
    of_relative = torch.empty_like(relative if needs_relative else relative[:0])
    tiles = _tiles(neighbors)
    of_weight = PartialSums(workspace().weight_sums, len(a), weight, *weight.t().shape)

    def worker(clouds: Iterator[int]) -> None:
        for cloud in clouds:
            for tile in tiles:
                made = rows[cloud, tile].flatten(0, 1)
                received = of_rows[cloud, tile].flatten(0, 1)
                out = workspace().gradients.take(made, *made.shape)
                if center is not None and offset is not None and matrix is not None:
                    centered = workspace().centered.take(made, *made.shape)
                    torch.sub(made, center, out=centered)
                    received = torch.addmm(received, centered, matrix, out=out).add_(offset)
                if slope == 0:
                    torch.ops.aten.threshold_backward(received, made, 0, grad_input=out)
                elif slope != 1:
                    torch.where(made > 0, received, received * slope, out=out)
                else:
                    out = received
                of_a[cloud].index_add_(0, neighbors[cloud, tile].flatten(), out)
                of_pairs = relative[cloud, tile].flatten(0, 1)
                of_weight[cloud].addmm_(of_pairs.t(), out)
                if needs_relative:
                    torch.mm(out, weight, out=of_relative[cloud, tile].flatten(0, 1))

    run_chunks(worker, len(a))
    return of_a, of_relative, of_weight.total().t().contiguous()


def _gradient_fake(
    a: Tensor,
    relative: Tensor,
    weight: Tensor,
    neighbors: Tensor,
    rows: Tensor,
    of_rows: Tensor,
    slope: float,
    center: Tensor | None,
    offset: Tensor | None,
    matrix: Tensor | None,
    needs_relative: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    of_relative = torch.empty_like(relative if needs_relative else relative[:0])
    return a.new_empty(a.shape), of_relative, weight.new_empty(weight.shape)


_gradient = custom_op("group_rows_backward", _gradient_forward, _gradient_fake)
_group_rows = custom_op("group_rows", _forward, _fake, _setup, _backward)
