"""A shared MLP followed by the max over the points: PointNet's symmetric function."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, cast, overload

import torch
from torch import Tensor

from sharedmlp.layers.folded import can_fold, folded_max_pool
from sharedmlp.layers.fused import can_fuse_hidden, fused_max_pool, fused_not_supported_reasons
from sharedmlp.layers.pointwise import PointwiseLayer
from sharedmlp.layers.shared_mlp import SharedMLP
from sharedmlp.ops.segments import (
    Segments,
    check_batch,
    check_mask,
    fill_empty,
    segment_max,
)


class SharedMLPMaxPool(SharedMLP):
    """A :class:`SharedMLP` followed by the max over the points of each cloud.

    Source: Qi et al. 2017, "PointNet", section 4.2, equation 1.

    Shape:
        - ``channel_dim=-1``: ``(..., N, in_channels) -> (..., out_channels)``.
        - ``channel_dim=1``: ``(B, in_channels, ..., N) -> (B, out_channels, ...)``.
        - clouds of different sizes: see :meth:`forward`.

    The last layer, batch norm, activation and max run fused wherever they can, with the same
    numbers and without the ``(B, N, out_channels)`` tensor (:mod:`sharedmlp.layers.fused`); the
    modules, their parameters and the state-dict keys are those of :class:`SharedMLP` all the same.
    A tie gives the gradient to one winner, as ``torch.max(dim)`` does.

    Args:
        channels: Widths, as in :class:`SharedMLP`.
        fused: ``"auto"`` takes the fused path unless there are :meth:`not_supported_reasons`, True
            makes those an error, False takes the plain path.
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
        **options: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(channels, fused=fused, **options)
        if search_precision not in ("float32", "bfloat16"):
            raise ValueError(
                f'search_precision is "float32" or "bfloat16", got {search_precision!r}'
            )
        self.search_precision = search_precision
        if fused is True:
            self._take_fused_path()

    @overload
    def forward(
        self,
        x: Tensor,
        return_indices: Literal[False] = False,
        *,
        batch: Tensor | None = None,
        num_clouds: int | None = None,
        mask: Tensor | None = None,
    ) -> Tensor: ...

    @overload
    def forward(
        self,
        x: Tensor,
        return_indices: Literal[True],
        *,
        batch: Tensor | None = None,
        num_clouds: int | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]: ...

    def forward(
        self,
        x: Tensor,
        return_indices: bool = False,
        *,
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
        y = self._layout.enter(x, self.channel_dim)
        values, some = self._pool(y, num_points, need_indices=return_indices)
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

    def _pool_rows(self, rows: Tensor, segments: Segments) -> tuple[Tensor, Tensor]:
        """Takes ``(M, C)`` to the maxima ``(G, D)`` and the rows that won."""
        if len(rows) == 0:
            values = rows.new_zeros(len(segments.counts), self.out_channels)
            return values, torch.full_like(values, -1, dtype=torch.int64)
        self._check_positions(len(rows), rows)
        layers = self._pointwise()
        if self._take_fused_path():
            *hidden, last = layers
            if hidden and not can_fuse_hidden(layers):
                rows = self._run(hidden, rows, (len(rows),), -1)
                hidden = []
            values, indices = fused_max_pool(last, rows[None], self._search_dtype, hidden, segments)
        else:
            values, indices = segment_max(self._run(layers, rows, (len(rows),), -1), segments)
        return fill_empty(values, indices, segments)

    @property
    def _search_dtype(self) -> torch.dtype | None:
        return torch.bfloat16 if self.search_precision == "bfloat16" else None

    def _pool(
        self, y: Tensor, num_points: int, *, need_indices: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Takes the native input to the maxima ``(G, D)``, and to the winners where at hand."""
        layers = self._pointwise()
        free = not (need_indices or torch.is_grad_enabled())
        if not self._take_fused_path():
            for layer in layers:
                y = layer(y)
            if free:
                return self._layout.amax_over_points(y, num_points), None
            return self._layout.max_over_points(y, num_points)
        if free and self._search_dtype is None and all(map(can_fold, layers)):
            return folded_max_pool(layers, self._layout.clouds(y, num_points)), None
        *hidden, last = layers
        if not can_fuse_hidden(layers):
            for layer in hidden:
                y = layer(y)
            hidden = []
        clouds = self._layout.clouds(y, num_points)
        values, indices = fused_max_pool(last, clouds, self._search_dtype, hidden)
        return values, indices

    def not_supported_reasons(self) -> list[str]:
        """Says in words why this module, as it is now, takes the plain path; empty if it does not.

        Two things decide at the call and need no reason: ``torch.export`` records the plain
        operations, and a gradient that is itself differentiated is computed from plain ones.
        """
        return fused_not_supported_reasons(cast(PointwiseLayer, self.layers[-1]))

    def _take_fused_path(self) -> bool:
        if self.fused is False or torch.compiler.is_exporting():
            return False
        reasons = self.not_supported_reasons()
        if reasons and self.fused is True:
            raise ValueError(
                "fused=True, but the last layer cannot be fused: "
                + "; ".join(reasons)
                + '. Pass fused="auto" to take the plain path then'
            )
        return not reasons

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
        return pooled.reshape(*clouds, self.out_channels).movedim(-1, self.channel_dim)
