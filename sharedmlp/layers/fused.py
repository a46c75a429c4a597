"""Pointwise layer, batch norm, activation and max over points in one, with the same numbers.

The ``(B, N, D)`` activation of the last layer in front of a max is never made. Batch norm's
statistics follow from the mean m and the covariance S of the layer's input: with y = W x + b,
``mean(y) = W m + b`` and ``var(y)_d = w_d S w_d^T``. Batch norm and the activation are monotone in
each channel, so the max moves in front of them, with the rows of W flipped in sign where batch
norm's weight is negative; only ``(B, D)`` winning values go through them. The gradients of all
points that did not win come from the statistics alone, through m and S
(:mod:`sharedmlp.ops.linear_argmax`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sharedmlp.layers.pointwise import PointwiseLayer
from sharedmlp.layers.sync_norm import (
    SyncBatchNorm,
    shared_center,
    shared_means,
    sharing_group,
    track,
)
from sharedmlp.ops.eager import eagerly
from sharedmlp.ops.linear_argmax import LinearArgmax, linear_argmax
from sharedmlp.ops.linear_bn_relu import (
    FoldedLinear,
    input_moments,
    linear_bn_relu,
    linear_bn_relu_moments,
)
from sharedmlp.ops.segments import Segments, segment_linear_argmax
from sharedmlp.ops.tiles import sample_rows

_LINEARS = (nn.Linear, nn.Conv1d, nn.Conv2d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm, SyncBatchNorm)
_MONOTONE = (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.Identity)


class _Find(Protocol):
    """How the winners are found: :func:`linear_argmax`, or the same over segments."""

    def __call__(
        self,
        clouds: Tensor,
        weight: Tensor,
        sign: Tensor,
        center: Tensor,
        *,
        moments: bool,
        search_dtype: torch.dtype,
        layer: FoldedLinear | None = None,
    ) -> LinearArgmax: ...


def is_plain_linear(linear: nn.Module) -> bool:
    """Whether a linear map is torch's own module: not quantised, adapted or parametrised."""
    return type(linear) in _LINEARS


def has_hooks(layer: PointwiseLayer) -> bool:
    """Whether somebody wants to see the calls of the layer's modules."""
    return any(
        m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks
        for m in layer.modules()
    )


def fused_not_supported_reasons(layer: PointwiseLayer) -> list[str]:
    """Says in words why a layer followed by a max cannot be fused; empty if it can."""
    linear, norm, activation = layer.linear, layer.norm, layer.activation
    reasons = []
    if not is_plain_linear(linear):
        reasons.append(f"its linear map is a {type(linear).__name__}, not a plain torch module")
    else:
        out_channels, in_channels = linear.get_parameter("weight").shape[:2]
        if out_channels <= in_channels:
            reasons.append(
                f"{out_channels} output channels are not more than {in_channels} input channels: "
                "the covariance would cost more than the layer"
            )
        if linear.get_parameter("weight").dtype not in (torch.float32, torch.float64):
            reasons.append(
                "its weight is neither float32 nor float64: statistics would lose digits"
            )
    if norm is not None and type(norm) not in _NORMS:
        reasons.append(
            f"its norm is a {type(norm).__name__}: only batch norm, which is one affine map a "
            "channel for all points, lets the max move in front of it"
        )
    monotone = isinstance(activation, nn.LeakyReLU) and activation.negative_slope >= 0
    if activation is not None and type(activation) not in _MONOTONE and not monotone:
        reasons.append(
            f"its activation {activation} is not known to be monotone: the largest input need not "
            "give the largest output"
        )
    if layer.dropout is not None:
        reasons.append("dropout stands between the activation and the max")
    if has_hooks(layer):
        reasons.append("hooks are registered on it, and its modules would not be called")
    return reasons


@eagerly
def fused_max_pool(
    layer: PointwiseLayer,
    clouds: Tensor,
    search_dtype: torch.dtype | None = None,
    hidden: Sequence[PointwiseLayer] = (),
    segments: Segments | None = None,
) -> tuple[Tensor, Tensor]:
    """Applies a layer and the max over points; updates the running statistics in training.

    Args:
        layer: A layer without :func:`fused_not_supported_reasons`.
        clouds: ``(G, N, C)``, in any strides.
        search_dtype: Precision in which the winners are searched; None means that of the weight,
            or that of an active autocast. Statistics and winning values have the weight's.
        hidden: Layers to apply to the clouds first, if :func:`can_fuse_hidden`.
        segments: Takes the max over each of these of the rows of ``(1, M, C)``; the winners are
            rows.

    Returns:
        The maxima ``(G, D)`` and the points that won ``(G, D)`` int64.
    """
    weight = layer.linear.get_parameter("weight").flatten(1)
    bias = cast("Tensor | None", layer.linear.bias)
    result_dtype = weight.dtype
    if torch.is_autocast_enabled(clouds.device.type):
        result_dtype = torch.get_autocast_dtype(clouds.device.type)
    with torch.autocast(clouds.device.type, enabled=False):
        clouds = clouds.to(weight.dtype)
        search_dtype = search_dtype or result_dtype
        norm = layer.norm
        find: _Find = linear_argmax
        if segments is not None:
            find = partial(segment_linear_argmax, segments=segments)
        if not isinstance(norm, _BatchNorm):
            found = find(
                clouds,
                weight,
                torch.ones_like(weight[:, 0]),
                torch.zeros_like(weight[0]),
                moments=False,
                search_dtype=search_dtype,
            )
            values = found.values
            pooled = values if bias is None else values + bias
            indices = found.indices
        else:
            pooled, indices = _batch_norm_max(
                find, clouds, weight, bias, norm, search_dtype, hidden
            )
        if layer.activation is not None:
            pooled = layer.activation(pooled)
        return pooled.to(result_dtype), indices


def _batch_norm_max(
    find: _Find,
    clouds: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm: _BatchNorm,
    search_dtype: torch.dtype,
    hidden: Sequence[PointwiseLayer],
) -> tuple[Tensor, Tensor]:
    """Returns batch norm's output at the winners ``(G, D)``, and the winners."""
    sign = torch.ones_like(weight[:, 0]) if norm.weight is None else norm.weight.detach().sign()
    if norm.training or norm.running_mean is None:
        count = clouds.new_tensor([clouds.shape[0] * clouds.shape[1]])
        sample = sample_rows(clouds)
        narrow = None
        if hidden:
            clouds, narrow, sample = _fold_hidden(hidden, clouds, sample, count)
        center = _center(norm, sample, count)
        found = find(
            clouds, weight, sign, center, moments=True, search_dtype=search_dtype, layer=narrow
        )
        moments = (found.mean, found.second_moment)
        variance, shift = _statistics(norm, weight, bias, center, moments, count)
        centred = found.values - shift
    else:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        found = find(
            clouds,
            weight,
            sign,
            torch.zeros_like(weight[0]),
            moments=False,
            search_dtype=search_dtype,
        )
        variance = norm.running_var
        centred = found.values + ((0 if bias is None else bias) - norm.running_mean)
    normalised = centred * torch.rsqrt(variance + norm.eps)
    if norm.weight is not None:
        normalised = normalised * norm.weight + norm.bias
    return normalised, found.indices


@eagerly
def fused_mlp(layers: Sequence[PointwiseLayer], rows: Tensor) -> Tensor:
    """Applies layers that :func:`can_fuse_hidden_layer` in training, ``(M, C) -> (M, D)``."""
    clouds = rows[None]
    count = rows.new_tensor([len(rows)])
    clouds, narrow, _ = _fold_hidden(layers, clouds, sample_rows(clouds), count)
    return linear_bn_relu(clouds[0], narrow)


def _fold_hidden(
    hidden: Sequence[PointwiseLayer], clouds: Tensor, sample: Tensor, count: Tensor
) -> tuple[Tensor, FoldedLinear, Tensor]:
    """Takes clouds and sample up to the last hidden layer, and the sample through that one too.

    Returns:
        The clouds in front of the last hidden layer ``(G, N, C')``, that layer with batch norm
        folded in, and the sample behind it ``(k, C)``.
    """
    rows = clouds.reshape(-1, clouds.shape[-1])
    narrow = None
    for layer in hidden:
        norm = cast("_BatchNorm", layer.norm)
        center = _center(norm, sample, count)
        moments = (
            input_moments(rows, center)
            if narrow is None
            else linear_bn_relu_moments(rows, narrow, center)
        )
        rows = moments.rows
        narrow = _fold_batch_norm(layer, center, (moments.mean, moments.second), count)
        with torch.no_grad():
            sample = narrow(sample)
    assert narrow is not None
    return rows.view(*clouds.shape[:2], -1), narrow, sample


def _fold_batch_norm(
    layer: PointwiseLayer, center: Tensor, moments: tuple[Tensor, Tensor], count: Tensor
) -> FoldedLinear:
    weight = layer.linear.get_parameter("weight").flatten(1)
    bias = cast("Tensor | None", layer.linear.bias)
    norm = cast("_BatchNorm", layer.norm)
    variance, shift = _statistics(norm, weight, bias, center, moments, count)
    scale = torch.rsqrt(variance + norm.eps)
    if norm.weight is None:
        return FoldedLinear(center, weight * scale[:, None], -shift * scale)
    scale = scale * norm.weight
    return FoldedLinear(center, weight * scale[:, None], norm.bias - shift * scale)


def _center(norm: _BatchNorm, sample: Tensor, count: Tensor) -> Tensor:
    """Returns a constant near the mean of all rows, the same in all processes that share them."""
    return shared_center(sample.mean(0), count, sharing_group(norm))


def _statistics(
    norm: _BatchNorm,
    weight: Tensor,
    bias: Tensor | None,
    center: Tensor,
    moments: tuple[Tensor, Tensor],
    count: Tensor,
) -> tuple[Tensor, Tensor]:
    """Returns variance and mean of ``W (x - center)``, and moves the running statistics.

    ``moments`` are the mean ``(C,)`` and the second moment ``(C, C)`` of ``x - center`` over this
    process's count of points.
    """
    mean, second = moments
    shared, count = shared_means(torch.cat([mean[None], second]), count, sharing_group(norm))
    mean, second = shared[0], shared[1:]
    # center is near the mean, so the second term is small and nothing cancels
    covariance = second - torch.outer(mean, mean)
    variance = ((weight @ covariance) * weight).sum(1).clamp(min=0)
    shift = weight @ mean
    offset = shift + weight @ center
    track(norm, offset if bias is None else offset + bias, variance, count)
    if bias is not None:  # subtracted with the mean: its gradient is zero, not None
        shift = shift - 0.0 * bias
    return variance, shift


def can_fuse_hidden(layers: Sequence[PointwiseLayer]) -> bool:
    """Whether the layers in front of the last can become a part of :func:`fused_max_pool`."""
    *hidden, last = layers
    norm = last.norm
    shared = isinstance(norm, _BatchNorm) and (norm.training or norm.running_mean is None)
    return shared and all(map(can_fuse_hidden_layer, hidden))


def can_fuse_hidden_layer(layer: PointwiseLayer) -> bool:
    """Whether a layer in front of the last is one for :mod:`sharedmlp.ops.linear_bn_relu`."""
    weight = layer.linear.weight
    assert isinstance(weight, Tensor)
    norm = layer.norm
    return (
        is_plain_linear(layer.linear)
        and type(norm) in _NORMS
        and isinstance(norm, _BatchNorm)
        and norm.training
        and type(layer.activation) is nn.ReLU
        and layer.dropout is None
        and not has_hooks(layer)
        and weight.device.type == "cpu"
        and weight.dtype in (torch.float32, torch.float64)
        and weight.shape[0] >= weight.shape[1]  # else the covariance would cost more
        and not torch.is_autocast_enabled("cpu")
    )
