"""Pointwise layers, then the max and the mean over the points of each cloud, with the same numbers.

The max moves before batch norm and the activation, as both keep the order of a channel's points
(flipped in sign where batch norm's weight is negative). With batch norm as `s y + t`, a leaky ReLU
of slope a multiplies it by `f_n`, 1 or a, so that the mean over N points is

    mean_n act(s y_n + t) = s P + t Q,  P = mean_n f_n y_n,  Q = mean_n f_n,

exactly, and with the same gradients, as f is constant almost everywhere. What is left to autograd
is of the size of the result; see sharedmlp.ops.cpu.max_mean for the rest. Without gradients and
with constant statistics the layers are folded, and only maxima and means leave the cache.

Source: Wang et al. 2019, "Dynamic Graph CNN for Learning on Point Clouds", section 4.1 and the
authors' program, for the layer; the identity and its gradients are this project's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sharedmlp.ops.cost import fusion_pays
from sharedmlp.ops.cpu.folded import folded_max_mean
from sharedmlp.ops.cpu.max_mean import activated_means, products, with_gradients
from sharedmlp.ops.gate import result_dtype_of
from sharedmlp.ops.interface import FoldedLayer
from sharedmlp.ops.layer import PointwiseTensors, fold
from sharedmlp.ops.plan import PLAIN, Plan, can_fold, dtype_reasons
from sharedmlp.ops.statistics import (
    is_finite,
    order_of,
    sample_rows,
    scale_and_shift,
    shared_center,
    shared_means,
    update_norm,
)


def max_mean_reasons(layer: PointwiseTensors) -> list[str]:
    """Say why a layer cannot be fused with the max and the mean after it; empty if it can."""
    reasons = dtype_reasons(layer)
    slope = layer.activation.slope
    if slope is None:
        reasons.append(f"its activation {layer.activation.label} is not a ReLU or leaky ReLU")
    elif slope < 0:
        reasons.append(f"its leaky ReLU has the slope {slope}, which does not keep the order")
    if layer.dropout:
        reasons.append("dropout stands between the layer and the max")
    return reasons


def plan_max_mean(
    layers: Sequence[PointwiseTensors], rows: int, num_clouds: int, *, must: bool = False
) -> Plan:
    """Decide how layers with a max and a mean after them are to run.

    Args:
        layers: The layers, as they are now.
        rows: How many points there are in all.
        num_clouds: In how many clouds.
        must: Whether to choose a path that does not pay, too.
    """
    last = layers[-1]
    if last.weight.device.type != "cpu":
        return Plan("plain", (), ("it is not on a CPU",))
    if not torch.is_grad_enabled() and all(map(can_fold, layers)):
        plan = Plan("fold", tuple(layers))
    else:
        reasons = max_mean_reasons(last)
        if reasons:
            return Plan("plain", (), tuple(reasons))
        plan = Plan("fuse", (last,))
    # Processes that share statistics have to take the same path, whatever each one's size is.
    if must or (last.norm is not None and last.norm.group is not None):
        return plan
    channels = (plan.layers[0].weight.shape[1], *(len(layer.weight) for layer in plan.layers))
    weight, folded = last.weight, plan.path == "fold"
    pays = fusion_pays(channels, rows, num_clouds, weight.dtype, weight.device, folded=folded)
    return plan if pays else PLAIN


def run_max_mean(plan: Plan, clouds: Tensor) -> Tensor | None:
    """Apply a plan's layers and take max and mean over points; update the running statistics.

    Differentiable in the clouds and all parameters. A tie gives the gradient of the maximum to the
    first point.

    Args:
        plan: A plan of `plan_max_mean` that is not "plain".
        clouds: `(G, N, C)`, in any strides.

    Returns:
        The maxima, then the means, `(G, 2D)`, in the dtype that an active autocast asks for. None,
        with nothing changed, if a number in between is not finite: then the plain layers are to say
        what becomes of it.
    """
    last = plan.layers[-1]
    result_dtype = result_dtype_of(last.weight)
    with torch.autocast(clouds.device.type, enabled=False):
        clouds = clouds.to(last.weight.dtype)
        if plan.path == "fold":
            layers = [FoldedLayer(*fold(layer), layer.activation) for layer in plan.layers]
            return folded_max_mean(clouds, layers).to(result_dtype)
        pooled = _fused(last, clouds)
        return None if pooled is None else pooled.to(result_dtype)


def _fused(layer: PointwiseTensors, clouds: Tensor) -> Tensor | None:
    norm, slope = layer.norm, layer.activation.slope
    assert slope is not None
    moments = norm is not None and norm.uses_batch_statistics
    count = clouds.new_full((1,), clouds.shape[0] * clouds.shape[1])
    center = torch.zeros_like(clouds[0, 0].detach())
    if norm is not None and moments:  # near the mean, the moments keep their digits
        center = shared_center(sample_rows(clouds).mean(0), count, norm.group)
    sign, tied = order_of(norm, layer.weight)
    weight = layer.weight * sign[:, None]
    with torch.no_grad():
        found = products(clouds.detach(), weight.detach(), center, tied, moments=moments)
        statistics = _statistics(layer, sign, found.means.mean(0), found.second_moment, count)
        scale, shift = _scale_and_shift(layer, sign, statistics)
        # All of these are finite if every product is, and its square.
        if not is_finite(statistics.variance + scale + shift + found.means.sum(0)):
            return None
        # Where the scale is zero it is infinite, or NaN, and then no product is above it.
        threshold = -shift / scale
        weighted, fraction = activated_means(found.y, found.means, threshold, slope)
        if norm is not None and moments:
            mean = sign * statistics.mean + layer.weight @ center
            mean = mean if layer.bias is None else mean + layer.bias
            update_norm(norm, mean, statistics.variance, statistics.num_points)
    maxima, weighted, mean, second = with_gradients(
        clouds, weight, center, found, weighted, threshold, slope, moments=moments
    )
    statistics = _statistics(layer, sign, mean, second, count)
    scale, shift = _scale_and_shift(layer, sign, statistics)
    largest = layer.activation(torch.addcmul(shift, maxima, scale))
    return torch.cat([largest, torch.addcmul(shift * fraction, weighted, scale)], -1)


class _Statistics(NamedTuple):
    """What a norm subtracts from the products and divides them by.

    Attributes:
        mean: `(D,)`.
        variance: `(D,)`.
        num_points: `(1,)`, over how many points of all processes.
    """

    mean: Tensor
    variance: Tensor
    num_points: Tensor


def _statistics(
    layer: PointwiseTensors, sign: Tensor, mean: Tensor, second_moment: Tensor, count: Tensor
) -> _Statistics:
    """Return the statistics for the products with signs, by their moments `(D,)` in this process.

    Without a norm they are such that it does nothing.
    """
    norm, bias = layer.norm, layer.bias
    if norm is None:
        none = torch.zeros_like(sign)
        return _Statistics(none if bias is None else -bias, none + 1, count)
    if norm.uses_batch_statistics:
        moments, count = shared_means(torch.stack([mean, second_moment]), count, norm.group)
        mean, second_moment = moments
        # The mean is not large, so nothing cancels.
        variance = (second_moment - mean.square()).clamp(min=0)
        if bias is not None:  # subtracted with the mean: its gradient is zero, not None
            mean = mean + 0.0 * bias
        return _Statistics(mean, variance, count)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean = norm.running_mean if bias is None else norm.running_mean - bias
    return _Statistics(sign * mean, norm.running_var, count)


def _scale_and_shift(
    layer: PointwiseTensors, sign: Tensor, statistics: _Statistics
) -> tuple[Tensor, Tensor]:
    """Return what the norm multiplies the products with signs by, not negative, and then adds."""
    norm = layer.norm
    if norm is None:
        return statistics.variance, -statistics.mean
    return scale_and_shift(norm, statistics.mean, statistics.variance, sign)
