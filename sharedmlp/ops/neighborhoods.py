"""A pointwise layer on the pairs of a center and a neighbor, then the max over each neighborhood.

Each center i has K neighbors. What a network makes of a pair is linear in both of its ends: edge
convolution's input is `[x_j - x_i, x_i]`, set abstraction's `[x_j - c_i, f_j]`. So the first layer
splits into `y_ij = a_j + b_i` with `a = U s` of the sources and `b = V t` of the centers: two
products over points in place of one over K times as many pairs. Batch norm's training statistics
follow from the same two tensors, and `max_j act(norm(a_j + b_i))` is `act(norm(b_i + max_j a_j))`,
with the rows of U and V flipped in sign where batch norm's weight is negative. With one layer
before the max, nothing of the size of the pairs times the channels ever exists, and the numbers are
those of the plain layers (see sharedmlp.ops.cpu.neighborhoods for the kernels).

Source: Wang et al. 2019, "Dynamic Graph CNN for Learning on Point Clouds", section 3.1, and Qi et
al. 2017, "PointNet++", section 3.2, for the layers. Feng et al. 2020, "Mesorasi", move whole MLPs
before the gathering, which changes the numbers; the split, its statistics and its gradients are
this project's own.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, distributed

from sharedmlp.ops.cpu.neighborhoods import neighbor_max, neighbor_moments, winning_positions
from sharedmlp.ops.cpu.pair_rows import pair_rows
from sharedmlp.ops.cpu.product import product
from sharedmlp.ops.cpu.scaled_activation import scaled_activation
from sharedmlp.ops.gate import result_dtype_of
from sharedmlp.ops.layer import BatchNorm, PointwiseTensors, fold
from sharedmlp.ops.plan import dtype_reasons, order_reasons
from sharedmlp.ops.statistics import (
    is_finite,
    order_of,
    scale_and_shift,
    shared_center,
    shared_means,
    update_norm,
)


class PairTensors(NamedTuple):
    """The first layer of a network on pairs, split into its two ends.

    Attributes:
        source: U, `(D, Cs)`.
        center: V, `(D, Ct)`.
        layer: The layer that was split: the rest of it is as it was.
    """

    source: Tensor
    center: Tensor
    layer: PointwiseTensors


def split_edge_layer(layer: PointwiseTensors) -> PairTensors:
    """Split a layer on `[x_j - x_i, x_i]`, as of edge convolution, into its two ends.

    Args:
        layer: The layer; its weight is `(D, 2C)`.
    """
    difference, center = layer.weight.chunk(2, 1)
    return PairTensors(difference, center - difference, layer)


def neighborhood_reasons(layer: PointwiseTensors, *, before_max: bool = True) -> list[str]:
    """Say why a layer on pairs cannot run on points; empty if it can.

    Args:
        layer: The layer.
        before_max: Whether the max follows, else another layer.
    """
    reasons = []
    if layer.weight.device.type != "cpu":
        reasons.append("it is not on a CPU")
    reasons += dtype_reasons(layer)
    if not before_max and layer.activation.slope is None:
        reasons.append(f"its activation {layer.activation.label} is not a ReLU or leaky ReLU")
    else:
        reasons += order_reasons(layer)
    if layer.dropout:
        reasons.append("dropout stands between the layer and what follows")
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
        return_indices: Whether to tell which neighbors won.

    Returns:
        The maxima `(B, Q, D)`, in the dtype that an active autocast asks for, and the positions
        among the neighbors that won `(B, Q, D)` int64, or None. None, with nothing changed, if a
        number in between is not finite: then the plain layers are to say what becomes of it.
    """
    result_dtype = result_dtype_of(pairs.source)
    with torch.autocast(sources.device.type, enabled=False):
        ends = _Ends.of(pairs, sources, centers)
        activation, norm = pairs.layer.activation, pairs.layer.norm
        if norm is None or not norm.uses_batch_statistics:
            a, b = ends.folded()
            found = neighbor_max(a, neighbors)
            largest = found.values + b
            if not is_finite(largest):
                return None
            pooled = activation(largest)
        else:
            # The largest input gives the largest output if the norm does not change the order.
            sign, tied = order_of(norm, pairs.source)
            a, b = ends.products(sign)
            found = neighbor_max(a, neighbors, b, tied)
            affine = ends.normalize(norm, sign, found.mean, found.second_moment, neighbors.numel())
            if affine is None:
                return None
            pooled = scaled_activation(found.values, b, *affine, activation)
        positions = None
        if return_indices:
            positions = winning_positions(a.detach(), neighbors, found.values.detach())
            if activation.name == "relu":  # all that it switches off are alike: the first wins
                positions = positions.masked_fill(pooled == 0, 0)
        return pooled.to(result_dtype), positions


def neighborhood_rows(
    pairs: PairTensors, sources: Tensor, centers: Tensor, neighbors: Tensor
) -> Tensor | None:
    """Apply a layer to all pairs, `(B, Q, K, D)`; arguments and None as in `neighborhood_max`."""
    result_dtype = result_dtype_of(pairs.source)
    with torch.autocast(sources.device.type, enabled=False):
        ends = _Ends.of(pairs, sources, centers)
        norm = pairs.layer.norm
        if norm is None or not norm.uses_batch_statistics:
            a, b = ends.folded()
            if not is_finite(a.sum() + b.sum()):
                return None
        else:
            sign = torch.ones_like(pairs.source[:, 0])
            a, b = ends.products(sign)
            moments = neighbor_moments(a, neighbors, b)
            affine = ends.normalize(norm, sign, *moments, neighbors.numel())
            if affine is None:
                return None
            scale, shift = affine
            a, b = a * scale, torch.addcmul(shift, b, scale)
        slope = pairs.layer.activation.slope
        assert slope is not None
        return pair_rows(a, b, neighbors, slope).to(result_dtype)


class _Ends(NamedTuple):
    """The two ends of all pairs, centered: far from the origin no digits cancel in a_j + b_i.

    Attributes:
        pairs: The layer.
        sources: `(B, N, Cs)`.
        centers: `(B, Q, Ct)`.
        offset: `(D,)`, what was taken from all pairs, without the bias.
    """

    pairs: PairTensors
    sources: Tensor
    centers: Tensor
    offset: Tensor

    @classmethod
    def of(cls, pairs: PairTensors, sources: Tensor, centers: Tensor) -> _Ends:
        norm, dtype = pairs.layer.norm, pairs.source.dtype
        group = None if norm is None else norm.group
        if centers is sources:  # one tensor then, in memory and for autograd
            mean, sources = _center(sources.to(dtype), group)
            return cls(pairs, sources, sources, (pairs.source + pairs.center) @ mean)
        of_sources, sources = _center(sources.to(dtype), group)
        of_centers, centers = _center(centers.to(dtype), group)
        offset = pairs.source @ of_sources + pairs.center @ of_centers
        return cls(pairs, sources, centers, offset)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Return a `(B, N, D)` and b `(B, Q, D)` with constant batch norm folded in."""
        layer = self.pairs.layer
        source, _ = fold(layer._replace(weight=self.pairs.source))
        center, _ = fold(layer._replace(weight=self.pairs.center))
        # the offset as a weight of one channel, whose input is 1
        offset, shift = fold(layer._replace(weight=self.offset[:, None]))
        b = product(self.centers, center) + (offset[:, 0] + shift)
        return product(self.sources, source), b

    def products(self, sign: Tensor) -> tuple[Tensor, Tensor]:
        """Return a `(B, N, D)` and b `(B, Q, D)`, with a sign for each channel.

        What is the same for all pairs, the offset and the bias, drops out with their mean.
        """
        a = product(self.sources, self.pairs.source * sign[:, None])
        return a, product(self.centers, self.pairs.center * sign[:, None])

    def normalize(
        self, norm: BatchNorm, sign: Tensor, mean: Tensor, second_moment: Tensor, count: int
    ) -> tuple[Tensor, Tensor] | None:
        """Return scale and shift `(D,)` of batch norm for `a_j + b_i`.

        Updates the running statistics. Returns None, with nothing changed, if a number is not
        finite.
        """
        bias = self.pairs.layer.bias
        moments, total = shared_means(
            torch.stack([mean, second_moment]), mean.new_full((1,), count), norm.group
        )
        mean, second_moment = moments
        # The ends are centered, so the mean is not large, and nothing cancels.
        variance = (second_moment - mean.square()).clamp(min=0)
        # These are not finite as soon as one pair is not.
        if not is_finite(mean + variance + (0.0 if bias is None else bias)):
            return None
        of_pairs = (sign * mean + self.offset + (0.0 if bias is None else bias)).detach()
        update_norm(norm, of_pairs, variance.detach(), total)
        scale, shift = scale_and_shift(norm, mean, variance, sign)
        if bias is not None:  # subtracted with the mean: its gradient is zero, not None
            shift = shift + 0.0 * bias
        return scale, shift


def _center(rows: Tensor, group: distributed.ProcessGroup | None) -> tuple[Tensor, Tensor]:
    """Return the mean `(C,)` over the group of processes, and the rows `(B, N, C)` less it."""
    flat = rows.detach().flatten(0, 1)
    mean = shared_center(flat.mean(0), flat.new_full((1,), len(flat)), group)
    return mean, rows - mean
