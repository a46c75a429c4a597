"""What follows the first layer of set abstraction, from rows that exist one tile at a time.

The rows themselves for layers that need them in memory; their moments; the max over each group of
what further layers make of them, in training (`group_argmax`) and for evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from sharedmlp.ops.cpu.argmax_tiles import folded_linear, search_tiles, tile_gradients
from sharedmlp.ops.cpu.folded import flatten_layers, max_of_tiles, unflatten_layers
from sharedmlp.ops.cpu.group_tiles import GroupGradients, GroupTiles, group_formula
from sharedmlp.ops.cpu.sums import MomentSums, moment_gradients
from sharedmlp.ops.cpu.threads import run_chunks
from sharedmlp.ops.custom_op import custom_op
from sharedmlp.ops.interface import FoldedLayer, FoldedLinear, LinearArgmax
from sharedmlp.ops.reference import double_backward, linear_at, moments


def group_rows(
    a: Tensor, relative: Tensor, weight: Tensor, neighbors: Tensor, slope: float
) -> Tensor:
    """Return all rows `(B, Q, K, D)`; the arguments are those of `GroupTiles`."""
    rows: Tensor = _group_rows(*_contiguous(a, relative), weight, neighbors, slope)
    return rows


def group_moments(
    a: Tensor, relative: Tensor, weight: Tensor, neighbors: Tensor, slope: float, center: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the mean `(D,)` and the second moment `(D, D)` of all rows less a center."""
    mean, second = _group_moments(*_contiguous(a, relative), weight, neighbors, slope, center)
    return mean, second


def group_argmax(
    a: Tensor,
    relative: Tensor,
    weight: Tensor,
    neighbors: Tensor,
    slope: float,
    last_weight: Tensor,
    sign: Tensor,
    center: Tensor,
    *,
    moments: bool,
    search_dtype: torch.dtype,
    layer: FoldedLinear | None = None,
) -> LinearArgmax:
    """Do what `Implementation.linear_argmax` does for the rows of all groups."""
    return LinearArgmax(
        *_group_argmax(
            *_contiguous(a, relative),
            weight,
            last_weight,
            *(layer or (None, None, None)),
            neighbors,
            slope,
            sign,
            center,
            moments,
            search_dtype,
        )
    )


def group_folded_max(
    a: Tensor,
    relative: Tensor,
    weight: Tensor,
    neighbors: Tensor,
    slope: float,
    layers: Sequence[FoldedLayer],
) -> Tensor:
    """Do what `Implementation.folded_max` does for the rows of all groups, `(B * Q, D)`."""
    pooled: Tensor = _group_folded_max(
        *_contiguous(a, relative), weight, neighbors, slope, *flatten_layers(layers)
    )
    return pooled


def _contiguous(a: Tensor, relative: Tensor) -> tuple[Tensor, Tensor]:
    return a.contiguous(), relative.contiguous()


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

        def formula(*ends: Tensor) -> tuple[Tensor]:
            return (group_formula(*ends, neighbors, ctx.slope),)

        return (*double_backward(formula, (a, relative, weight), (gradient,)), None, None)
    found = _rows_gradient(
        a, relative, weight, neighbors, ctx.slope, gradient, ctx.needs_input_grad[1]
    )
    return (*_of_ends(found, relative), None, None)


def _of_ends(found: tuple[Tensor, ...], relative: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return the gradients of a, of z if it has one, and of W."""
    of_a, of_relative, of_weight = found[:3]
    return of_a, of_relative.view(relative.shape) if len(of_relative) else None, of_weight


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

        def formula(*ends: Tensor) -> tuple[Tensor, ...]:
            return moments(group_formula(*ends, neighbors, ctx.slope).flatten(0, 2), center)

        found = double_backward(formula, (a, relative, weight), (of_mean, of_second))
        return (*found, None, None, None)
    offset, matrix = moment_gradients(of_mean, of_second, neighbors.numel())
    of_ends = _moments_gradient(
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
    return (*_of_ends(of_ends, relative), None, None, None)


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


def _argmax_forward(
    a: Tensor,
    relative: Tensor,
    weight: Tensor,
    last_weight: Tensor,
    layer_center: Tensor | None,
    layer_weight: Tensor | None,
    layer_bias: Tensor | None,
    neighbors: Tensor,
    slope: float,
    sign: Tensor,
    center: Tensor,
    moments: bool,
    search_dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    tiles = GroupTiles(a, relative, weight, neighbors, slope)
    layer = folded_linear(layer_center, layer_weight, layer_bias)
    return search_tiles(tiles, layer, last_weight, sign, center, moments, search_dtype)


def _argmax_fake(
    a: Tensor,
    relative: Tensor,
    weight: Tensor,
    last_weight: Tensor,
    layer_center: Tensor | None,
    layer_weight: Tensor | None,
    layer_bias: Tensor | None,
    neighbors: Tensor,
    *_: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    out_channels, channels = last_weight.shape
    values = a.new_empty(neighbors.shape[0] * neighbors.shape[1], out_channels)
    indices = torch.empty_like(values, dtype=torch.int64)
    return values, indices, a.new_empty(channels), a.new_empty(channels, channels)


def _argmax_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, neighbors, ctx.slope, _, center, ctx.moments, _ = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*tensors, neighbors, center, output[1])


def _argmax_backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
    *ends, last_weight, center_, weight_, bias_, neighbors, center, indices = ctx.saved_tensors
    folded = (center_, weight_, bias_)
    of_values, _, of_mean, of_second = gradients
    if torch.is_grad_enabled():  # somebody will differentiate the gradients again

        def formula(*inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            a, relative, weight, last_weight, *folded = inputs
            clouds = group_formula(a, relative, weight, neighbors, ctx.slope).flatten(0, 1)
            return linear_at(clouds, last_weight, folded_linear(*folded), center, indices)

        found = double_backward(
            formula, (*ends, last_weight, *folded), (of_values, of_mean, of_second)
        )
        return (*found, *[None] * 6)
    offset = matrix = None
    if ctx.moments:
        offset, matrix = moment_gradients(of_mean, of_second, neighbors.numel())
    *of_ends, of_last, of_layer_weight, of_layer_bias = _argmax_gradient(
        *ends,
        last_weight,
        *folded,
        neighbors,
        ctx.slope,
        center,
        indices,
        of_values,
        offset,
        matrix,
        ctx.needs_input_grad[1],
    )
    of_layer = (None, None, None)
    if weight_ is not None:
        of_layer = (None, of_layer_weight, of_layer_bias)
    return (*_of_ends(tuple(of_ends), ends[1]), of_last, *of_layer, *[None] * 6)


def _argmax_gradient_forward(
    a: Tensor,
    relative: Tensor,
    weight: Tensor,
    last_weight: Tensor,
    layer_center: Tensor | None,
    layer_weight: Tensor | None,
    layer_bias: Tensor | None,
    neighbors: Tensor,
    slope: float,
    center: Tensor,
    indices: Tensor,
    of_values: Tensor,
    offset: Tensor | None,
    matrix: Tensor | None,
    needs_relative: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    tiles = GroupTiles(a, relative, weight, neighbors, slope)
    gradients = GroupGradients(tiles, needs_relative)
    layer = folded_linear(layer_center, layer_weight, layer_bias)
    others = tile_gradients(
        tiles, gradients, layer, last_weight, center, indices, of_values, offset, matrix
    )
    return (*gradients.totals(), *others)


def _folded_forward(
    a: Tensor,
    relative: Tensor,
    weight: Tensor,
    neighbors: Tensor,
    slope: float,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    activations: str,
    parameters: Sequence[float],
) -> Tensor:
    tiles = GroupTiles(a, relative, weight, neighbors, slope)
    layers = unflatten_layers(weights, biases, activations, parameters)
    return max_of_tiles(tiles, layers)


def _ends_fake(
    a: Tensor, relative: Tensor, weight: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    pairs = relative.flatten(0, 2) if rest[-1] else relative.flatten(0, 2)[:0]
    return a.new_empty(a.shape), a.new_empty(pairs.shape), weight.new_empty(weight.shape)


def _argmax_gradient_fake(
    a: Tensor,
    relative: Tensor,
    weight: Tensor,
    last_weight: Tensor,
    layer_center: Tensor | None,
    layer_weight: Tensor | None,
    *rest: Any,
) -> tuple[Tensor, ...]:
    return (
        *_ends_fake(a, relative, weight, *rest),
        last_weight.new_empty(last_weight.shape),
        a.new_empty(0 if layer_weight is None else layer_weight.shape),
        a.new_empty(0 if layer_weight is None else layer_weight.shape[0]),
    )


_rows_gradient = custom_op("group_rows_backward", _rows_gradient_forward, _ends_fake)
_group_rows = custom_op(
    "group_rows",
    _rows_forward,
    lambda a, relative, weight, neighbors, slope: a.new_empty(*neighbors.shape, a.shape[2]),
    _rows_setup,
    _rows_backward,
)
_moments_gradient = custom_op("group_moments_backward", _moments_gradient_forward, _ends_fake)
_group_moments = custom_op(
    "group_moments",
    _moments_forward,
    lambda a, *_: (a.new_empty(a.shape[2]), a.new_empty(a.shape[2], a.shape[2])),
    _moments_setup,
    _moments_backward,
)
_argmax_gradient = custom_op(
    "group_argmax_backward", _argmax_gradient_forward, _argmax_gradient_fake
)
_group_argmax = custom_op(
    "group_argmax", _argmax_forward, _argmax_fake, _argmax_setup, _argmax_backward
)
_group_folded_max = custom_op(
    "group_folded_max",
    _folded_forward,
    lambda a, relative, weight, neighbors, slope, weights, *_: a.new_empty(
        neighbors.shape[0] * neighbors.shape[1], weights[-1].shape[0]
    ),
)
