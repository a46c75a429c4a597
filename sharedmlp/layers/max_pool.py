"""A shared MLP followed by the max over the points: PointNet's symmetric function."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor

from sharedmlp.layers.shared_mlp import SharedMLP


class SharedMLPMaxPool(SharedMLP):
    """A :class:`SharedMLP` followed by the max over the points of each cloud.

    Source: Qi et al. 2017, "PointNet", section 4.2, equation 1.

    Shape:
        - ``channel_dim=-1``: ``(..., N, in_channels) -> (..., out_channels)``.
        - ``channel_dim=1``: ``(B, in_channels, ..., N) -> (B, out_channels, ...)``.

    A tie gives the gradient to one winner, as ``torch.max(dim)`` does. The arguments, the
    state-dict keys and the errors are those of :class:`SharedMLP`; a cloud needs at least one
    point.
    """

    @overload
    def forward(self, x: Tensor) -> Tensor: ...

    @overload
    def forward(self, x: Tensor, return_indices: Literal[False]) -> Tensor: ...

    @overload
    def forward(self, x: Tensor, return_indices: Literal[True]) -> tuple[Tensor, Tensor]: ...

    def forward(self, x: Tensor, return_indices: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Applies the MLP and takes the max over the points.

        Args:
            x: The points or features; see the class for the shape.
            return_indices: Also returns which point won each channel, int64, of the output's shape.
        """
        positions = self._check_input(x)
        num_points, clouds = self._split_positions(x, positions)
        y = self._layout.enter(x, self.channel_dim)
        for layer in self.layers:
            y = layer(y)
        if not return_indices and not torch.is_grad_enabled():
            return self._restore(self._layout.amax_over_points(y, num_points), clouds)
        values, indices = self._layout.max_over_points(y, num_points)
        if return_indices:
            return self._restore(values, clouds), self._restore(indices, clouds)
        return self._restore(values, clouds)

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
