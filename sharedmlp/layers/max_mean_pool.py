"""A shared MLP followed by the max and the mean over the points: the end of DGCNN."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor

from sharedmlp.layers.arguments import check_clouds
from sharedmlp.layers.layout import restore_clouds
from sharedmlp.layers.pointwise import (
    PointwiseLayer,
    fusable_layers,
    layer_tensors,
    unknown_parts,
)
from sharedmlp.layers.shared_mlp import SharedMLP
from sharedmlp.ops.max_mean import max_mean_reasons, plan_max_mean, run_max_mean
from sharedmlp.ops.plan import Plan


class SharedMLPMaxMeanPool(SharedMLP):
    """A `SharedMLP` followed by the max and the mean over the points of each cloud.

    Source: Wang et al. 2019, "Dynamic Graph CNN for Learning on Point Clouds", section 4.1 and
    figure 3; the mean in place of the paper's sum, as in the authors' program.

    Shape:
        - `channel_dim=-1`: `(..., N, in_channels) -> (..., out_channels)`.
        - `channel_dim=1`: `(B, in_channels, ..., N) -> (B, out_channels, ...)`.

        `out_channels` is twice the last width: the maxima, then the means.

    The last layer, batch norm, a ReLU or leaky ReLU, max and mean run fused wherever they can, with
    the same numbers and one tensor of the size `(B, N, out_channels / 2)` in place of several
    (`sharedmlp.ops.max_mean`); the modules, their parameters and the state-dict keys are those of
    `SharedMLP` all the same. Of points that tie for the max the first gets its gradient.

    Args:
        channels: Widths, as in `SharedMLP`.
        fused: `"auto"` takes the fused path if nobody can notice and it pays, True always does
            and makes `not_supported_reasons` an error, False takes the plain path.
        **options: Further arguments of `SharedMLP`.

    Raises:
        ValueError: As `SharedMLP`; if a cloud has no points; if `fused=True` cannot be.
    """

    @property
    def out_channels(self) -> int:
        """Width of the output: twice that of the last layer."""
        return 2 * self.channels[-1]

    def forward(self, x: Tensor) -> Tensor:
        """Apply the MLP and take max and mean over the points; see the class for the shapes."""
        positions = self._check_input(x)
        check_clouds(x, positions, self.channel_dim, type(self).__name__)
        *clouds, num_points = positions
        pooled = self._pool(x, num_points, math.prod(clouds))
        return restore_clouds(pooled, clouds, self.channel_dim)

    def _pool(self, x: Tensor, num_points: int, num_clouds: int) -> Tensor:
        """Take the input to the maxima and means `(G, 2D)`."""
        plan = self._choose(x, num_points * num_clouds, num_clouds)
        layers = self._pointwise()
        num_before = len(layers) - len(plan.layers)
        y = self._layout.enter(x, self.channel_dim)
        for layer in layers[:num_before]:
            y = layer(y)
        if plan.path != "plain":
            pooled = run_max_mean(plan, self._layout.clouds(y, num_points))
            if pooled is not None:
                return pooled
            for layer in layers[num_before:]:
                y = layer(y)
        maxima = self._layout.max_over_points(y, num_points)[0]
        return torch.cat([maxima, self._layout.mean_over_points(y, num_points)], -1)

    def _plan(
        self,
        x: Tensor,
        rows: int,
        num_clouds: int | None = 1,
        *,
        must: bool,
        needs_indices: bool = False,
    ) -> Plan:
        layers, reasons = fusable_layers(x, self._pointwise(), must=must)
        if reasons:
            return Plan("plain", (), tuple(reasons))
        return plan_max_mean(layers, rows, num_clouds or 1, must=must)

    def _structural_reasons(self) -> list[str]:
        last = cast(PointwiseLayer, self.layers[-1])
        return unknown_parts(last) or max_mean_reasons(layer_tensors(last))
