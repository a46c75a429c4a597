"""The max over each group of what further layers make of its rows, in training and evaluation.

The rows of the first layer exist one tile at a time, and so does what the next layers make of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sharedmlp.ops.cpu.argmax_tiles import folded_linear, search_tiles, tile_gradients
from sharedmlp.ops.cpu.folded import flatten_layers, max_of_tiles, unflatten_layers
from sharedmlp.ops.cpu.group_tiles import (
    GroupGradients,
    GroupTiles,
    ends_fake,
    group_formula,
    of_ends,
)
from sharedmlp.ops.cpu.sums import moment_gradients
from sharedmlp.ops.custom_op import custom_op
from sharedmlp.ops.interface import FoldedLayer, FoldedLinear, LinearArgmax
from sharedmlp.ops.reference import double_backward, linear_at


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
            a.contiguous(),
            relative.contiguous(),
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
        a.contiguous(), relative.contiguous(), weight, neighbors, slope, *flatten_layers(layers)
    )
    return pooled


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
    *totals, of_last, of_layer_weight, of_layer_bias = _argmax_gradient(
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
    return (*of_ends(tuple(totals), ends[1]), of_last, *of_layer, *[None] * 6)


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
        *ends_fake(a, relative, weight, *rest),
        last_weight.new_empty(last_weight.shape),
        a.new_empty(0 if layer_weight is None else layer_weight.shape),
        a.new_empty(0 if layer_weight is None else layer_weight.shape[0]),
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
