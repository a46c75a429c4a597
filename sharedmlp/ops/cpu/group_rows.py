"""The rows after the first layer of set abstraction, for layers that need them; their moments."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from sharedmlp.ops.cpu.group_tiles import (
    GroupGradients,
    GroupTiles,
    ends_fake,
    group_formula,
    of_ends,
)
from sharedmlp.ops.cpu.sums import MomentSums, moment_gradients
from sharedmlp.ops.cpu.threads import run_chunks
from sharedmlp.ops.custom_op import custom_op
from sharedmlp.ops.reference import double_backward, moments


def group_rows(
    a: Tensor, relative: Tensor, weight: Tensor, neighbors: Tensor, slope: float
) -> Tensor:
    """Return all rows `(B, Q, K, D)`; the arguments are those of `GroupTiles`."""
    rows: Tensor = _group_rows(a.contiguous(), relative.contiguous(), weight, neighbors, slope)
    return rows


def group_moments(
    a: Tensor, relative: Tensor, weight: Tensor, neighbors: Tensor, slope: float, center: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the mean `(D,)` and the second moment `(D, D)` of all rows less a center."""
    mean, second = _group_moments(
        a.contiguous(), relative.contiguous(), weight, neighbors, slope, center
    )
    return mean, second


def _rows_forward(
    a: Tensor, relative: Tensor, weight: Tensor, neighbors: Tensor, slope: float
) -> Tensor:
    tiles = GroupTiles(a, relative, weight, neighbors, slope)
    rows = a.new_empty(tiles.num_groups, tiles.num_neighbors, a.shape[2])

    def worker(numbers: Iterator[int]) -> None:
        for number in numbers:
            for tile in tiles.chunks[number]:
                made = tiles.rows(tile)
                rows[tile.clouds] = made.view(len(tile.lengths), *rows.shape[1:])

    run_chunks(worker, len(tiles.chunks))
    return rows.view(*neighbors.shape, -1)


def _rows_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.slope = inputs
    ctx.save_for_backward(*tensors)


def _rows_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    a, relative, weight, neighbors = ctx.saved_tensors
    if torch.is_grad_enabled():  # somebody will differentiate the gradients again

        def formula(a: Tensor, relative: Tensor, weight: Tensor) -> tuple[Tensor]:
            return (group_formula(a, relative, weight, neighbors, ctx.slope),)

        return (*double_backward(formula, (a, relative, weight), (gradient,)), None, None)
    found = _rows_gradient(
        a, relative, weight, neighbors, ctx.slope, gradient, ctx.needs_input_grad[1]
    )
    return (*of_ends(found, relative), None, None)


def _rows_gradient_forward(
    a: Tensor,
    relative: Tensor,
    weight: Tensor,
    neighbors: Tensor,
    slope: float,
    gradient: Tensor,
    needs_relative: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    tiles = GroupTiles(a, relative, weight, neighbors, slope)
    gradients = GroupGradients(tiles, needs_relative)
    of_groups = gradient.reshape(tiles.num_groups, tiles.num_neighbors, -1)

    def worker(numbers: Iterator[int]) -> None:
        for number in numbers:
            for tile in tiles.chunks[number]:
                out = gradients.out(tile)
                out.view(-1, *of_groups.shape[1:]).copy_(of_groups[tile.clouds])
                gradients.add(number, tile, out, tiles.rows(tile))

    run_chunks(worker, len(tiles.chunks))
    return gradients.totals()


def _moments_forward(
    a: Tensor, relative: Tensor, weight: Tensor, neighbors: Tensor, slope: float, center: Tensor
) -> tuple[Tensor, Tensor]:
    tiles = GroupTiles(a, relative, weight, neighbors, slope)
    sums = MomentSums(len(tiles.chunks), a, a.shape[2])

    def worker(numbers: Iterator[int]) -> None:
        for number in numbers:
            for tile in tiles.chunks[number]:
                sums.add(number, tiles.rows(tile)[0].sub_(center))

    run_chunks(worker, len(tiles.chunks))
    return sums.means(neighbors.numel())


def _moments_setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.slope, center = inputs
    ctx.save_for_backward(*tensors, center)


def _moments_backward(ctx: Any, of_mean: Tensor, of_second: Tensor) -> tuple[Tensor | None, ...]:
    a, relative, weight, neighbors, center = ctx.saved_tensors
    if torch.is_grad_enabled():  # somebody will differentiate the gradients again

        def formula(a: Tensor, relative: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
            return moments(
                group_formula(a, relative, weight, neighbors, ctx.slope).flatten(0, 2), center
            )

        found = double_backward(formula, (a, relative, weight), (of_mean, of_second))
        return (*found, None, None, None)
    offset, matrix = moment_gradients(of_mean, of_second, neighbors.numel())
    totals = _moments_gradient(
        a,
        relative,
        weight,
        neighbors,
        ctx.slope,
        center,
        offset,
        matrix,
        ctx.needs_input_grad[1],
    )
    return (*of_ends(totals, relative), None, None, None)


def _moments_gradient_forward(
    a: Tensor,
    relative: Tensor,
    weight: Tensor,
    neighbors: Tensor,
    slope: float,
    center: Tensor,
    offset: Tensor,
    matrix: Tensor,
    needs_relative: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """A row receives `offset + matrix (row - center)`."""
    tiles = GroupTiles(a, relative, weight, neighbors, slope)
    gradients = GroupGradients(tiles, needs_relative)
    offset = offset - matrix @ center

    def worker(numbers: Iterator[int]) -> None:
        for number in numbers:
            for tile in tiles.chunks[number]:
                rows = tiles.rows(tile)
                out = torch.addmm(offset, rows[0], matrix, out=gradients.out(tile))
                gradients.add(number, tile, out, rows)

    run_chunks(worker, len(tiles.chunks))
    return gradients.totals()


_rows_gradient = custom_op("group_rows_backward", _rows_gradient_forward, ends_fake)
_group_rows = custom_op(
    "group_rows",
    _rows_forward,
    lambda a, relative, weight, neighbors, slope: a.new_empty(*neighbors.shape, a.shape[2]),
    _rows_setup,
    _rows_backward,
)
_moments_gradient = custom_op("group_moments_backward", _moments_gradient_forward, ends_fake)
_group_moments = custom_op(
    "group_moments",
    _moments_forward,
    lambda a, *_: (a.new_empty(a.shape[2]), a.new_empty(a.shape[2], a.shape[2])),
    _moments_setup,
    _moments_backward,
)
