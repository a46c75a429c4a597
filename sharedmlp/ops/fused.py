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
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from sharedmlp.ops.gate import result_dtype_of
from sharedmlp.ops.interface import FoldedLayer, FoldedLinear, Implementation, LinearArgmax
from sharedmlp.ops.layer import PointwiseTensors, fold
from sharedmlp.ops.plan import Plan
from sharedmlp.ops.segments import Segments
from sharedmlp.ops.statistics import BatchStatistics, sample_rows, shared_center


class MaxInput(Protocol):
    """What a plan's layers are applied to before the max: rows of clouds, or what makes them."""

    @property
    def num_rows(self) -> int:
        """How many rows there are."""

    def sample(self) -> Tensor:
        """Return about a thousand of the rows, evenly spaced, without their gradients."""

    def moments(self, ops: Implementation, center: Tensor) -> tuple[Tensor, Tensor]:
        """Do what `Implementation.moments` does."""

    def linear_bn_relu(
        self, ops: Implementation, layer: FoldedLinear, center: Tensor
    ) -> tuple[MaxInput, Tensor, Tensor]:
        """Do what `Implementation.linear_bn_relu` does."""

    def linear_argmax(
        self,
        ops: Implementation,
        weight: Tensor,
        sign: Tensor,
        center: Tensor,
        *,
        moments: bool,
        search_dtype: torch.dtype,
        layer: FoldedLinear | None = None,
    ) -> LinearArgmax:
        """Do what `Implementation.linear_argmax` does."""

    def folded_max(self, ops: Implementation, layers: Sequence[FoldedLayer]) -> Tensor:
        """Do what `Implementation.folded_max` does."""


class CloudInput(NamedTuple):
    """Rows that lie in memory.

    Attributes:
        clouds: `(G, N, C)`, or `(1, M, C)` with lengths.
        lengths: As in `Implementation.linear_argmax`.
    """

    clouds: Tensor
    lengths: Sequence[int] = ()

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return self.clouds.shape[0] * self.clouds.shape[1]

    def sample(self) -> Tensor:
        """See `MaxInput`."""
        return sample_rows(self.clouds)

    def moments(self, ops: Implementation, center: Tensor) -> tuple[Tensor, Tensor]:
        """See `MaxInput`."""
        return ops.moments(self.clouds.reshape(-1, self.clouds.shape[-1]), center)

    def linear_bn_relu(
        self, ops: Implementation, layer: FoldedLinear, center: Tensor
    ) -> tuple[CloudInput, Tensor, Tensor]:
        """See `MaxInput`."""
        rows = self.clouds.reshape(-1, self.clouds.shape[-1])
        rows, mean, second = ops.linear_bn_relu(rows, layer, center)
        return CloudInput(rows.view(*self.clouds.shape[:2], -1), self.lengths), mean, second

    def linear_argmax(
        self, ops: Implementation, weight: Tensor, sign: Tensor, center: Tensor, **options: Any
    ) -> LinearArgmax:
        """See `MaxInput`."""
        return ops.linear_argmax(self.clouds, weight, sign, center, lengths=self.lengths, **options)

    def folded_max(self, ops: Implementation, layers: Sequence[FoldedLayer]) -> Tensor:
        """See `MaxInput`."""
        return ops.folded_max(self.clouds, layers)


def run_max(
    plan: Plan,
    clouds: Tensor,
    search_dtype: torch.dtype | None = None,
    segments: Segments | None = None,
) -> tuple[Tensor, Tensor | None] | None:
    """Apply a plan's layers and take the max over points; update the running statistics.

    Source: the class SharedMLPMaxPool names it; the moments are this project's own.

    Args:
        plan: A plan that is not "plain", made for a max.
        clouds: `(G, N, C)`, in any strides.
        search_dtype: Precision of the products that are compared; None means that of the weight.
            Statistics and maxima always have the weight's.
        segments: Take the max over each of these among the rows of `(1, M, C)`; the plan is "fuse".

    Returns:
        The maxima `(G, D)`, in the dtype that an active autocast asks for, and the number of each
        one's point in its cloud `(G, D)` int64 (of its row, with segments), or None if the plan is
        "fold". None for both, with nothing changed, if a number in between is not finite: then the
        plain layers are to say what becomes of it.
    """
    weight = plan.layers[-1].weight
    with torch.autocast(clouds.device.type, enabled=False):
        clouds = clouds.to(weight.dtype)
        if plan.path == "fuse" and len(plan.layers) > 1:
            clouds = clouds.contiguous()  # once, not in each pass
        if segments is None:
            found = run_max_of(plan, CloudInput(clouds), search_dtype)
        else:
            rows = CloudInput(segments.sort(clouds[0]), segments.lengths)
            found = run_max_of(plan, rows, search_dtype)
    if found is None:
        return None
    pooled, indices = found
    if segments is not None and indices is not None:
        pooled, indices = segments.restore(pooled, indices)
    return pooled.to(result_dtype_of(weight)), indices


def run_max_of(
    plan: Plan, rows: MaxInput, search_dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor | None] | None:
    """Do what `run_max` does, for any kind of rows in the weight's dtype, without autocast."""
    assert plan.implementation is not None
    layers, ops = plan.layers, plan.implementation
    if plan.path == "fold":
        return rows.folded_max(ops, _folded(layers)), None
    return _fused_max(ops, layers, rows, search_dtype or layers[-1].weight.dtype)


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
        last, folded, _ = _fold_hidden(ops, layers, CloudInput(rows[None]), statistics)
        if not statistics.commit():
            return None
        assert isinstance(last, CloudInput)
        return ops.linear_bn_relu(last.clouds[0], folded, None)[0].to(result_dtype)


def _folded(layers: Sequence[PointwiseTensors]) -> list[FoldedLayer]:
    return [FoldedLayer(*fold(layer), layer.activation) for layer in layers]


def _fused_max(
    ops: Implementation,
    layers: Sequence[PointwiseTensors],
    rows: MaxInput,
    search_dtype: torch.dtype,
) -> tuple[Tensor, Tensor] | None:
    *hidden, last = layers
    statistics = BatchStatistics()
    pooled, indices = _max_before_activation(ops, hidden, last, rows, search_dtype, statistics)
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
    rows: MaxInput,
    search_dtype: torch.dtype,
    statistics: BatchStatistics,
) -> tuple[Tensor, Tensor]:
    """Return what the last activation sees at the maxima `(G, D)`, and their points."""
    weight, bias, norm = last.weight, last.bias, last.norm
    sign = torch.ones_like(weight[:, 0])
    if norm is not None and norm.weight is not None:
        sign = norm.weight.detach().sign()
    if norm is None or not norm.uses_batch_statistics:
        found = rows.linear_argmax(
            ops,
            weight,
            sign,
            torch.zeros_like(weight[0]),
            moments=False,
            search_dtype=search_dtype,
        )
        statistics.check(found.values)
        if norm is None:
            return found.values if bias is None else found.values + bias, found.indices
        assert norm.running_mean is not None
        assert norm.running_var is not None
        variance: Tensor = norm.running_var
        centered = found.values + ((0 if bias is None else bias) - norm.running_mean)
    else:
        count = weight.new_full((1,), rows.num_rows)
        folded = None
        if hidden:
            rows, folded, sample = _fold_hidden(ops, hidden, rows, statistics)
        else:
            sample = rows.sample()
        center = shared_center(sample.mean(0), count, norm.group)
        found = rows.linear_argmax(
            ops,
            weight,
            sign,
            center,
            moments=True,
            search_dtype=search_dtype,
            layer=folded,
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
    rows: MaxInput,
    statistics: BatchStatistics,
) -> tuple[MaxInput, FoldedLinear, Tensor]:
    """Take rows up to the last hidden layer, and a sample of them through that one too.

    Returns:
        The rows before the last hidden layer, that layer with batch norm folded in, and the sample
        after it `(k, C)`.
    """
    sample = rows.sample()
    count = sample.new_full((1,), rows.num_rows)
    folded: FoldedLinear | None = None
    for layer in hidden:
        norm = layer.norm
        assert norm is not None
        # A constant near the mean of all rows, the same in all processes that share them.
        center = shared_center(sample.mean(0), count, norm.group)
        if folded is None:
            mean, second = rows.moments(ops, center)
        else:
            rows, mean, second = rows.linear_bn_relu(ops, folded, center)
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
    return rows, folded, sample
