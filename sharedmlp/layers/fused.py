"""Pointwise layer, batch norm, activation and max over points in one, with the same numbers.

The ``(B, N, D)`` activation of the last layer in front of a max is never made. Batch norm's
statistics follow from the mean m and the covariance S of the layer's input: with y = W x + b,
``mean(y) = W m + b`` and ``var(y)_d = w_d S w_d^T``. Batch norm and the activation are monotone in
each channel, so the max moves in front of them, with the rows of W flipped in sign where batch
norm's weight is negative; only ``(B, D)`` winning values go through them. The gradients of all
points that did not win come from the statistics alone, through m and S
(:mod:`sharedmlp.layers.winners`).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sharedmlp.layers.narrow import affine_relu, input_moments
from sharedmlp.layers.shared_mlp import PointwiseLayer
from sharedmlp.layers.sync_norm import (
    SyncBatchNorm,
    shared_center,
    shared_means,
    sharing_group,
    track,
)
from sharedmlp.layers.winners import find_winners

_LINEARS = (nn.Linear, nn.Conv1d, nn.Conv2d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm, SyncBatchNorm)
_MONOTONE = (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.Identity)


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


@torch.compiler.disable  # type: ignore[untyped-decorator]  # compiled code runs it eagerly
def fused_max_pool(
    layer: PointwiseLayer, clouds: Tensor, search_dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """Applies a layer and the max over points; updates the running statistics in training.

    Args:
        layer: A layer without :func:`fused_not_supported_reasons`.
        clouds: ``(G, N, C)``, in any strides.
        search_dtype: Precision in which the winners are searched; None means that of the weight,
            or that of an active autocast. Statistics and winning values have the weight's.

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
        if not isinstance(norm, _BatchNorm):
            found = find_winners(
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
            pooled, indices = _batch_norm_max(clouds, weight, bias, norm, search_dtype)
        if layer.activation is not None:
            pooled = layer.activation(pooled)
        return pooled.to(result_dtype), indices


def _batch_norm_max(
    clouds: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm: _BatchNorm,
    search_dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Returns batch norm's output at the winners ``(G, D)``, and the winners."""
    batch_statistics = norm.training or norm.running_mean is None
    sign = torch.ones_like(weight[:, 0]) if norm.weight is None else norm.weight.detach().sign()
    if batch_statistics:
        group = sharing_group(norm)
        count = clouds.new_tensor([clouds.shape[0] * clouds.shape[1]])
        center = shared_center(clouds.detach().mean((0, 1)), count, group)
        found = find_winners(clouds, weight, sign, center, moments=True, search_dtype=search_dtype)
        moments, count = shared_means(
            torch.cat([found.mean[None], found.second_moment]), count, group
        )
        variance, shift = _statistics(norm, weight, bias, center, moments, count)
        centred = found.values - shift
    else:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        found = find_winners(
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


def _statistics(
    norm: _BatchNorm,
    weight: Tensor,
    bias: Tensor | None,
    center: Tensor,
    moments: Tensor,
    count: Tensor,
) -> tuple[Tensor, Tensor]:
    """Returns variance and mean of ``W (x - center)``, and moves the running statistics.

    ``moments (1 + C, C)`` are the mean and the second moment of ``x - center`` over count points.
    """
    mean, second = moments[0], moments[1:]
    # center is the mean but for rounding, so the second term is tiny and nothing cancels
    covariance = second - torch.outer(mean, mean)
    variance = ((weight @ covariance) * weight).sum(1).clamp(min=0)
    shift = weight @ mean
    offset = shift + weight @ center
    track(norm, offset if bias is None else offset + bias, variance, count)
    if bias is not None:  # subtracted with the mean: its gradient is zero, not None
        shift = shift - 0.0 * bias
    return variance, shift


def can_fuse_narrow(layer: PointwiseLayer) -> bool:
    """Whether a layer that no max follows can take :func:`fused_narrow`."""
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


@torch.compiler.disable  # type: ignore[untyped-decorator]  # compiled code runs it eagerly
def fused_narrow(layer: PointwiseLayer, x: Tensor) -> Tensor:
    """Applies a layer that :func:`can_fuse_narrow` in training, ``(M, C) -> (M, D)``."""
    weight = layer.linear.get_parameter("weight").flatten(1)
    bias = cast("Tensor | None", layer.linear.bias)
    norm = cast("_BatchNorm", layer.norm)
    group = sharing_group(norm)
    count = x.new_tensor([len(x)])
    center = shared_center(x.detach().mean(0), count, group)
    mean, second = input_moments(x, center)
    moments, count = shared_means(torch.cat([mean[None], second]), count, group)
    variance, shift = _statistics(norm, weight, bias, center, moments, count)
    scale = torch.rsqrt(variance + norm.eps)
    if norm.weight is None:
        return affine_relu(x, center, weight * scale[:, None], -shift * scale)
    scale = scale * norm.weight
    return affine_relu(x, center, weight * scale[:, None], norm.bias - shift * scale)
