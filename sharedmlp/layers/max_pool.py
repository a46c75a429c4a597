"""A shared MLP followed by the max over the points: PointNet's symmetric function."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, cast, overload

import torch
from torch import Tensor

from sharedmlp.layers.pointwise import PointwiseLayer, layer_tensors, unknown_parts
from sharedmlp.layers.shared_mlp import SharedMLP
from sharedmlp.ops import torch_internals
from sharedmlp.ops.cpu.segments import (
    Segments,
    check_batch,
    check_mask,
    fill_empty,
    segment_max,
)
from sharedmlp.ops.disable_compile import eagerly
from sharedmlp.ops.folded import folded_max
from sharedmlp.ops.fused import fused_max
from sharedmlp.ops.gate import module_reasons, visible_reasons
from sharedmlp.ops.plan import PLAIN, Plan, make_plan, max_reasons


class SharedMLPMaxPool(SharedMLP):
    """A :class:`SharedMLP` followed by the max over the points of each cloud.

    Source: Qi et al. 2017, "PointNet", section 4.2, equation 1.

    Shape:
        - ``channel_dim=-1``: ``(..., N, in_channels) -> (..., out_channels)``.
        - ``channel_dim=1``: ``(B, in_channels, ..., N) -> (B, out_channels, ...)``.
        - clouds of different sizes: see :meth:`forward`.

    The last layer, batch norm, activation and max run fused wherever they can, with the same
    numbers and without the ``(B, N, out_channels)`` tensor (:mod:`sharedmlp.ops.fused`); the
    modules, their parameters and the state-dict keys are those of :class:`SharedMLP` all the same.
    A tie gives the gradient to one winner, as ``torch.max(dim)`` does.

    Args:
        channels: Widths, as in :class:`SharedMLP`.
        fused: ``"auto"`` takes the fused path if nobody can notice and it pays, True always does
            and makes :meth:`not_supported_reasons` an error, False takes the plain path.
        search_precision: ``"bfloat16"`` finds the winners among products in bfloat16 and computes
            their values again exactly: faster, but of points almost as large another may win.
        **options: Further arguments of :class:`SharedMLP`.

    Raises:
        ValueError: As :class:`SharedMLP`; if a cloud has no points; if ``fused=True`` cannot be.
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
        """Applies the MLP and takes the max over the points.

        Clouds of different sizes come as a flat batch or with a mask. Statistics then are those of
        the real points alone, and a cloud without any gets zeros (and the winner -1).

        Args:
            x: The points or features; see the class for the shape. With ``batch``, the points of
                all clouds one after another, ``(M, in_channels)``.
            return_indices: Also returns which point won each channel, int64, of the output's shape.
                With ``batch`` these are rows of ``x``.
            batch: ``(M,)`` int64, the number of each point's cloud, in any order, as in PyTorch
                Geometric. The output is ``(num_clouds, out_channels)``.
            num_clouds: With ``batch``; one more than the largest number in it where None.
            mask: Bool, of the shape of ``x`` without its channels: True for points, False for
                padding, whatever stands there.
        """
        if batch is not None or mask is not None or num_clouds is not None:
            values, indices = self._pool_segments(x, batch, num_clouds, mask)
            return (values, indices) if return_indices else values
        positions = self._check_input(x)
        num_points, clouds = self._split_positions(x, positions)
        values, some = self._pool(x, num_points, math.prod(clouds), needs_indices=return_indices)
        if not return_indices:
            return self._restore(values, clouds)
        assert some is not None
        return self._restore(values, clouds), self._restore(some, clouds)

    def _pool_segments(
        self,
        x: Tensor,
        batch: Tensor | None,
        num_clouds: int | None,
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Takes the max over clouds of different sizes; values and winners in the public layout."""
        positions = self._check_input(x)
        if mask is None:
            cloud, num_clouds = check_batch(x, batch, num_clouds)
            values, indices = self._pool_rows(x, Segments.of(cloud, num_clouds))
            return values, indices
        check_mask(positions, mask, batch, num_clouds)
        rows = x.movedim(self.channel_dim, -1)[mask]
        *clouds, num_points = positions
        cloud, point = mask.reshape(-1, num_points).nonzero(as_tuple=True)
        values, indices = self._pool_rows(rows, Segments.of(cloud, math.prod(clouds)))
        if len(point):
            indices = torch.where(indices < 0, indices, point[indices])
        return self._restore(values, tuple(clouds)), self._restore(indices, tuple(clouds))

    @eagerly
    def _pool_rows(self, rows: Tensor, segments: Segments) -> tuple[Tensor, Tensor]:
        """Take `(M, C)` to the maxima `(G, D)` and the rows that won."""
        if len(rows) == 0:
            values = rows.new_zeros(len(segments.counts), self.out_channels)
            return values, torch.full_like(values, -1, dtype=torch.int64)
        self._check_positions(len(rows), rows)
        layers = self._pointwise()
        plan = self._choose(rows, len(rows), len(segments.counts), needs_indices=True)
        found = None
        if plan.path == "fuse":
            first = len(layers) - len(plan.layers)
            if first:
                rows = self._run_plain(layers[:first], rows, (len(rows),), -1)
            layers = layers[first:]
            found = fused_max(plan.layers, rows[None], self._search_dtype, segments)
        if found is None:
            found = segment_max(self._run_plain(layers, rows, (len(rows),), -1), segments)
        return fill_empty(*found, segments)

    @property
    def _search_dtype(self) -> torch.dtype | None:
        return torch.bfloat16 if self.search_precision == "bfloat16" else None

    def _pool(
        self, x: Tensor, num_points: int, num_clouds: int, *, needs_indices: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Take the input to the maxima `(G, D)`, and to the winners if they are at hand."""
        layers = self._pointwise()
        rows = num_clouds * num_points
        plan = self._choose(x, rows, num_clouds, needs_indices=needs_indices)
        y = self._layout.enter(x, self.channel_dim)
        if plan.path != "plain":
            first = len(layers) - len(plan.layers)
            for layer in layers[:first]:
                y = layer(y)
            layers = layers[first:]
            clouds = self._layout.clouds(y, num_points)
            if plan.path == "fold":
                return folded_max(plan.layers, clouds), None
            found = fused_max(plan.layers, clouds, self._search_dtype)
            if found is not None:
                return found
        for layer in layers:
            y = layer(y)
        # amax splits the gradient over ties, and who records a graph may run it with gradients.
        recorded = torch_internals.jit_is_tracing()
        if not (needs_indices or torch.is_grad_enabled() or recorded):
            return self._layout.amax_over_points(y, num_points), None
        return self._layout.max_over_points(y, num_points)

    def _choose(self, x: Tensor, rows: int, num_clouds: int, *, needs_indices: bool) -> Plan:
        if not (self.fused is True or (self.fused and self._may_pay(x, rows, num_clouds))):
            return PLAIN
        plan = self._plan(x, rows, num_clouds, needs_indices, must=self.fused is True)
        return self._check_plan(plan)

    def _plan(
        self,
        x: Tensor,
        rows: int,
        num_clouds: int = 1,
        needs_indices: bool = False,
        *,
        must: bool,
    ) -> Plan:
        *hidden, last = self._pointwise()
        reasons = visible_reasons(x, [last], must=must) + unknown_parts(last)
        if reasons:
            return Plan("plain", (), tuple(dict.fromkeys(reasons)))
        seen = [reason for layer in hidden for reason in module_reasons(layer)]
        for layer in hidden:
            seen += unknown_parts(layer)
        return make_plan(
            [layer_tensors(layer) for layer in ([last] if seen else [*hidden, last])],
            rows,
            num_clouds,
            needs_indices=needs_indices,
            search_dtype=self._search_dtype,
            must=must,
        )

    def _structural_reasons(self) -> list[str]:
        last = cast(PointwiseLayer, self.layers[-1])
        return unknown_parts(last) or max_reasons(layer_tensors(last))

    def _split_positions(
        self, x: Tensor, positions: tuple[int, ...]
    ) -> tuple[int, tuple[int, ...]]:
        *clouds, num_points = positions
        if num_points == 0 or x.numel() == 0 or (self.channel_dim == 1 and not clouds):
            raise ValueError(
                f"{type(self).__name__} takes the max over the points of (..., N, C), or of "
                "(B, C, ..., N) with channel_dim=1, and needs at least one cloud and one point, "
                f"got {tuple(x.shape)}: leave empty clouds out of the batch"
            )
        return num_points, tuple(clouds)

    def _restore(self, pooled: Tensor, clouds: tuple[int, ...]) -> Tensor:
        """Moves ``(G, C)`` to the public layout."""
        pooled = pooled.reshape(*clouds, self.out_channels)
        return pooled.movedim(pooled.ndim - 1, self.channel_dim % pooled.ndim)
