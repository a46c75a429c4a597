"""The max over points of pointwise products, without the products in memory.

For clouds `x (G, N, C)` and a weight `W (D, C)` this finds, for every cloud and channel, the point
with the largest of the N products `sign_d * W_d . (x_n - center)`, together with the first two
moments of `x - center` over all points. The `(G, N, D)` products exist one cache-sized tile at a
time; the backward pass touches the points found and one C x C product a point.

This is all that a batch norm between the product and the max needs (see sharedmlp.ops.fused): its
statistics follow from the moments, and it is monotone in each channel. The hidden layer before it
can be part of it: then x too exists only one tile at a time.

Clouds of equal and of different sizes differ in how they are split into tiles, and in nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sharedmlp.ops.cpu.argmax_tiles import folded_linear, search_tiles, tile_gradients
from sharedmlp.ops.cpu.row_tiles import CloudGradients, CloudTiles
from sharedmlp.ops.cpu.sums import moment_gradients
from sharedmlp.ops.custom_op import custom_op
from sharedmlp.ops.interface import FoldedLinear, LinearArgmax
from sharedmlp.ops.reference import double_backward, linear_at


def linear_argmax(
    clouds: Tensor,
    weight: Tensor,
    sign: Tensor,
    center: Tensor,
    *,
    moments: bool,
    search_dtype: torch.dtype,
    layer: FoldedLinear | None = None,
    lengths: Sequence[int] = (),
) -> LinearArgmax:
    """See `Implementation.linear_argmax`."""
    folded = layer or (None, None, None)
    return LinearArgmax(
        *_linear_argmax(clouds, weight, *folded, sign, center, moments, search_dtype, list(lengths))
    )


def _forward(
    clouds: Tensor,
    weight: Tensor,
    layer_center: Tensor | None,
    layer_weight: Tensor | None,
    layer_bias: Tensor | None,
    sign: Tensor,
    center: Tensor,
    moments: bool,
    search_dtype: torch.dtype,
    lengths: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    layer = folded_linear(layer_center, layer_weight, layer_bias)
    tiles = CloudTiles(clouds, lengths)
    return search_tiles(tiles, layer, weight, sign, center, moments, search_dtype)


def _fake(
    clouds: Tensor,
    weight: Tensor,
    layer_center: Tensor | None,
    layer_weight: Tensor | None,
    layer_bias: Tensor | None,
    sign: Tensor,
    center: Tensor,
    moments: bool,
    search_dtype: torch.dtype,
    lengths: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    channels = weight.shape[1]
    values = clouds.new_empty(len(lengths) or clouds.shape[0], weight.shape[0])
    indices = torch.empty_like(values, dtype=torch.int64)
    return values, indices, clouds.new_empty(channels), clouds.new_empty(channels, channels)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    clouds, weight, *folded, _, center, moments, _, lengths = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(clouds, weight, *folded, center, output[1])
    ctx.moments, ctx.lengths = moments, lengths


def _backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
    clouds, weight, *folded, center, indices = ctx.saved_tensors
    of_values, _, of_mean, of_second = gradients
    if torch.is_grad_enabled():  # somebody will differentiate the gradients again

        def formula(
            clouds: Tensor, weight: Tensor, *folded: Tensor | None
        ) -> tuple[Tensor, Tensor, Tensor]:
            return linear_at(clouds, weight, folded_linear(*folded), center, indices, ctx.lengths)

        of_outputs = (of_values, of_mean, of_second)
        return (*double_backward(formula, (clouds, weight, *folded), of_outputs), *[None] * 5)
    offset = matrix = None
    if ctx.moments:
        count = clouds.shape[0] * clouds.shape[1]
        offset, matrix = moment_gradients(of_mean, of_second, count)
    needs_clouds, has_layer = ctx.needs_input_grad[0], folded[0] is not None
    of_clouds, of_weight, of_layer_weight, of_layer_bias = _gradient(
        clouds,
        weight,
        *folded,
        center,
        indices,
        of_values,
        offset,
        matrix,
        needs_clouds,
        ctx.lengths,
    )
    return (
        of_clouds if needs_clouds else None,
        of_weight,
        None,
        *((of_layer_weight, of_layer_bias) if has_layer else (None, None)),
        *[None] * 5,
    )


def _gradient_forward(
    clouds: Tensor,
    weight: Tensor,
    layer_center: Tensor | None,
    layer_weight: Tensor | None,
    layer_bias: Tensor | None,
    center: Tensor,
    indices: Tensor,
    of_values: Tensor,
    offset: Tensor | None,
    matrix: Tensor | None,
    needs_clouds: bool,
    lengths: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of the clouds, of the weight, and of the layer's weight and bias.

    Each value sends `gradient * W_d` to its point and `gradient * (x - center)` to its row of the
    weight. The moments send `offset + matrix (x - center)` to every point.
    """
    layer = folded_linear(layer_center, layer_weight, layer_bias)
    tiles = CloudTiles(clouds, lengths)
    of_clouds = CloudGradients(clouds, needs_clouds)
    others = tile_gradients(
        tiles, of_clouds, layer, weight, center, indices, of_values, offset, matrix
    )
    return (of_clouds.total, *others)


def _gradient_fake(
    clouds: Tensor,
    weight: Tensor,
    layer_center: Tensor | None,
    layer_weight: Tensor | None,
    layer_bias: Tensor | None,
    center: Tensor,
    indices: Tensor,
    of_values: Tensor,
    offset: Tensor | None,
    matrix: Tensor | None,
    needs_clouds: bool,
    lengths: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shape = clouds.shape if needs_clouds else (0, *clouds.shape[1:])
    return (
        clouds.new_empty(shape),
        weight.new_empty(weight.shape),
        weight.new_empty(0 if layer_weight is None else layer_weight.shape),
        weight.new_empty(0 if layer_weight is None else layer_weight.shape[0]),
    )


_gradient = custom_op("linear_argmax_backward", _gradient_forward, _gradient_fake)
_linear_argmax = custom_op("linear_argmax", _forward, _fake, _setup, _backward)
