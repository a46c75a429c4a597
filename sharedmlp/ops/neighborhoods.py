"""A pointwise layer on the pairs of a center and a neighbor, then the max over each neighborhood.

Each center i has K neighbors. What a network makes of a pair is linear in both of its ends: edge
convolution's input is `[x_j - x_i, x_i]`, set abstraction's `[x_j - c_i, f_j]`. So the first layer
splits into `y_ij = a_j + b_i` with `a = U s` of the sources and `b = V t` of the centers: two
products over points in place of one over K times as many pairs. Batch norm's training statistics
follow from the same two tensors, and `max_j act(norm(a_j + b_i))` is `act(norm(b_i + max_j a_j))`,
with the rows of U and V flipped in sign where batch norm's weight is negative. With one layer
before the max, nothing of the size of the pairs times the channels ever exists, and the numbers are
those of the plain layers (see sharedmlp.ops.cpu.neighborhoods for the kernels).

Source: Wang et al. 2019, "Dynamic Graph CNN for Learning on Point Clouds", section 3.2, and Qi et
al. 2017, "PointNet++", section 3.2, for the layers. Feng et al. 2020, "Mesorasi", move whole MLPs
before the gathering, which changes the numbers; the split, its statistics and its gradients are
this project's own.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from sharedmlp.ops.cpu.neighborhoods import neighbor_max, winning_positions
from sharedmlp.ops.cpu.scaled_activation import scaled_activation
from sharedmlp.ops.fused import result_dtype_of
from sharedmlp.ops.layer import BatchNorm, PointwiseTensors, fold
from sharedmlp.ops.statistics import shared_center, shared_means, track


class PairTensors(NamedTuple):
    """The first layer of a network on pairs, split into its two ends.

    Attributes:
        source: U, `(D, Cs)`.
        center: V, `(D, Ct)`.
        bias: `(D,)` or None.
        layer: The layer that was split.
    """

    source: Tensor
    center: Tensor
    bias: Tensor | None
    layer: PointwiseTensors


def split_edge_layer(layer: PointwiseTensors) -> PairTensors:
    """Split a layer on `[x_j - x_i, x_i]`, as of edge convolution, into its two ends.

    Args:
        layer: The layer; its weight is `(D, 2C)`.
    """
    difference, center = layer.weight.chunk(2, 1)
    return PairTensors(difference, center - difference, layer.bias, layer)


def neighborhood_reasons(layer: PointwiseTensors) -> list[str]:
    """Say why a layer on pairs cannot run on points; empty if it can."""
    reasons = []
    if layer.weight.device.type != "cpu":
        reasons.append("it is not on a CPU")
    if layer.weight.dtype not in (torch.float32, torch.float64):
        reasons.append("its weight is neither float32 nor float64: statistics would lose digits")
    if not layer.activation.is_monotone:
        reasons.append(
            f"its activation {layer.activation.label} is not known to be monotone: the largest "
            "input need not give the largest output"
        )
    if layer.dropout:
        reasons.append("dropout stands between the layer and the max")
    return reasons


def neighborhood_max(
    pairs: PairTensors,
    sources: Tensor,
    centers: Tensor,
    neighbors: Tensor,
    *,
    return_indices: bool = False,
) -> tuple[Tensor, Tensor | None] | None:
    """Apply a layer to all pairs and take the max over each center's neighbors.

    Updates the running statistics in training. Differentiable in the sources, the centers and all
    parameters. A tie gives the gradient to the neighbor that comes first, as `Tensor.max` does.

    Where the weights of both ends nearly cancel, so that the pairs vary much less than their ends
    do, the variance keeps fewer digits than a plain batch norm's.

    Args:
        pairs: The layer, without `neighborhood_reasons`.
        sources: `(B, N, Cs)`.
        centers: `(B, Q, Ct)`.
        neighbors: `(B, Q, K)` int64, rows of the sources within each cloud.
        return_indices: Whether to tell which rows of the sources won.

    Returns:
        The maxima `(B, Q, D)`, in the dtype that an active autocast asks for, and the rows that won
        `(B, Q, D)` int64, or None. None, with nothing changed, if a number in between is not
        finite: then the plain layers are to say what becomes of it.
    """
    dtype, result_dtype = pairs.source.dtype, result_dtype_of(pairs.source)
    with torch.autocast(sources.device.type, enabled=False):
        ends = _Ends(sources.to(dtype), centers.to(dtype), neighbors)
        norm = pairs.layer.norm
        if norm is not None and norm.uses_batch_statistics:
            found = _max_by_batch(pairs, norm, ends, return_indices)
        else:
            found = _max_by_constants(pairs, ends, return_indices)
        if found is None:
            return None
        pooled, indices = found
        if indices is not None and pairs.layer.activation.name == "relu":
            # all neighbors that it switches off are alike: the first wins
            indices = torch.where(pooled == 0, neighbors[..., :1], indices)
        return pooled.to(result_dtype), indices


class _Ends(NamedTuple):
    sources: Tensor
    centers: Tensor
    neighbors: Tensor


def _max_by_constants(
    pairs: PairTensors, ends: _Ends, return_indices: bool
) -> tuple[Tensor, Tensor | None] | None:
    """Take the max with batch norm folded into the weights, which then have its signs."""
    norm = pairs.layer.norm
    source_weight, shift = fold(pairs.layer._replace(weight=pairs.source))
    center_weight = pairs.center
    if norm is not None:
        center_weight, _ = fold(pairs.layer._replace(weight=pairs.center))
    # Centered, so that no digits cancel in a_j + b_i far from the origin.
    source_mean = ends.sources.detach().mean((0, 1))
    center_mean = ends.centers.detach().mean((0, 1))
    a = (ends.sources - source_mean) @ source_weight.t()
    shift = shift + source_weight @ source_mean + center_weight @ center_mean
    b = (ends.centers - center_mean) @ center_weight.t() + shift
    found = neighbor_max(a, ends.neighbors)
    y = found.values + b
    if not _is_finite(y):
        return None
    return pairs.layer.activation(y), _winners(return_indices, a, ends, found.values, None)


def _max_by_batch(
    pairs: PairTensors, norm: BatchNorm, ends: _Ends, return_indices: bool
) -> tuple[Tensor, Tensor | None] | None:
    """Take the max with the statistics of this batch."""
    sign = torch.ones_like(pairs.source[:, 0])
    tied = None
    if norm.weight is not None:
        weight = norm.weight.detach()
        sign = torch.where(weight < 0, -sign, sign)
        tied = weight == 0
        if not torch.compiler.is_compiling() and not tied.any():
            tied = None
    # What is added to all pairs drops out with their mean: the centers of both ends, and the bias.
    # Without it the moments around zero do not cancel.
    source_mean = _shared_mean(ends.sources, norm)
    center_mean = _shared_mean(ends.centers, norm)
    a = (ends.sources - source_mean) @ (pairs.source * sign[:, None]).t()
    b = (ends.centers - center_mean) @ (pairs.center * sign[:, None]).t()
    found = neighbor_max(a, ends.neighbors, b, tied)
    count = a.new_full((1,), ends.neighbors.numel())
    moments = torch.stack([found.mean, found.second_moment])
    (mean, second), count = shared_means(moments, count, norm.group)
    variance = (second - mean.square()).clamp(min=0)
    # These are not finite as soon as one pair is not.
    if not _is_finite(mean + variance + (0.0 if pairs.bias is None else pairs.bias)):
        return None
    if norm.training and norm.running_mean is not None and norm.running_var is not None:
        offset = sign * mean + pairs.source @ source_mean + pairs.center @ center_mean
        if pairs.bias is not None:
            offset = offset + pairs.bias
        track(
            norm.running_mean,
            norm.running_var,
            norm.num_batches_tracked,
            norm.momentum,
            offset.detach(),
            variance.detach(),
            count,
        )
    scale = torch.rsqrt(variance + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight * sign
    shift = -mean * scale
    if norm.bias is not None:
        shift = shift + norm.bias
    if pairs.bias is not None:  # subtracted with the mean: its gradient is zero, not None
        shift = shift + 0.0 * pairs.bias
    pooled = scaled_activation(found.values, b, scale, shift, pairs.layer.activation)
    return pooled, _winners(return_indices, a, ends, found.values, tied)


def _shared_mean(rows: Tensor, norm: BatchNorm) -> Tensor:
    """Return a constant near the mean of the rows of all processes, the same in each."""
    rows = rows.detach().flatten(0, 1)
    return shared_center(rows.mean(0), rows.new_full((1,), len(rows)), norm.group)


def _is_finite(tensor: Tensor) -> bool:
    if torch.compiler.is_compiling():  # a graph cannot depend on a value
        return True
    return math.isfinite(tensor.detach().sum().item())


def _winners(
    wanted: bool, a: Tensor, ends: _Ends, values: Tensor, tied: Tensor | None
) -> Tensor | None:
    if not wanted:
        return None
    positions = winning_positions(a.detach(), ends.neighbors, values.detach(), tied)
    return ends.neighbors.gather(2, positions)
