"""A shared MLP followed by the max over the points: PointNet's symmetric function."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, cast, overload

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
from sharedmlp.ops import torch_internals
from sharedmlp.ops.disable_compile import disable_compile
from sharedmlp.ops.fused import run_max
from sharedmlp.ops.plan import Plan, make_plan, max_reasons
from sharedmlp.ops.segments import Segments, check_batch, check_mask, segment_max


class SharedMLPMaxPool(SharedMLP):
    """A `SharedMLP` followed by the max over the points of each cloud.

    Source: Qi et al. 2017, "PointNet", section 4.2, equation 1.

    Shape:
        - `channel_dim=-1`: `(..., N, in_channels) -> (..., out_channels)`.
        - `channel_dim=1`: `(B, in_channels, ..., N) -> (B, out_channels, ...)`.
        - clouds of different sizes: see `forward`.

    The last layer, batch norm, activation and max run fused wherever they can, with the same
    numbers and without the `(B, N, out_channels)` tensor (`sharedmlp.ops.fused`); the
    modules, their parameters and the state-dict keys are those of `SharedMLP` all the same.
    Of points that tie one gets the gradient, as in `torch.max(dim)`.

    Args:
        channels: Widths, as in `SharedMLP`.
        fused: `"auto"` takes the fused path if nobody can notice and it pays, True always does
            and makes `not_supported_reasons` an error, False takes the plain path.
        search_precision: `"bfloat16"` compares products in bfloat16 and computes the largest
            again exactly: faster, but of points almost as large it may take another.
        **options: Further arguments of `SharedMLP`.

    Raises:
        ValueError: As `SharedMLP`; if a cloud has no points; if `fused=True` cannot be.
    """

    def __init__(
        self,
        channels: Sequence[int],
        *,
        fused: bool | Literal["auto"] = "auto",
        search_precision: Literal["float32", "bfloat16"] = "float32",
        **options: Any,
    ) -> None:
        super().__init__(channels, fused=fused, **options)
        if search_precision not in ("float32", "bfloat16"):
            raise ValueError(
                f'search_precision is "float32" or "bfloat16", got {search_precision!r}'
            )
        self.search_precision = search_precision

    @overload
    def forward(
        self,
        x: Tensor,
        return_indices: Literal[False] = False,
        batch: Tensor | None = None,
        num_clouds: int | None = None,
        mask: Tensor | None = None,
    ) -> Tensor: ...

    @overload
    def forward(
        self,
        x: Tensor,
        return_indices: Literal[True],
        batch: Tensor | None = None,
        num_clouds: int | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]: ...

    def forward(
        self,
        x: Tensor,
        return_indices: bool = False,
        batch: Tensor | None = None,
        num_clouds: int | None = None,
        mask: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Apply the MLP and take the max over the points.

        Clouds of different sizes come as a flat batch or with a mask. Statistics then are those of
        the real points alone, and a cloud without any gets zeros (and the index -1).

        Args:
            x: The points or features; see the class for the shape. With `batch`, the points of
                all clouds one after another, `(M, in_channels)`.
            return_indices: Also return the point of each maximum, int64, of the output's shape.
                With `batch` these are rows of `x`.
            batch: `(M,)` int64, the number of each point's cloud, in any order, as in PyTorch
                Geometric. The output is `(num_clouds, out_channels)`.
            num_clouds: With `batch`; None means one more than the largest number in it.
            mask: Bool, of the shape of `x` without its channels: True for points, False for
                padding, whatever stands there.

        Returns:
            The maxima; with `return_indices` a pair of the maxima and their points.

        Raises:
            ValueError: If the shapes of x, batch and mask do not fit, or a cloud has no points.
        """
        positions = self._check_input(x)
        clouds: tuple[int, ...]
        indices: Tensor | None
        if batch is None and mask is None and num_clouds is None:
            check_clouds(x, positions, self.channel_dim, type(self).__name__)
            clouds, num_points = positions[:-1], positions[-1]
            values, indices = self._pool(x, num_points, math.prod(clouds), return_indices)
            values = restore_clouds(values, clouds, self.channel_dim)
            indices = None if indices is None else restore_clouds(indices, clouds, self.channel_dim)
        elif mask is None:
            values, indices = self._pool_flat(x, *check_batch(x, batch, num_clouds))
        else:
            check_mask(positions, mask, batch, num_clouds)
            values, indices = self._pool_masked(x, mask)
        if not return_indices:
            return values
        assert indices is not None
        return values, indices

    def _pool_masked(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Take the max over the points that a mask leaves; maxima and points as `forward`."""
        *clouds, num_points = mask.shape
        cloud, point = mask.reshape(-1, num_points).nonzero(as_tuple=True)
        rows = x.movedim(self.channel_dim, -1)[mask]
        values, indices = self._pool_flat(rows, cloud, math.prod(clouds))
        if len(point):
            indices = torch.where(indices < 0, indices, point[indices])
        return restore_clouds(values, clouds, self.channel_dim), restore_clouds(
            indices, clouds, self.channel_dim
        )

    @disable_compile
    def _pool_flat(self, rows: Tensor, cloud: Tensor, num_clouds: int) -> tuple[Tensor, Tensor]:
        """Take `(M, C)` to the maxima `(G, D)` and their rows, -1 for a cloud without any."""
        if len(rows) == 0:
            values = rows.new_zeros(num_clouds, self.out_channels)
            return values, torch.full_like(values, -1, dtype=torch.int64)
        self._check_positions(len(rows), rows)
        segments = Segments(cloud, num_clouds)
        values, indices = self._pool(rows, len(rows), num_clouds, True, segments)
        assert indices is not None
        return segments.fill_empty(values, indices)

    @property
    def _search_dtype(self) -> torch.dtype | None:
        return torch.bfloat16 if self.search_precision == "bfloat16" else None

    def _pool(
        self,
        x: Tensor,
        num_points: int,
        num_clouds: int,
        needs_indices: bool,
        segments: Segments | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Take the input to the maxima `(G, D)`, and to their points if they are at hand.

        Segments are those of `(M, C)`, whose M rows are the points of one cloud to the layout.
        """
        rows = num_points if segments else num_points * num_clouds
        plan = self._choose(x, rows, num_clouds, needs_indices=needs_indices)
        layers = self._pointwise()
        num_before = len(layers) - len(plan.layers)
        y = self._layout.enter(x, -1 if segments else self.channel_dim)
        for layer in layers[:num_before]:
            y = layer(y)
        if plan.path != "plain":
            clouds = self._layout.clouds(y, num_points)
            found = run_max(plan, clouds, self._search_dtype, segments)
            if found is not None:
                return found
            for layer in layers[num_before:]:
                y = layer(y)
        if segments is not None:
            return segment_max(self._layout.clouds(y, num_points)[0], segments)
        # amax splits the gradient over ties, and who records a graph may run it with gradients.
        recorded = torch_internals.jit_is_tracing()
        if not (needs_indices or torch.is_grad_enabled() or recorded):
            return self._layout.amax_over_points(y, num_points), None
        return self._layout.max_over_points(y, num_points)

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
        return make_plan(
            layers,
            rows,
            num_clouds,
            needs_indices=needs_indices,
            search_dtype=self._search_dtype,
            must=must,
        )

    def _structural_reasons(self) -> list[str]:
        last = cast(PointwiseLayer, self.layers[-1])
        return unknown_parts(last) or max_reasons(layer_tensors(last))
