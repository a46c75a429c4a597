"""Edge convolution: DGCNN's layer on the edges between points and their neighbors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from sharedmlp.layers.arguments import check_can_fuse, check_fused
from sharedmlp.layers.neighborhood_pool import NeighborhoodPool
from sharedmlp.layers.pointwise import empty_input, set_negative_slope
from sharedmlp.ops.gate import watcher_reason
from sharedmlp.ops.gather_rows import gather_rows
from sharedmlp.ops.neighborhoods import split_edge_layer
from sharedmlp.ops.neighbors import k_nearest


class EdgeConv(nn.Module):
    """A shared MLP on the edges between points and their neighbors, and the max over the neighbors.

    An edge from point i to its neighbor j is `[x_j - x_i, x_i]`. The first layer is linear in both
    ends, so it runs on the points instead of the edges wherever nobody can notice, in training with
    batch norm's exact statistics, and with one layer nothing of the size of the edges is made
    (sharedmlp.ops.neighborhoods). The numbers, the parameters and the state-dict keys are those of
    a `SharedMLPMaxPool` on the edges, which is also what runs otherwise. A tie gives the gradient
    to the neighbor that comes first, as `Tensor.max` does.

    Source: Wang et al. 2019, "Dynamic Graph CNN for Learning on Point Clouds", section 3.1,
    equation 8, and section 4.1 for k = 20, batch norm and leaky ReLU; the slope of 0.2 is that of
    the authors' program.

    Shape:
        `(B, N, C) -> (B, N, D)`, or `(B, Q, D)` for Q centers of their own.

    Args:
        channels: Widths, `[C, D]` or `[C, H, D]`: that of the points, then those of the layers. The
            first layer has 2 C input channels.
        k: How many neighbors to find for each point, itself included (the nearest is repeated in
            smaller clouds); unused if they are given.
        backend: As in `SharedMLP`.
        norm: As in `SharedMLP`.
        activation: As in `SharedMLP`, one for all layers.
        negative_slope: Of `"leaky_relu"`.
        neighbors_in: Where neighbors are found: among all `"features"`, as in DGCNN, or among the
            first three, `"coordinates"`.
        bias: As in `SharedMLP`.
        norm_kwargs: As in `SharedMLP`.
        fused: `"auto"` takes the fused path if nobody can notice and it pays, True always does and
            makes `not_supported_reasons` an error, False takes the plain path.

    Raises:
        RuntimeError: If neighbors are to be found while the module is traced by torch.jit.
        ValueError: If an argument, or the shape of an input, is not one of the above, if neighbors
            are to be found among points that are not finite, or if `fused=True` cannot be.
    """

    def __init__(
        self,
        channels: Sequence[int],
        k: int = 20,
        *,
        backend: str = "linear",
        norm: str | None = "batch",
        activation: str | None = "leaky_relu",
        negative_slope: float = 0.2,
        neighbors_in: Literal["features", "coordinates"] = "features",
        bias: bool | None = None,
        norm_kwargs: Mapping[str, Any] | None = None,
        fused: bool | Literal["auto"] = "auto",
    ) -> None:
        super().__init__()
        check_fused(fused)
        if neighbors_in not in ("features", "coordinates"):
            raise ValueError(
                f'neighbors_in is "features" or "coordinates", got {neighbors_in!r}: to find '
                "neighbors elsewhere, pass them to the call"
            )
        if k < 1:
            raise ValueError(f"k is a positive number of neighbors, got {k}")
        if not channels:
            raise ValueError("channels are those of the points and of each layer, such as [3, 64]")
        first, *rest = channels
        self.channels = (first, *rest)
        self.k = k
        self.neighbors_in = neighbors_in
        self.fused = fused
        self.pool = NeighborhoodPool(
            [2 * first, *rest],
            backend=backend,
            norm=norm,
            activation=activation,
            bias=bias,
            norm_kwargs=norm_kwargs,
            fused=False if fused is False else "auto",
        )
        set_negative_slope(self.pool, negative_slope)
        if fused is True:
            check_can_fuse(fused, self.pool.structural_reasons())

    @property
    def in_channels(self) -> int:
        """Width of the points."""
        return self.channels[0]

    @property
    def out_channels(self) -> int:
        """Width of the output."""
        return self.channels[-1]

    @overload
    def forward(
        self,
        x: Tensor,
        neighbors: Tensor | None = None,
        centers: Tensor | None = None,
        return_indices: Literal[False] = False,
    ) -> Tensor: ...

    @overload
    def forward(
        self,
        x: Tensor,
        neighbors: Tensor | None,
        centers: Tensor | None,
        return_indices: Literal[True],
    ) -> tuple[Tensor, Tensor]: ...

    def forward(
        self,
        x: Tensor,
        neighbors: Tensor | None = None,
        centers: Tensor | None = None,
        return_indices: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Apply the MLP to all edges and take the max over the neighbors of each point.

        Args:
            x: Points or features `(B, N, C)`.
            neighbors: `(B, N, K)` int64, or `(B, Q, K)` with centers: the neighbors of each point
                or center, as rows of x within each cloud; a row may come several times. None finds
                the k nearest points of each point.
            centers: `(B, Q, C)`, if the neighborhoods are not those of the points themselves.
            return_indices: Also returns which point won each channel, int64, of the output's shape:
                rows of x within each cloud.
        """
        self._check_points(x, "(B, N, {c})")
        if neighbors is None:
            if centers is not None:
                raise ValueError("EdgeConv expected neighbors (B, Q, K) along with centers")
            neighbors = self._find_neighbors(x)
        if centers is None:
            centers = x
        else:
            self._check_points(centers, "centers (B, Q, {c})")
        _check_neighbors(neighbors, x, centers)
        _check_rows(neighbors, x)
        self._check_count(neighbors)
        found = self._run_on_points(x, centers, neighbors, return_indices)
        if found is None:
            found = self._run_on_edges(x, centers, neighbors, return_indices)
        values, indices = found
        if not return_indices:
            return values
        assert indices is not None
        return values, indices

    def not_supported_reasons(self, x: Tensor | None = None) -> list[str]:
        """Say in words why this module, as it is now, takes the plain path; empty if it need not.

        A fused path that is only too slow for a small input is no reason here.

        Args:
            x: An input to ask for; None asks for any on the module's own device and of its dtype.
        """
        if x is None:
            x = empty_input(self, self.in_channels)
        return self._reasons(x, x, must=True)

    def extra_repr(self) -> str:
        """Return the arguments that the submodules do not show."""
        return f"{list(self.channels)}, k={self.k}, neighbors_in={self.neighbors_in!r}"

    def _find_neighbors(self, x: Tensor) -> Tensor:
        points = x if self.neighbors_in == "features" else x[..., :3]
        return k_nearest(points.detach(), self.k)

    def _run_on_edges(
        self, x: Tensor, centers: Tensor, neighbors: Tensor, return_indices: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Make the edges `(B, Q, K, 2C)` and apply the pool to them."""
        ends = centers[:, :, None].expand(*neighbors.shape, -1)
        edges = torch.cat([gather_rows(x, neighbors) - ends, ends], -1)
        if not return_indices:
            return self.pool(edges), None
        values, positions = self.pool(edges, return_indices=True)
        return values, neighbors.gather(2, positions)

    def _run_on_points(
        self, x: Tensor, centers: Tensor, neighbors: Tensor, return_indices: bool
    ) -> tuple[Tensor, Tensor | None] | None:
        """Apply the layer to the points; None if the plain path is to run."""
        if self.fused is False:
            return None
        if self.fused == "auto" and not self.pool.points_pay(neighbors, x.itemsize):
            return None
        reasons = self._reasons(x, centers, must=self.fused is True)
        check_can_fuse(self.fused, reasons)
        if reasons:
            return None
        found = self.pool.pool_points(
            split_edge_layer, x, centers, neighbors, return_indices=return_indices
        )
        if found is None:
            return None
        values, positions = found
        return values, None if positions is None else neighbors.gather(2, positions)

    def _reasons(self, x: Tensor, centers: Tensor, *, must: bool) -> list[str]:
        if type(self.pool) is not NeighborhoodPool:
            return [f"a {type(self.pool).__name__} stands in place of its pool"]
        return self.pool.points_reasons(x, centers, must=must)

    def _check_points(self, x: Tensor, shape: str) -> None:
        if x.ndim != 3 or x.shape[-1] != self.in_channels or x.numel() == 0:
            raise ValueError(
                f"EdgeConv expected {shape.format(c=self.in_channels)} with at least one cloud and "
                f"one point, got {tuple(x.shape)}: the first of channels is the width of the "
                "points, and x.unsqueeze(0) makes a batch of one cloud"
            )

    def _check_count(self, neighbors: Tensor) -> None:
        if self.pool.training and self.pool._has_batch_norm and neighbors.numel() < 2:
            raise ValueError(
                "EdgeConv in training mode needs at least two edges for batch norm, got neighbors "
                f"{tuple(neighbors.shape)}: use a larger batch, call eval(), or choose another norm"
            )


def _check_neighbors(neighbors: Tensor, x: Tensor, centers: Tensor) -> None:
    # Of `shape`, because `len` would fix a size that torch.export leaves open.
    num_clouds, num_centers = x.shape[0], centers.shape[1]
    if centers.shape[0] != num_clouds:
        raise ValueError(
            f"EdgeConv expected centers of the {num_clouds} clouds of x, got {centers.shape[0]}"
        )
    if neighbors.ndim != 3 or neighbors.shape[:2] != (num_clouds, num_centers):
        raise ValueError(
            f"EdgeConv expected neighbors ({num_clouds}, {num_centers}, K) int64, K for each "
            f"point, or for each center with centers, got {tuple(neighbors.shape)}"
        )
    if neighbors.dtype != torch.int64 or neighbors.shape[2] == 0:
        raise ValueError(
            f"EdgeConv expected neighbors ({num_clouds}, {num_centers}, K) int64 with K at least "
            f"1, got {tuple(neighbors.shape)} of {neighbors.dtype}"
        )


def _check_rows(neighbors: Tensor, x: Tensor) -> None:
    if x.device.type != "cpu" or torch.compiler.is_compiling() or watcher_reason() is not None:
        return  # who records operations cannot decide by their values
    low, high = neighbors.aminmax()
    if low < 0 or high >= x.shape[1]:
        raise ValueError(
            f"EdgeConv expected neighbors to be rows of {x.shape[1]} points, 0 to "
            f"{x.shape[1] - 1}, got {int(low)} to {int(high)}: rows are counted within each cloud"
        )
