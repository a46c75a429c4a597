"""The max over points of pointwise products, without the products in memory.

For clouds `x (G, N, C)` and a weight `W (D, C)` this finds, for every cloud and channel, the point
with the largest of the N products `sign_d * W_d . (x_n - center)`, together with the first two
moments of `x - center` over all points. The `(G, N, D)` products exist one cache-sized tile at a
time; the backward pass touches the winners and one C x C product a point.

This is all that a batch norm between the product and the max needs (see sharedmlp.ops.fused): its
statistics follow from the moments, and it is monotone in each channel. The hidden layer before it
can be part of it: then x too exists only one tile at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sharedmlp.ops.cpu.linear_bn_relu import FoldedLinear, LinearBNReLUGradients
from sharedmlp.ops.cpu.search import GATHERED, best_points, flat_rows, is_better, products_at
from sharedmlp.ops.cpu.sums import (
    MomentSums,
    PartialSums,
    double_backward,
    moment_gradients,
    plain_moments,
)
from sharedmlp.ops.cpu.threads import run_jobs
from sharedmlp.ops.cpu.tiles import Tile, split_clouds, tile_buffer
from sharedmlp.ops.custom_op import custom_op


class LinearArgmax(NamedTuple):
    """What `linear_argmax` finds in G clouds of N points, M = G * N.

    Attributes:
        values: `(G, D)`, `W_d . (x_n - center)` of the winner (without the sign).
        indices: `(G, D)` int64, which of the N points won. If a sign is zero all points tie, and
            the first wins.
        mean: `(C,)`, the mean of `x - center`; zeros without `moments`.
        second_moment: `(C, C)`, the mean of `(x - center) (x - center)^T`, likewise.
    """

    values: Tensor
    indices: Tensor
    mean: Tensor
    second_moment: Tensor


def linear_argmax(
    clouds: Tensor,
    weight: Tensor,
    sign: Tensor,
    center: Tensor,
    *,
    moments: bool,
    search_dtype: torch.dtype,
    layer: FoldedLinear | None = None,
) -> LinearArgmax:
    """Find the winners and the moments; differentiable in clouds, weight and layer.

    Args:
        clouds: `(G, N, C)`, of any strides, or `(G, N, C')` before the layer.
        weight: `(D, C)`.
        sign: `(D,)`, 1, -1 or 0; a constant.
        center: `(C,)`; a constant. Near the mean it saves the moments from cancellation.
        moments: Whether to compute the moments.
        search_dtype: Precision of the products among which the winner is searched. If it is not
            that of the clouds, the winner's value is computed again in theirs.
        layer: Applied to the clouds first, C' to C channels.
    """
    folded = layer or (None, None, None)
    return LinearArgmax(
        *_linear_argmax(clouds, weight, *folded, sign, center, moments, search_dtype)
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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    layer = _folded(layer_center, layer_weight, layer_bias)
    num_clouds, num_points, _ = clouds.shape
    out_channels, channels = weight.shape
    jobs = split_clouds(clouds)
    values = clouds.new_empty(num_clouds, out_channels)
    indices = torch.empty(num_clouds, out_channels, dtype=torch.int64, device=clouds.device)
    sums = MomentSums(len(jobs), clouds, channels)
    signed_weight = weight * sign[:, None]
    search_weight = signed_weight.to(search_dtype)

    def worker(numbers: Iterator[int]) -> None:
        for number in numbers:
            for tile in jobs[number]:
                own = slice(tile.first, tile.last)
                centered = _Rows(tile.of(clouds), layer, center).centered
                if moments:
                    sums.add(number, centered)
                best, where = best_points(search_weight, centered, tile.last - tile.first)
                if search_dtype != clouds.dtype:
                    best = products_at(centered, where, signed_weight)
                if tile.start == 0:
                    values[own], indices[own] = best, where
                else:
                    better = is_better(best, values[own])
                    values[own] = torch.where(better, best, values[own])
                    indices[own] = torch.where(better, where + tile.start, indices[own])

    run_jobs(worker, len(jobs))
    # The value without the sign; if the sign is zero, that of the first point.
    first = clouds[:, 0] if layer is None else layer(clouds[:, 0])
    values = torch.where(sign == 0, (first - center) @ weight.t(), values * sign)
    return values, indices, *sums.means(num_clouds * num_points)


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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    channels = weight.shape[1]
    values = clouds.new_empty(clouds.shape[0], weight.shape[0])
    indices = torch.empty_like(values, dtype=torch.int64)
    return values, indices, clouds.new_empty(channels), clouds.new_empty(channels, channels)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    clouds, weight, *folded, _, center, moments, _ = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(clouds, weight, *folded, center, output[1])
    ctx.moments = moments


def _backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
    clouds, weight, *folded, center, indices = ctx.saved_tensors
    of_values, _, of_mean, of_second = gradients
    if torch.is_grad_enabled():  # somebody will differentiate the gradients again

        def formula(
            clouds: Tensor, weight: Tensor, *folded: Tensor | None
        ) -> tuple[Tensor, Tensor, Tensor]:
            layer = _folded(*folded)
            rows = (clouds if layer is None else layer(clouds)) - center
            which = torch.arange(len(rows), device=rows.device)[:, None]
            values = (rows[which, indices] * weight).sum(-1)
            flat = rows.reshape(-1, rows.shape[-1])
            return values, *plain_moments(flat, torch.zeros_like(center))

        of_outputs = (of_values, of_mean, of_second)
        return (*double_backward(formula, (clouds, weight, *folded), of_outputs), *[None] * 4)
    offset = matrix = None
    if ctx.moments:
        count = clouds.shape[0] * clouds.shape[1]
        offset, matrix = moment_gradients(of_mean, of_second, count)
    needs_clouds, has_layer = ctx.needs_input_grad[0], folded[0] is not None
    of_clouds, of_weight, of_layer_weight, of_layer_bias = _gradient(
        clouds, weight, *folded, center, indices, of_values, offset, matrix, needs_clouds
    )
    return (
        of_clouds if needs_clouds else None,
        of_weight,
        None,
        *((of_layer_weight, of_layer_bias) if has_layer else (None, None)),
        *[None] * 4,
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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of the clouds, of the weight, and of the layer's weight and bias.

    Each winner sends `gradient * W_d` to its point and `gradient * (x - center)` to its row of the
    weight. The moments send `offset + matrix (x - center)` to every point.
    """
    layer = _folded(layer_center, layer_weight, layer_bias)
    of_clouds = torch.empty_like(
        clouds if needs_clouds else clouds[:0], memory_format=torch.contiguous_format
    )
    jobs = split_clouds(clouds)
    of_weight = PartialSums("weights", len(jobs), weight, *weight.shape)
    of_layer = None if layer is None else LinearBNReLUGradients(len(jobs), layer.weight)

    def worker(numbers: Iterator[int]) -> None:
        for number in numbers:
            for tile in jobs[number]:
                rows = _Rows(tile.of(clouds), layer, center)
                out = tile.rows(of_clouds) if needs_clouds else None
                gradient = out
                if layer is not None:
                    gradient = tile_buffer("gradients", clouds, len(center))[: len(rows.centered)]
                if gradient is not None:
                    if offset is None or matrix is None:
                        gradient.zero_()
                    else:
                        torch.addmm(offset, rows.centered, matrix, out=gradient)
                for points, channels, sent in _winners_in(tile, clouds, indices, of_values, weight):
                    won = rows.centered.index_select(0, points).view(*sent.shape[:2], len(center))
                    if len(won) == 1 and isinstance(channels, slice):  # in one pass
                        of_weight[number].addcmul_(won[0], sent[0])
                    else:
                        of_weight[number][channels] += won.mul_(sent).sum(0)
                    if gradient is not None:
                        sent = weight[channels] * sent
                        gradient.index_add_(0, points, sent.flatten(0, 1))
                if layer is not None and of_layer is not None and gradient is not None:
                    of_layer.add(number, gradient, rows.outputs, rows.inputs)
                    if out is not None:
                        torch.mm(gradient, layer.weight, out=out)

    run_jobs(worker, len(jobs))
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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shape = clouds.shape if needs_clouds else (0, *clouds.shape[1:])
    return (
        clouds.new_empty(shape),
        weight.new_empty(weight.shape),
        weight.new_empty(0 if layer_weight is None else layer_weight.shape),
        weight.new_empty(0 if layer_weight is None else layer_weight.shape[0]),
    )


class _Rows:
    """The rows of a tile `(g, n, C)`, in the memory of a thread: those of its last tile are gone.

    Attributes:
        inputs: What the layer's weight is multiplied by, `(g * n, C')`; unset without a layer.
        outputs: What the layer makes of them, `(g * n, C)`; unset without a layer.
        centered: The outputs, or the rows themselves, less the center.
    """

    def __init__(self, tile: Tensor, layer: FoldedLinear | None, center: Tensor) -> None:
        count = tile.shape[0] * tile.shape[1]
        self.centered = tile_buffer("centered", tile, len(center))[:count]
        if layer is None:
            torch.sub(tile, center, out=self.centered.view(tile.shape))
            return
        self.inputs = tile_buffer("inputs", tile, tile.shape[-1])[:count]
        self.outputs = tile_buffer("outputs", tile, len(center))[:count]
        layer.write(tile.reshape(count, -1), self.inputs, self.outputs)
        torch.sub(self.outputs, center, out=self.centered)


def _winners_in(
    tile: Tile, clouds: Tensor, indices: Tensor, of_values: Tensor, weight: Tensor
) -> Iterator[tuple[Tensor, slice | Tensor, Tensor]]:
    """Yield the winners among a tile's points: g clouds of them at a time, w in each.

    Yields:
        Their rows in the tile `(g * w,)`, their channels (w of them), and the gradients of their
        values `(g, w, 1)`.
    """
    num_points = clouds.shape[1]
    if tile.stop - tile.start == num_points:
        step = max(1, GATHERED // weight.numel())
        for first in range(tile.first, tile.last, step):
            some = slice(first, min(first + step, tile.last))
            rows = flat_rows(indices[some], num_points).add_((first - tile.first) * num_points)
            yield rows, slice(None), of_values[some, :, None]
        return
    rows = indices[tile.first] - tile.start
    (channels,) = ((rows >= 0) & (rows < tile.stop - tile.start)).nonzero(as_tuple=True)
    yield rows[channels], channels, of_values[tile.first, channels][None, :, None]


_gradient = custom_op("linear_argmax_backward", _gradient_forward, _gradient_fake)
_linear_argmax = custom_op("linear_argmax", _forward, _fake, _setup, _backward)
