"""Pointwise layers, batch norm, activation and max over points in one, with the same numbers.

The `(B, N, D)` activation of the last layer before a max is never made. Batch norm's statistics
follow from the mean m and the covariance S of the layer's input: with y = W x + b,
`mean(y) = W m + b` and `var(y)_d = w_d S w_d^T`. Batch norm and the activation are monotone in each
channel, so the max moves before them, with the rows of W flipped in sign where batch norm's weight
is negative; only the `(B, D)` maxima go through them. The gradients of all other points come from
the statistics alone, through m and S.

Without gradients and with constant statistics batch norm is an affine map and folds into the
layer's weight and bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sharedmlp.ops.gate import result_dtype_of
from sharedmlp.ops.interface import FoldedLayer, FoldedLinear, Implementation
from sharedmlp.ops.layer import PointwiseTensors, fold
from sharedmlp.ops.plan import Plan
from sharedmlp.ops.segments import Segments
from sharedmlp.ops.statistics import BatchStatistics, sample_rows, shared_center


class InputMoments(NamedTuple):
    """The moments of a plan's input, if what made it has taken them along.

    Attributes:
        center: `(C,)`, a constant near the mean, the same in all processes that share statistics.
        mean: `(C,)`, of the input less the center.
        second_moment: `(C, C)`, likewise.
    """

    center: Tensor
    mean: Tensor
    second_moment: Tensor


def run_max(
    plan: Plan,
    clouds: Tensor,
    search_dtype: torch.dtype | None = None,
    segments: Segments | None = None,
    moments: InputMoments | None = None,
) -> tuple[Tensor, Tensor | None] | None:
    """Apply a plan's layers and take the max over points; update the running statistics.

    Source: the class SharedMLPMaxPool names it; the moments are this project's own.

    Args:
        plan: A plan that is not "plain", made for a max.
        clouds: `(G, N, C)`, in any strides.
        search_dtype: Precision of the products that are compared; None means that of the weight.
            Statistics and maxima always have the weight's.
        segments: Take the max over each of these among the rows of `(1, M, C)`; the plan is "fuse".
        moments: Those of the clouds, if they are at hand; for a plan with hidden layers.

    Returns:
        The maxima `(G, D)`, in the dtype that an active autocast asks for, and the number of each
        one's point in its cloud `(G, D)` int64 (of its row, with segments), or None if the plan is
        "fold". None for both, with nothing changed, if a number in between is not finite: then the
        plain layers are to say what becomes of it.
    """
    assert plan.implementation is not None
    layers, ops = plan.layers, plan.implementation
    result_dtype = result_dtype_of(layers[-1].weight)
    with torch.autocast(clouds.device.type, enabled=False):
        clouds = clouds.to(layers[-1].weight.dtype)
        if plan.path == "fold":
            return ops.folded_max(clouds, _folded(layers)).to(result_dtype), None
        lengths: Sequence[int] = ()
        if segments is not None:
            clouds, lengths = segments.sort(clouds[0]), segments.lengths
        found = _fused_max(ops, layers, clouds, search_dtype, lengths, moments)
        if found is None:
            return None
        pooled, indices = found if segments is None else segments.restore(*found)
        return pooled.to(result_dtype), indices


def run_mlp(plan: Plan, rows: Tensor) -> Tensor | None:
    """Apply a plan's layers, `(M, C) -> (M, D)`; otherwise as `run_max`."""
    assert plan.implementation is not None
    layers, ops = plan.layers, plan.implementation
    result_dtype = result_dtype_of(layers[-1].weight)
    with torch.autocast(rows.device.type, enabled=False):
        rows = rows.to(layers[-1].weight.dtype)
        if plan.path == "fold":
            return ops.folded_mlp(rows, _folded(layers)).to(result_dtype)
        statistics = BatchStatistics()
        clouds = rows[None]
        count = rows.new_full((1,), len(rows))
        sample = sample_rows(clouds)
        clouds, folded, _ = _fold_hidden(ops, layers, clouds, sample, count, statistics)
        if not statistics.commit():
            return None
        return ops.linear_bn_relu(clouds[0], folded, None)[0].to(result_dtype)


def _folded(layers: Sequence[PointwiseTensors]) -> list[FoldedLayer]:
    return [FoldedLayer(*fold(layer), layer.activation) for layer in layers]


def _fused_max(
    ops: Implementation,
    layers: Sequence[PointwiseTensors],
    clouds: Tensor,
    search_dtype: torch.dtype | None,
    lengths: Sequence[int],
    input_moments: InputMoments | None,
) -> tuple[Tensor, Tensor] | None:
    *hidden, last = layers
    statistics = BatchStatistics()
    pooled, indices = _max_before_activation(
        ops,
        hidden,
        last,
        clouds,
        search_dtype or last.weight.dtype,
        lengths,
        statistics,
        input_moments,
    )
    if not statistics.commit():
        return None
    pooled = last.activation(pooled)
    # A statistic that is not finite makes all points alike: the first is taken.
    batch_statistics = last.norm is not None and last.norm.uses_batch_statistics
    alike = pooled.isnan() if batch_statistics else torch.zeros_like(pooled).bool()
    if last.activation.name == "relu":  # so are all points that it switches off
        alike = alike | (pooled == 0)
    return pooled, torch.where(alike, 0, indices)


def _max_before_activation(
    ops: Implementation,
    hidden: Sequence[PointwiseTensors],
    last: PointwiseTensors,
    clouds: Tensor,
    search_dtype: torch.dtype,
    lengths: Sequence[int],
    statistics: BatchStatistics,
    input_moments: InputMoments | None,
) -> tuple[Tensor, Tensor]:
    """Return what the last activation sees at the maxima `(G, D)`, and their points."""
    weight, bias, norm = last.weight, last.bias, last.norm
    sign = torch.ones_like(weight[:, 0])
    if norm is not None and norm.weight is not None:
        sign = norm.weight.detach().sign()
    if norm is None or not norm.uses_batch_statistics:
        found = ops.linear_argmax(
            clouds,
            weight,
            sign,
            torch.zeros_like(weight[0]),
            moments=False,
            search_dtype=search_dtype,
            lengths=lengths,
        )
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
            clouds, folded, sample = _fold_hidden(
                ops, hidden, clouds, sample, count, statistics, input_moments
            )
        center = shared_center(sample.mean(0), count, norm.group)
        found = ops.linear_argmax(
            clouds,
            weight,
            sign,
            center,
            moments=True,
            search_dtype=search_dtype,
            layer=folded,
            lengths=lengths,
        )
        moments = (found.mean, found.second_moment)
        variance, shift = statistics.of(last, norm, center, moments, count)
        centered = found.values - shift
    normalized = centered * torch.rsqrt(variance + norm.eps)
    if norm.weight is not None and norm.bias is not None:
        normalized = normalized * norm.weight + norm.bias
    return normalized, found.indices


def _fold_hidden(
    ops: Implementation,
    hidden: Sequence[PointwiseTensors],
    clouds: Tensor,
    sample: Tensor,
    count: Tensor,
    statistics: BatchStatistics,
    input_moments: InputMoments | None = None,
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
        if folded is None and input_moments is not None:
            center, mean, second = input_moments
        else:
            # A constant near the mean of all rows, the same in all processes that share them.
            center = shared_center(sample.mean(0), count, norm.group)
            if folded is None:
                mean, second = ops.moments(rows, center)
            else:
                rows, mean, second = ops.linear_bn_relu(rows, folded, center)
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
