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

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from sharedmlp.ops.cpu.group_max import group_argmax, group_folded_max
from sharedmlp.ops.cpu.group_rows import group_moments, group_rows
from sharedmlp.ops.fused import CloudInput, MaxInput
from sharedmlp.ops.interface import FoldedLayer, FoldedLinear, Implementation, LinearArgmax
from sharedmlp.ops.layer import BatchNorm, PointwiseTensors, fold
from sharedmlp.ops.statistics import (
    SAMPLE,
    is_finite,
    scale_and_shift,
    shared_center,
    shared_means,
    update_norm,
)


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
    """The rows `leaky_relu(a_j + W z_ij)` of all pairs, to be made where they are read.

    See `sharedmlp.ops.fused.MaxInput`.

    Attributes:
        a: The points' part `(B, N, D)`, with batch norm in it; `(1, 1, D)` without features.
        weight: W, of the relative coordinates, `(D, P)`, likewise.
        groups: The pairs.
        slope: Of the leaky ReLU.
    """

    a: Tensor
    weight: Tensor
    groups: Groups
    slope: float

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return self.groups.num_pairs

    def rows(self) -> Tensor:
        """Return all rows as `(B * Q, K, D)`."""
        return group_rows(*self._arguments()).flatten(0, 1)

    @torch.no_grad()
    def sample(self) -> Tensor:
        """See `MaxInput`."""
        step = max(1, self.num_rows // SAMPLE)
        y = self.groups.relative.flatten(0, 2)[::step] @ self.weight.t()
        if self.a.shape[:2] == (1, 1):
            y = y + self.a[0]
        else:
            y = y + self.a.flatten(0, 1)[self.groups.rows_of(self.a.shape[1])[::step]]
        return functional.leaky_relu(y, self.slope)

    def moments(self, ops: Implementation, center: Tensor) -> tuple[Tensor, Tensor]:
        """See `MaxInput`."""
        return group_moments(*self._arguments(), center)

    def linear_bn_relu(
        self, ops: Implementation, layer: FoldedLinear, center: Tensor
    ) -> tuple[MaxInput, Tensor, Tensor]:
        """See `MaxInput`; what the layer makes lies in memory."""
        return CloudInput(self.rows()).linear_bn_relu(ops, layer, center)

    def linear_argmax(
        self, ops: Implementation, weight: Tensor, sign: Tensor, center: Tensor, **options: Any
    ) -> LinearArgmax:
        """See `MaxInput`."""
        return group_argmax(*self._arguments(), weight, sign, center, **options)

    def folded_max(self, ops: Implementation, layers: Sequence[FoldedLayer]) -> Tensor:
        """See `MaxInput`."""
        return group_folded_max(*self._arguments(), layers)

    def _arguments(self) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
        return self.a, self.groups.relative, self.weight, self.groups.neighbors, self.slope


def normalize_groups(
    layer: PointwiseTensors, groups: Groups, features: Tensor | None
) -> NormalizedGroups | None:
    """Run the part of a layer that needs only points, and its batch norm.

    Updates the running statistics in training. Differentiable in the coordinates, the features and
    all parameters.

    Args:
        layer: The layer, without the `neighborhood_reasons` of one that is not before the max; its
            weight is `(D, P + C)`.
        groups: The pairs, with P coordinates.
        features: `(B, N, C)`, or None for coordinates alone.

    Returns:
        The layer; None, with nothing changed, if a number is not finite: then the plain layers are
        to say what becomes of it.
    """
    dtype = layer.weight.dtype
    groups = Groups(groups.relative.to(dtype), groups.neighbors)
    if features is not None:
        features = features.to(dtype)
    width = groups.relative.shape[-1]
    norm, slope = layer.norm, layer.activation.slope
    assert slope is not None
    if norm is None or not norm.uses_batch_statistics:
        weight, bias = fold(layer)
        of_coordinates, of_features = weight[:, :width], weight[:, width:]
        of_points = bias[None, None] if features is None else features @ of_features.t() + bias
        if not is_finite(of_points.sum() + groups.relative.sum()):
            return None
        return NormalizedGroups(of_points, of_coordinates, groups, slope)
    of_coordinates, of_features = layer.weight[:, :width], layer.weight[:, width:]
    a = None if features is None else features @ of_features.t()
    normalized = _batch_norm(layer, norm, a, of_coordinates, groups)
    return normalized and NormalizedGroups(*normalized, groups, slope)


def _batch_norm(
    layer: PointwiseTensors, norm: BatchNorm, a: Tensor | None, weight: Tensor, groups: Groups
) -> tuple[Tensor, Tensor] | None:
    """Return a `(B, N, D)` and W `(D, P)` such that `a_j + W z_ij` is normalized.

    Without a the first is `(1, 1, D)`. Updates the running statistics. Returns None, with nothing
    changed, if a number is not finite.
    """
    z = groups.relative.flatten(0, 2)
    count = z.new_full((1,), groups.num_pairs)
    # Constants near the means, the same in all processes: nothing cancels in the moments.
    of_z = shared_center(z.detach().mean(0), count, norm.group)
    z = z - of_z
    products, mean = weight @ (z.t() @ z), weight @ z.sum(0)
    of_a, squares = torch.zeros_like(mean), torch.zeros_like(mean)
    if a is not None:
        rows = groups.rows_of(a.shape[1])
        degrees = torch.bincount(rows, minlength=len(a) * a.shape[1]).to(a.dtype)
        of_a = degrees @ a.detach().flatten(0, 1) / groups.num_pairs
        of_a = shared_center(of_a, count, norm.group)
        a = a - of_a
        points = a.flatten(0, 1)
        of_points = z.new_zeros(len(points), z.shape[1]).index_add(0, rows, z)
        mean = mean + degrees @ points
        squares = degrees @ points.square()
        products = products + 2 * points.t() @ of_points
    second_moment = squares + (products * weight).sum(1)
    moments, total = shared_means(
        torch.stack([mean, second_moment]) / groups.num_pairs, count, norm.group
    )
    mean, second_moment = moments
    variance = (second_moment - mean.square()).clamp(min=0)
    of_pairs = of_a + weight @ of_z + mean + (0.0 if layer.bias is None else layer.bias)
    if not is_finite(of_pairs + variance):
        return None
    update_norm(norm, of_pairs.detach(), variance.detach(), total)
    scale, shift = scale_and_shift(norm, weight @ of_z + mean, variance)
    if layer.bias is not None:  # subtracted with the mean: its gradient is zero, not None
        shift = shift + 0.0 * layer.bias
    a = shift[None, None] if a is None else torch.addcmul(shift, a, scale)
    return a, weight * scale[:, None]
