"""Pointwise layers, batch norm, activation and max over points in one, with the same numbers.

The `(B, N, D)` activation of the last layer before a max is never made. Batch norm's statistics
follow from the mean m and the covariance S of the layer's input: with y = W x + b,
`mean(y) = W m + b` and `var(y)_d = w_d S w_d^T`. Batch norm and the activation are monotone in each
channel, so the max moves before them, with the rows of W flipped in sign where batch norm's weight
is negative; only `(B, D)` winning values go through them. The gradients of all points that did not
win come from the statistics alone, through m and S (see sharedmlp.ops.cpu.linear_argmax).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from sharedmlp.ops.cpu.linear_argmax import linear_argmax
from sharedmlp.ops.cpu.linear_bn_relu import (
    FoldedLinear,
    input_moments,
    linear_bn_relu,
    linear_bn_relu_moments,
)
from sharedmlp.ops.cpu.segments import Segments, segment_linear_argmax
from sharedmlp.ops.cpu.tiles import sample_rows
from sharedmlp.ops.gate import autocast_dtype
from sharedmlp.ops.layer import BatchNorm, PointwiseTensors
from sharedmlp.ops.statistics import shared_center, shared_means, track


class _Statistics:
    """The batch statistics of a forward pass, and the running ones that they will move.

    Nothing is written before the whole pass is known to be finite: a number that is not is left to
    the plain layers, which then begin with the running statistics as they were.
    """

    def __init__(self) -> None:
        self._moves: list[Callable[[], None]] = []
        self._checked: list[Tensor] = []

    def of(
        self,
        layer: PointwiseTensors,
        norm: BatchNorm,
        center: Tensor,
        moments: tuple[Tensor, Tensor],
        count: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return variance and mean of `W (x - center)`, both `(D,)`.

        Args:
            layer: The layer.
            norm: Its batch norm.
            center: `(C,)`.
            moments: The mean `(C,)` and the second moment `(C, C)` of `x - center` over this
                process's points.
            count: `(1,)`, how many those are.
        """
        mean, second = moments
        shared, count = shared_means(torch.cat([mean[None], second]), count, norm.group)
        self._checked.append(shared.detach().sum())
        mean, second = shared[0], shared[1:]
        # center is near the mean, so the second term is small and nothing cancels
        covariance = second - torch.outer(mean, mean)
        variance = ((layer.weight @ covariance) * layer.weight).sum(1).clamp(min=0)
        shift = layer.weight @ mean
        if norm.training and norm.running_mean is not None and norm.running_var is not None:
            offset = (shift + layer.weight @ center).detach()
            if layer.bias is not None:
                offset = offset + layer.bias.detach()
            move = partial(
                track,
                norm.running_mean,
                norm.running_var,
                norm.num_batches_tracked,
                norm.momentum,
                offset,
                variance.detach(),
                count,
            )
            self._moves.append(move)
        if layer.bias is not None:  # subtracted with the mean: its gradient is zero, not None
            shift = shift - 0.0 * layer.bias
        return variance, shift

    def check(self, values: Tensor) -> None:
        """Let values that no statistics cover decide as well."""
        self._checked.append(values.detach().sum())

    def commit(self) -> bool:
        """Move the running statistics; False, and nothing moves, if a number is not finite."""
        if not torch.compiler.is_compiling():  # a graph cannot depend on a value
            total = torch.stack(self._checked).sum()
            if not math.isfinite(total.item()):
                return False
        for move in self._moves:
            move()
        return True


def fused_max(
    layers: Sequence[PointwiseTensors],
    clouds: Tensor,
    search_dtype: torch.dtype | None = None,
    segments: Segments | None = None,
) -> tuple[Tensor, Tensor] | None:
    """Apply layers and take the max over points; update the running statistics in training.

    Source: the class SharedMLPMaxPool names it; the moments are this project's own.

    Args:
        layers: Layers whose plan is "fuse".
        clouds: `(G, N, C)`, in any strides.
        search_dtype: Precision in which the winners are searched; None means that of the weight.
            Statistics and winning values always have the weight's.
        segments: Take the max over each of these of the rows of `(1, M, C)`; the winners are rows.

    Returns:
        The maxima `(G, D)`, in the dtype that an active autocast asks for, and the points that won
        `(G, D)` int64. None, with nothing changed, if a number in between is not finite: then the
        plain layers are to say what becomes of it.
    """
    *hidden, last = layers
    result_dtype = result_dtype_of(last.weight)
    with torch.autocast(clouds.device.type, enabled=False):
        clouds = clouds.to(last.weight.dtype)
        statistics = _Statistics()
        pooled, indices = _max_before_activation(
            hidden, last, clouds, search_dtype or last.weight.dtype, segments, statistics
        )
        if not statistics.commit():
            return None
        pooled = last.activation(pooled)
        # A statistic that is not finite makes all points alike: the first wins.
        alike = pooled.isnan() if _uses_batch_statistics(last) else torch.zeros_like(pooled).bool()
        if last.activation.name == "relu":  # so do all points that it switches off
            alike = alike | (pooled == 0)
        first = indices.new_zeros(()) if segments is None else segments.first_rows()[:, None]
        return pooled.to(result_dtype), torch.where(alike, first, indices)


def fused_mlp(layers: Sequence[PointwiseTensors], rows: Tensor) -> Tensor | None:
    """Apply hidden layers with batch statistics, `(M, C) -> (M, D)`; None as in `fused_max`."""
    result_dtype = result_dtype_of(layers[-1].weight)
    with torch.autocast(rows.device.type, enabled=False):
        rows = rows.to(layers[-1].weight.dtype)
        statistics = _Statistics()
        clouds = rows[None]
        count = rows.new_full((1,), len(rows))
        clouds, folded, _ = _fold_hidden(layers, clouds, sample_rows(clouds), count, statistics)
        if not statistics.commit():
            return None
        return linear_bn_relu(clouds[0], folded).to(result_dtype)


def result_dtype_of(weight: Tensor) -> torch.dtype:
    """Return the dtype of a layer's output: that of its weight, or of an active autocast."""
    cast = autocast_dtype(weight) if weight.dtype == torch.float32 else None
    return cast or weight.dtype


def _uses_batch_statistics(layer: PointwiseTensors) -> bool:
    return layer.norm is not None and layer.norm.uses_batch_statistics


def _max_before_activation(
    hidden: Sequence[PointwiseTensors],
    last: PointwiseTensors,
    clouds: Tensor,
    search_dtype: torch.dtype,
    segments: Segments | None,
    statistics: _Statistics,
) -> tuple[Tensor, Tensor]:
    """Return what the last activation sees at the winners `(G, D)`, and the winners."""
    weight, bias, norm = last.weight, last.bias, last.norm
    find = linear_argmax
    if segments is not None:
        find = partial(segment_linear_argmax, segments=segments)
    sign = torch.ones_like(weight[:, 0])
    if norm is not None and norm.weight is not None:
        sign = norm.weight.detach().sign()
    if norm is None or not norm.uses_batch_statistics:
        origin = torch.zeros_like(weight[0])
        found = find(clouds, weight, sign, origin, moments=False, search_dtype=search_dtype)
        statistics.check(found.values)
        if norm is None:
            return found.values if bias is None else found.values + bias, found.indices
        assert norm.running_mean is not None
        assert norm.running_var is not None
        variance: Tensor = norm.running_var
        centered = found.values + ((0 if bias is None else bias) - norm.running_mean)
    else:
        count = clouds.new_full((1,), clouds.shape[0] * clouds.shape[1])
        sample = sample_rows(clouds)
        folded = None
        if hidden:
            clouds, folded, sample = _fold_hidden(hidden, clouds, sample, count, statistics)
        center = shared_center(sample.mean(0), count, norm.group)
        found = find(
            clouds, weight, sign, center, moments=True, search_dtype=search_dtype, layer=folded
        )
        moments = (found.mean, found.second_moment)
        variance, shift = statistics.of(last, norm, center, moments, count)
        centered = found.values - shift
    normalized = centered * torch.rsqrt(variance + norm.eps)
    if norm.weight is not None and norm.bias is not None:
        normalized = normalized * norm.weight + norm.bias
    return normalized, found.indices


def _fold_hidden(
    hidden: Sequence[PointwiseTensors],
    clouds: Tensor,
    sample: Tensor,
    count: Tensor,
    statistics: _Statistics,
) -> tuple[Tensor, FoldedLinear, Tensor]:
    """Take clouds and sample up to the last hidden layer, and the sample through that one too.

    Returns:
        The clouds before the last hidden layer `(G, N, C')`, that layer with batch norm folded in,
        and the sample after it `(k, C)`.
    """
    rows = clouds.reshape(-1, clouds.shape[-1])
    folded: FoldedLinear | None = None
    for layer in hidden:
        norm = layer.norm
        assert norm is not None
        # A constant near the mean of all rows, the same in all processes that share them.
        center = shared_center(sample.mean(0), count, norm.group)
        if folded is None:
            mean, second = input_moments(rows, center)
        else:
            rows, mean, second = linear_bn_relu_moments(rows, folded, center)
        variance, shift = statistics.of(layer, norm, center, (mean, second), count)
        scale = torch.rsqrt(variance + norm.eps)
        if norm.weight is None or norm.bias is None:
            folded = FoldedLinear(center, layer.weight * scale[:, None], -shift * scale)
        else:
            scale = scale * norm.weight
            bias = norm.bias - shift * scale
            folded = FoldedLinear(center, layer.weight * scale[:, None], bias)
        with torch.no_grad():
            sample = folded(sample)
    assert folded is not None
    return rows.view(*clouds.shape[:2], -1), folded, sample
