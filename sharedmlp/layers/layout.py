"""Layouts: how a backend wants its tensor, and the one move there and back.

The public contract of every layer is `(..., C)` (`channel_dim=-1`) or `(B, C, ...)`
(`channel_dim=1`). A stack of layers moves to its backend's native layout once, stays there and
comes back once. All moves are views wherever the strides allow one, so two stacks of the same
backend in a row cost no copy between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from sharedmlp.ops import torch_internals


class Layout(Protocol):
    """The native layout of a backend; G below is the product of all sizes before the points."""

    @property
    def name(self) -> str:
        """The layout in letters: `BNC`, `BCN` or `BCHW`."""

    @property
    def channel_dim(self) -> int:
        """Where the channels are: -1 or 1."""

    @property
    def spatial_dims(self) -> int:
        """How many axes of positions follow the channels."""

    def enter(self, x: Tensor, channel_dim: int) -> Tensor:
        """Move `x` from the public layout to the native one."""

    def leave(self, y: Tensor, positions: tuple[int, ...], channel_dim: int) -> Tensor:
        """Move `y` back; `positions` are the input's sizes without the channels."""

    def clouds(self, y: Tensor, num_points: int) -> Tensor:
        """View the native `y` as `(G, N, C)`."""

    def max_over_points(self, y: Tensor, num_points: int) -> tuple[Tensor, Tensor]:
        """Return the maxima of each cloud and their points, both `(G, C)`."""

    def amax_over_points(self, y: Tensor, num_points: int) -> Tensor:
        """Return the maxima alone: several times faster, for use without gradients."""

    def mean_over_points(self, y: Tensor, num_points: int) -> Tensor:
        """Return the means of each cloud, `(G, C)`."""


def restore_clouds(pooled: Tensor, clouds: Sequence[int], channel_dim: int) -> Tensor:
    """Move `(G, C)`, one row a cloud, to the public layout of clouds of these sizes."""
    pooled = pooled.reshape(*clouds, pooled.shape[-1])
    return pooled.movedim(pooled.ndim - 1, channel_dim % pooled.ndim)


def _move(x: Tensor, source: int, destination: int) -> Tensor:
    """Move an axis; never by a negative number, which torch's older ONNX exporter writes down."""
    return x.movedim(source % x.ndim, destination % x.ndim)


@dataclass(frozen=True)
class ChannelsLast:
    """`(M, C)`, M the number of positions: what `nn.Linear` and `nn.BatchNorm1d` share.

    The positions are flattened because `nn.BatchNorm1d` takes the N of a `(B, N, C)` tensor for
    its channels, silently where N equals C.
    """

    name: str
    channel_dim: ClassVar[int] = -1
    spatial_dims: ClassVar[int] = 0

    def enter(self, x: Tensor, channel_dim: int) -> Tensor:
        """See `Layout`."""
        return _move(x, channel_dim, -1).reshape(-1, x.shape[channel_dim])

    def leave(self, y: Tensor, positions: tuple[int, ...], channel_dim: int) -> Tensor:
        """See `Layout`."""
        return _move(y.reshape(*positions, y.shape[-1]), -1, channel_dim)

    def clouds(self, y: Tensor, num_points: int) -> Tensor:
        """See `Layout`."""
        return y.reshape(-1, num_points, y.shape[-1])

    def max_over_points(self, y: Tensor, num_points: int) -> tuple[Tensor, Tensor]:
        """See `Layout`."""
        values, indices = self.clouds(y, num_points).max(1)
        return values, indices

    def amax_over_points(self, y: Tensor, num_points: int) -> Tensor:
        """See `Layout`."""
        return self.clouds(y, num_points).amax(1)

    def mean_over_points(self, y: Tensor, num_points: int) -> Tensor:
        """See `Layout`."""
        return self.clouds(y, num_points).mean(1)


@dataclass(frozen=True)
class ChannelsFirst:
    """`(B, C, N)` or `(B, C, H, W)`: what convolutions and their norms share.

    The last spatial axis is the last position axis of the input. Position axes that are missing
    have size one; those beyond the spatial ones join the batch (channels last) or the first
    spatial axis (channels first), whichever is a view.
    """

    name: str
    spatial_dims: int
    channel_dim: ClassVar[int] = 1

    def _spatial(self, axes: tuple[int, ...]) -> tuple[int, ...]:
        return (*[1] * self.spatial_dims, *axes)[-self.spatial_dims :]

    def enter(self, x: Tensor, channel_dim: int) -> Tensor:
        """See `Layout`."""
        if channel_dim == -1:
            positions = tuple(x.shape[:-1])
            spatial = self._spatial(positions[1:] or positions)  # (N, C) is one cloud
            return _move(x.reshape(-1, *spatial, x.shape[-1]), -1, 1)
        spatial = self._spatial(tuple(x.shape[2:]))
        return x.reshape(*x.shape[:2], -1, *spatial[1:])

    def leave(self, y: Tensor, positions: tuple[int, ...], channel_dim: int) -> Tensor:
        """See `Layout`."""
        if channel_dim == -1:
            return _move(y, 1, -1).reshape(*positions, y.shape[1])
        return y.reshape(positions[0], y.shape[1], *positions[1:])

    def clouds(self, y: Tensor, num_points: int) -> Tensor:
        """See `Layout`."""
        return _move(y, 1, -1).reshape(-1, num_points, y.shape[1])

    def max_over_points(self, y: Tensor, num_points: int) -> tuple[Tensor, Tensor]:
        """See `Layout`."""
        values, indices = self._points_last(y, num_points).max(-1)
        return self._clouds_first(values), self._clouds_first(indices)

    def amax_over_points(self, y: Tensor, num_points: int) -> Tensor:
        """See `Layout`."""
        return self._clouds_first(self._points_last(y, num_points).amax(-1))

    def mean_over_points(self, y: Tensor, num_points: int) -> Tensor:
        """See `Layout`."""
        return self._clouds_first(self._points_last(y, num_points).mean(-1))

    @staticmethod
    def _points_last(y: Tensor, num_points: int) -> Tensor:
        return y.reshape(y.shape[0], y.shape[1], -1, num_points)

    @staticmethod
    def _clouds_first(values: Tensor) -> Tensor:
        values = _move(values, 1, -1).reshape(-1, values.shape[1])
        if not torch_internals.is_exporting():
            return values
        # The strides of merged axes are minima of sizes, which would become bounds of the sizes.
        return values.clone(memory_format=torch.contiguous_format)
