"""The winners of a max over points of pointwise products, without the products in memory.

For clouds ``x (G, N, C)`` and a weight ``W (D, C)`` this finds, for every cloud and channel, the
point with the largest of the N products ``sign_d * W_d . (x_n - center)``, together with the first
two moments of ``x - center`` over all points. The ``(G, N, D)`` products exist one cache-sized tile
at a time; the backward pass touches the winners and one C x C product a point.

This is all that a batch norm between the product and the max needs (see
:mod:`sharedmlp.layers.fused`): its statistics follow from the moments, and it is monotone in each
channel. The narrow layer in front can be part of it: then x too exists only one tile at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sharedmlp.ops.linear_bn_relu import (
    FoldedLinear,
    LinearBNReLUGradients,
    MomentSums,
    PartialSums,
    double_backward,
    moment_gradients,
)
from sharedmlp.ops.threads import run_jobs, thread_buffer
from sharedmlp.ops.tiles import Tile, split_clouds, tile_buffer

# A CPU's max with index looks at one number at a time, amax at a vector of them: so amax leaves
# one candidate for each of this many columns modulo it, and max looks at those.
_GROUP = 64
# Numbers gathered for the winners' gradients at a time, so that they stay in the caches.
GATHERED = 2**19


class LinearArgmax(NamedTuple):
    """What :func:`linear_argmax` finds in G clouds of N points, M = G * N.

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
    """Finds the winners and the moments; differentiable in clouds, weight and layer.

    Args:
        clouds: ``(G, N, C)``, of any strides, or ``(G, N, C')`` in front of the layer.
        weight: ``(D, C)``.
        sign: ``(D,)``, 1, -1 or 0; a constant.
        center: ``(C,)``; a constant. Near the mean it saves the moments from cancellation.
        moments: Whether to compute the moments.
        search_dtype: Precision of the products among which the winner is searched. Where it is not
            that of the clouds, the winner's value is computed again in theirs.
        layer: Applied to the clouds first, C' to C channels.
    """
    outputs = _LinearArgmax.apply(  # type: ignore[no-untyped-call]
        clouds, weight, *(layer or (None, None, None)), sign, center, moments, search_dtype
    )
    return LinearArgmax(*outputs)


class _LinearArgmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        clouds: Tensor,
        weight: Tensor,
        layer_center: Tensor | None,
        layer_weight: Tensor | None,
        layer_bias: Tensor | None,
        sign: Tensor,
        center: Tensor,
        moments: bool,
        search_dtype: torch.dtype,
    ) -> LinearArgmax:
        layer = _layer(layer_center, layer_weight, layer_bias)
        found = _search(clouds, layer, weight, sign, center, moments, search_dtype)
        ctx.mark_non_differentiable(found.indices)
        ctx.save_for_backward(
            clouds, weight, layer_center, layer_weight, layer_bias, center, found.indices
        )
        ctx.moments = moments
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        clouds, weight, *of_layer, center, indices = ctx.saved_tensors
        of_values, _, of_mean, of_second = gradients
        if torch.is_grad_enabled():  # somebody will differentiate the gradients again

            def plain(
                clouds: Tensor, weight: Tensor, *of_layer: Tensor
            ) -> tuple[Tensor, Tensor, Tensor]:
                layer = _layer(*of_layer)
                return _plain(clouds if layer is None else layer(clouds), weight, center, indices)

            of_outputs = (of_values, of_mean, of_second)
            return (*double_backward(plain, (clouds, weight, *of_layer), of_outputs), *[None] * 4)
        count = clouds.shape[0] * clouds.shape[1]
        of_clouds, of_weight, of_layer_weight, of_layer_bias = _backward(
            clouds,
            _layer(*of_layer),
            weight,
            center,
            indices,
            of_values,
            moment_gradients(of_mean, of_second, count) if ctx.moments else None,
            needs_clouds=ctx.needs_input_grad[0],
        )
        return of_clouds, of_weight, None, of_layer_weight, of_layer_bias, *[None] * 4


def _layer(
    center: Tensor | None, weight: Tensor | None, bias: Tensor | None
) -> FoldedLinear | None:
    if center is None or weight is None or bias is None:
        return None
    return FoldedLinear(center, weight, bias)


def _plain(
    clouds: Tensor, weight: Tensor, center: Tensor, indices: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The differentiable outputs as a formula of the inputs, for derivatives of any order."""
    centred = clouds - center
    rows = torch.arange(len(clouds), device=clouds.device)[:, None]
    values = (centred[rows, indices] * weight).sum(-1)
    flat = centred.reshape(-1, centred.shape[-1])
    return values, flat.mean(0), flat.t() @ flat / len(flat)


def _search(
    clouds: Tensor,
    layer: FoldedLinear | None,
    weight: Tensor,
    sign: Tensor,
    center: Tensor,
    moments: bool,
    search_dtype: torch.dtype,
) -> LinearArgmax:
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
                centred = _Rows(tile.of(clouds), layer, center).centred
                if moments:
                    sums.add(number, centred)
                best, where = best_points(search_weight, centred, tile.last - tile.first)
                if search_dtype != clouds.dtype:
                    best = products_at(centred, where, signed_weight)
                if tile.start == 0:
                    values[own], indices[own] = best, where
                else:
                    better = best > values[own]
                    values[own] = torch.where(better, best, values[own])
                    indices[own] = torch.where(better, where + tile.start, indices[own])

    run_jobs(worker, len(jobs))
    # The value without the sign; where the sign is zero, that of the first point.
    first = clouds[:, 0] if layer is None else layer(clouds[:, 0])
    values = torch.where(sign == 0, (first - center) @ weight.t(), values * sign)
    return LinearArgmax(values, indices, *sums.means(num_clouds * num_points))


class _Rows:
    """The rows of a tile ``(g, n, C)``, in the memory of a thread: those of its last tile are gone.

    Attributes:
        inputs: What the layer's weight is multiplied by, ``(g * n, C')``; the rows without a layer.
        outputs: What the layer makes of them, ``(g * n, C)``; the rows without a layer.
        centred: The outputs less the center.
    """

    def __init__(self, tile: Tensor, layer: FoldedLinear | None, center: Tensor) -> None:
        count = tile.shape[0] * tile.shape[1]
        self.centred = tile_buffer("centred", tile, len(center))[:count]
        if layer is None:
            torch.sub(tile, center, out=self.centred.view(tile.shape))
            return
        self.inputs = tile_buffer("inputs", tile, tile.shape[-1])[:count]
        self.outputs = tile_buffer("outputs", tile, len(center))[:count]
        layer.write(tile.reshape(count, -1), self.inputs, self.outputs)
        torch.sub(self.outputs, center, out=self.centred)


def best_points(weight: Tensor, centred: Tensor, num_clouds: int) -> tuple[Tensor, Tensor]:
    """Returns the largest product of each cloud and channel and its point, ``(g, D)``."""
    out_channels, count = len(weight), len(centred)
    points = centred.to(weight.dtype).t()
    if num_clouds > 1 or centred.device.type != "cpu":
        products = thread_buffer("products", out_channels * count, points).view(-1, count)
        torch.mm(weight, points, out=products)
        best, where = products.view(out_channels, num_clouds, -1).max(-1)
        return best.t(), where.t()
    padded = -(-count // _GROUP) * _GROUP
    products = thread_buffer("products", out_channels * padded, points).view(-1, padded)
    products[:, count:] = -torch.inf
    torch.mm(weight, points, out=products[:, :count])
    groups = products.view(out_channels, -1, _GROUP)
    best, column = groups.amax(1).max(1)
    members = groups.gather(2, column[:, None, None].expand(-1, groups.shape[1], 1))
    return best[None], (members[..., 0].argmax(1) * _GROUP + column)[None]


def products_at(centred: Tensor, indices: Tensor, weight: Tensor) -> Tensor:
    """Returns ``W_d . x`` at the given points ``(g, D)`` of ``centred (g * n, C)``."""
    rows = _flat_rows(indices, len(centred) // len(indices))
    return (centred[rows].view(len(indices), *weight.shape) * weight).sum(-1)


def _flat_rows(indices: Tensor, num_points: int) -> Tensor:
    """Turns points ``(g, D)`` of g clouds into rows of the clouds laid end to end."""
    offsets = torch.arange(len(indices), device=indices.device)[:, None] * num_points
    return (indices + offsets).flatten()


def _backward(
    clouds: Tensor,
    layer: FoldedLinear | None,
    weight: Tensor,
    center: Tensor,
    indices: Tensor,
    of_values: Tensor,
    of_moments: tuple[Tensor, Tensor] | None,
    *,
    needs_clouds: bool,
) -> tuple[Tensor | None, Tensor, Tensor | None, Tensor | None]:
    """Returns the gradients of the clouds, of the weight, and of the layer's weight and bias.

    Each winner sends ``gradient * W_d`` to its point and ``gradient * (x - center)`` to its row of
    the weight. The moments send ``u + A (x - center)`` to every point.
    """
    of_clouds = None
    if needs_clouds:
        of_clouds = torch.empty_like(clouds, memory_format=torch.contiguous_format)
    jobs = split_clouds(clouds)
    of_weight = PartialSums("weights", len(jobs), weight, *weight.shape)
    of_layer = None if layer is None else LinearBNReLUGradients(len(jobs), layer.weight)

    def worker(numbers: Iterator[int]) -> None:
        for number in numbers:
            for tile in jobs[number]:
                rows = _Rows(tile.of(clouds), layer, center)
                out = None if of_clouds is None else tile.rows(of_clouds)
                gradient = out
                if layer is not None:
                    gradient = tile_buffer("gradients", clouds, len(center))[: len(rows.centred)]
                if gradient is not None and of_moments is None:
                    gradient.zero_()
                elif gradient is not None and of_moments is not None:
                    torch.mm(rows.centred, of_moments[1], out=gradient).add_(of_moments[0])
                for points, channels, sent in _winners_in(tile, clouds, indices, of_values, weight):
                    won = rows.centred.index_select(0, points).view(*sent.shape[:2], len(center))
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
    return of_clouds, of_weight.total(), *((None, None) if of_layer is None else of_layer.totals())


def _winners_in(
    tile: Tile, clouds: Tensor, indices: Tensor, of_values: Tensor, weight: Tensor
) -> Iterator[tuple[Tensor, slice | Tensor, Tensor]]:
    """Yields the winners among a tile's points: g clouds of them at a time, w in each.

    Yields:
        Their rows in the tile ``(g * w,)``, their channels (w of them), and the gradients of their
        values ``(g, w, 1)``.
    """
    num_points = clouds.shape[1]
    if tile.stop - tile.start == num_points:
        step = max(1, GATHERED // weight.numel())
        for first in range(tile.first, tile.last, step):
            some = slice(first, min(first + step, tile.last))
            rows = _flat_rows(indices[some], num_points).add_((first - tile.first) * num_points)
            yield rows, slice(None), of_values[some, :, None]
        return
    rows = indices[tile.first] - tile.start
    (channels,) = ((rows >= 0) & (rows < tile.stop - tile.start)).nonzero(as_tuple=True)
    yield rows[channels], channels, of_values[tile.first, channels][None, :, None]
