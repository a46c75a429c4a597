"""The first pointwise layer of set abstraction, on points as far as it can be.

Set abstraction reads `[x_j - c_i, f_j]` for each pair of a center i and a neighbor j. The layer's
weight splits into `[Wx, Wf]`, and `y_ij = a_j + Wx z_ij` with `a = Wf f` of the points and
`z_ij = x_j - c_i` of the pairs: the wide product runs over points instead of over K times as many
pairs, the other one has three channels. The coordinates are not split into `Wx x_j - Wx c_i`: that
would cancel where a ball is small against its cloud, or the cloud far from the origin.

Batch norm's training statistics are exact. With M pairs, `deg_j` how often j is a neighbor,
`r_j` the sum of z over these pairs, a and z centered by constants near their means:

- `mean(y) = (1/M) (sum_j deg_j a_j + Wx sum_ij z_ij)`
- `mean(y^2) = (1/M) (sum_j deg_j a_j^2 + 2 Wx . sum_j a_j r_j^T + diag(Wx (sum z z^T) Wx^T))`

so they take sums over points, and sums over pairs of three channels.

Source: Qi et al. 2017b, "PointNet++", section 3.2, for the layer; the split, its statistics and its
gradients are this project's own.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, distributed
from torch.nn import functional

from sharedmlp.ops.cpu.group_rows import GroupRows, group_rows
from sharedmlp.ops.layer import BatchNorm, PointwiseTensors, fold
from sharedmlp.ops.statistics import is_finite, shared_center, shared_means, update_norm

_SAMPLE = 1024


class Groups(NamedTuple):
    """The pairs of centers and their neighbors.

    Attributes:
        relative: z, the coordinates of the neighbors relative to their centers `(B, Q, K, P)`.
        neighbors: `(B, Q, K)` int64, rows of the points within each cloud.
    """

    relative: Tensor
    neighbors: Tensor

    @property
    def num_pairs(self) -> int:
        """How many pairs there are, M."""
        return self.neighbors.numel()

    def rows_of(self, num_points: int) -> Tensor:
        """Return the row of each pair's neighbor among the points of all clouds, `(M,)`."""
        first = torch.arange(len(self.neighbors), device=self.neighbors.device) * num_points
        return (self.neighbors + first[:, None, None]).flatten()


class NormalizedGroups(NamedTuple):
    """The first layer, ready to be applied to the pairs.

    Attributes:
        a: The points' part `(B, N, D)`, with batch norm in it.
        weight: Of the relative coordinates `(D, P)`, with batch norm in it.
        groups: The pairs.
        slope: Of the leaky ReLU that is applied last.
    """

    a: Tensor
    weight: Tensor
    groups: Groups
    slope: float

    def rows(self, center: Tensor | None = None) -> GroupRows:
        """Return what the layer makes of all pairs, and its moments around a center if given."""
        return group_rows(
            self.a, self.groups.relative, self.weight, self.groups.neighbors, self.slope, center
        )

    @torch.no_grad()
    def mean_of_sample(self, group: distributed.ProcessGroup | None) -> Tensor:
        """Return the mean `(D,)` of about a thousand evenly spaced rows, of all processes'."""
        step = max(1, self.groups.num_pairs // _SAMPLE)
        some = self.groups.rows_of(self.a.shape[1])[::step]
        relative = self.groups.relative.flatten(0, 2)[::step]
        y = self.a.flatten(0, 1)[some] + relative @ self.weight.t()
        mean = functional.leaky_relu(y, self.slope).mean(0)
        return shared_center(mean, mean.new_full((1,), self.groups.num_pairs), group)


def normalize_groups(
    layer: PointwiseTensors, groups: Groups, features: Tensor
) -> NormalizedGroups | None:
    """Run the part of a layer that needs only points, and its batch norm.

    Updates the running statistics in training. Differentiable in the coordinates, the features and
    all parameters.

    Args:
        layer: The layer, without the `neighborhood_reasons` of one that is not before the max; its
            weight is `(D, P + C)`.
        groups: The pairs, with P coordinates.
        features: `(B, N, C)`.

    Returns:
        The layer; None, with nothing changed, if a number is not finite: then the plain layers are
        to say what becomes of it.
    """
    dtype = layer.weight.dtype
    groups = Groups(groups.relative.to(dtype), groups.neighbors)
    features = features.to(dtype)
    widths = [groups.relative.shape[-1], features.shape[-1]]
    norm, slope = layer.norm, layer.activation.slope
    assert slope is not None
    if norm is None or not norm.uses_batch_statistics:
        weight, bias = fold(layer)
        of_coordinates, of_features = weight.split(widths, 1)
        a = features @ of_features.t() + bias
        if not is_finite(a.sum() + groups.relative.sum()):
            return None
        return NormalizedGroups(a, of_coordinates, groups, slope)
    of_coordinates, of_features = layer.weight.split(widths, 1)
    normalized = _batch_norm(layer, norm, features @ of_features.t(), of_coordinates, groups)
    return normalized and NormalizedGroups(*normalized, groups, slope)


def _batch_norm(
    layer: PointwiseTensors, norm: BatchNorm, a: Tensor, weight: Tensor, groups: Groups
) -> tuple[Tensor, Tensor] | None:
    """Return a `(B, N, D)` and W `(D, P)` such that `a_j + W z_ij` is normalized.

    Updates the running statistics. Returns None, with nothing changed, if a number is not finite.
    """
    count = a.new_full((1,), groups.num_pairs)
    rows = groups.rows_of(a.shape[1])
    shape, a, z = a.shape, a.flatten(0, 1), groups.relative.flatten(0, 2)
    degrees = torch.bincount(rows, minlength=len(a)).to(a.dtype)
    # Constants near the means, the same in all processes: nothing cancels in the moments.
    of_a = shared_center(degrees @ a.detach() / groups.num_pairs, count, norm.group)
    of_z = shared_center(z.detach().mean(0), count, norm.group)
    a, z = a - of_a, z - of_z
    of_points = z.new_zeros(len(a), z.shape[1]).index_add(0, rows, z)
    mean = (degrees @ a + weight @ z.sum(0)) / groups.num_pairs
    products = 2 * a.t() @ of_points + weight @ (z.t() @ z)
    second_moment = (degrees @ a.square() + (products * weight).sum(1)) / groups.num_pairs
    moments, total = shared_means(torch.stack([mean, second_moment]), count, norm.group)
    mean, second_moment = moments
    variance = (second_moment - mean.square()).clamp(min=0)
    of_pairs = of_a + weight @ of_z + mean + (0.0 if layer.bias is None else layer.bias)
    if not is_finite(of_pairs + variance):
        return None
    update_norm(norm, of_pairs.detach(), variance.detach(), total)
    scale = torch.rsqrt(variance + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -(weight @ of_z + mean) * scale
    if norm.bias is not None:
        shift = shift + norm.bias
    if layer.bias is not None:  # subtracted with the mean: its gradient is zero, not None
        shift = shift + 0.0 * layer.bias
    return torch.addcmul(shift, a, scale).view(shape), weight * scale[:, None]
