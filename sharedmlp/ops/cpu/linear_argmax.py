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

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from sharedmlp.ops.cpu.linear_bn_relu import LinearBNReLUGradients, write_layer
from sharedmlp.ops.cpu.search import best_points, is_better, products_at
from sharedmlp.ops.cpu.sums import MomentSums, PartialSums, moment_gradients
from sharedmlp.ops.cpu.threads import run_chunks
from sharedmlp.ops.cpu.tiles import Tile, split_clouds
from sharedmlp.ops.cpu.workspace import workspace
from sharedmlp.ops.custom_op import custom_op
from sharedmlp.ops.interface import FoldedLinear, LinearArgmax
from sharedmlp.ops.reference import double_backward, first_rows, linear_at

# Numbers gathered for the gradients at a time, so that they stay in the caches.
GATHERED = 2**19


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


def _folded(
    center: Tensor | None, weight: Tensor | None, bias: Tensor | None
) -> FoldedLinear | None:
    if center is None or weight is None or bias is None:
        return None
    return FoldedLinear(center, weight, bias)


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
    layer = _folded(layer_center, layer_weight, layer_bias)
    out_channels, channels = weight.shape
    chunks = split_clouds(clouds, lengths)
    values = clouds.new_empty(len(lengths) or len(clouds), out_channels)
    indices = torch.empty_like(values, dtype=torch.int64)
    sums = MomentSums(len(chunks), clouds, channels)
    signed_weight = weight * sign[:, None]
    search_weight = signed_weight.to(search_dtype)

    def worker(numbers: Iterator[int]) -> None:
        for number in numbers:
            for tile in chunks[number]:
                own = tile.clouds
                centered = _Rows(tile.of(clouds), layer, center).centered
                if moments:
                    sums.add(number, centered)
                best, where = best_points(search_weight, tile.pad(centered), len(tile.lengths))
                where = tile.unpad(where)
                if search_dtype != clouds.dtype:
                    rows = where + tile.first_rows(where.device)
                    best = products_at(centered, rows, signed_weight)
                if tile.start == 0:
                    values[own], indices[own] = best, where
                else:
                    better = is_better(best, values[own])
                    values[own] = torch.where(better, best, values[own])
                    indices[own] = torch.where(better, where + tile.start, indices[own])

    run_chunks(worker, len(chunks))
    # The value without the sign; if the sign is zero, that of the first point.
    first = clouds[0, first_rows(clouds, lengths)] if lengths else clouds[:, 0]
    first = first if layer is None else layer(first)
    values = torch.where(sign == 0, (first - center) @ weight.t(), values * sign)
    return values, indices, *sums.means(clouds.shape[0] * clouds.shape[1])


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
            return linear_at(clouds, weight, _folded(*folded), center, indices, ctx.lengths)

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
    layer = _folded(layer_center, layer_weight, layer_bias)
    of_clouds = torch.empty_like(
        clouds if needs_clouds else clouds[:0], memory_format=torch.contiguous_format
    )
    chunks = split_clouds(clouds, lengths)
    of_weight = PartialSums(workspace().weight_sums, len(chunks), weight, *weight.shape)
    of_layer = None if layer is None else LinearBNReLUGradients(len(chunks), layer.weight)

    def worker(numbers: Iterator[int]) -> None:
        for number in numbers:
            for tile in chunks[number]:
                rows = _Rows(tile.of(clouds), layer, center)
                out = tile.rows(of_clouds) if needs_clouds else None
                gradient = out
                if layer is not None:
                    gradient = workspace().gradients.take(clouds, *rows.centered.shape)
                if gradient is not None:
                    if offset is None or matrix is None:
                        gradient.zero_()
                    else:
                        torch.addmm(offset, rows.centered, matrix, out=gradient)
                for found, channels, sent in _found_in(tile, indices, of_values, weight):
                    points = rows.centered.index_select(0, found)
                    points = points.view(*sent.shape[:2], len(center))
                    if len(points) == 1 and isinstance(channels, slice):  # in one pass
                        of_weight[number].addcmul_(points[0], sent[0])
                    else:
                        of_weight[number][channels] += points.mul_(sent).sum(0)
                    if gradient is not None:
                        sent = weight[channels] * sent
                        gradient.index_add_(0, found, sent.flatten(0, 1))
                if layer is not None and of_layer is not None and gradient is not None:
                    of_layer.add(number, gradient, rows.outputs, rows.inputs)
                    if out is not None:
                        torch.mm(gradient, layer.weight, out=out)

    run_chunks(worker, len(chunks))
    if of_layer is None:
        return of_clouds, of_weight.total(), weight.new_empty(0), weight.new_empty(0)
    return (of_clouds, of_weight.total(), *of_layer.totals())


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


class _Rows:
    """The rows of a tile `(g, n, C)`, in the workspace: those of its last tile are gone.

    Attributes:
        inputs: What the layer's weight is multiplied by, `(g * n, C')`; unset without a layer.
        outputs: What the layer makes of them, `(g * n, C)`; unset without a layer.
        centered: The outputs, or the rows themselves, less the center.
    """

    def __init__(self, tile: Tensor, layer: FoldedLinear | None, center: Tensor) -> None:
        own, count = workspace(), tile.shape[0] * tile.shape[1]
        self.centered = own.centered.take(tile, count, len(center))
        if layer is None:
            torch.sub(tile, center, out=self.centered.view(tile.shape))
            return
        self.inputs = own.inputs.take(tile, count, tile.shape[-1])
        self.outputs = own.outputs.take(tile, count, len(center))
        write_layer(layer, tile.reshape(count, -1), self.inputs, self.outputs)
        torch.sub(self.outputs, center, out=self.centered)


def _found_in(
    tile: Tile, indices: Tensor, of_values: Tensor, weight: Tensor
) -> Iterator[tuple[Tensor, slice | Tensor, Tensor]]:
    """Yield the points found among a tile's: of g clouds at a time, w in each.

    Yields:
        Their rows in the tile `(g * w,)`, their channels (w of them), and the gradients of their
        values `(g, w, 1)`.
    """
    if tile.is_whole:
        rows = indices[tile.clouds] + tile.first_rows(indices.device)
        gradients = of_values[tile.clouds, :, None]
        step = max(1, GATHERED // weight.numel())
        for i in range(0, len(rows), step):
            yield rows[i : i + step].flatten(), slice(None), gradients[i : i + step]
        return
    cloud = tile.clouds.start
    rows = indices[cloud] - tile.start
    (channels,) = ((rows >= 0) & (rows < tile.lengths[0])).nonzero(as_tuple=True)
    yield rows[channels], channels, of_values[cloud, channels][None, :, None]


_gradient = custom_op("linear_argmax_backward", _gradient_forward, _gradient_fake)
_linear_argmax = custom_op("linear_argmax", _forward, _fake, _setup, _backward)
