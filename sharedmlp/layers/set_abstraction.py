"""Set abstraction: a small PointNet in every neighborhood of a sample of the points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, TypeVar, cast, overload

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from sharedmlp.layers.arguments import refuse_channel_dim
from sharedmlp.layers.neighborhood_pool import NeighborhoodPool
from sharedmlp.ops.gate import autocast_dtype
from sharedmlp.ops.gather_rows import gather_rows
from sharedmlp.ops.groups import Groups
from sharedmlp.ops.neighbors import ball_query, farthest_points

T = TypeVar("T", int, float)


class SetAbstraction(nn.Module):
    """Sample centers, group the points around each, and pool a shared MLP over each group.

    The centers are farthest points, the groups the first `num_neighbors` points in a ball around
    each center. The shared MLP reads `[x_j - c_i, f_j]`, the coordinates of a neighbor relative to
    its center and then its features. With lists of radii, numbers of neighbors and channels, there
    is one group of each scale around every center, and the scales' features are concatenated.

    Source: Qi et al. 2017b, "PointNet++", sections 3.2 and 3.3 (multi-scale grouping). As in the
    authors' code, sampling starts at row 0, a ball with fewer points repeats the first of them, and
    more centers than different points repeat the first center. Deviations: no bias before a batch
    norm, which would subtract it again; a ball is never empty (`sharedmlp.neighbors.ball_query`);
    the coordinates come before the features with one scale and with several, where the authors'
    multi-scale layers have them after.

    With `fused`, and more than one layer, the wide part of the first layer runs on points instead
    of groups, its statistics exact, and no row of a group lies in memory (sharedmlp.ops.groups).

    Gradients reach the features and, through the relative coordinates, the points. Which points are
    sampled and grouped has none. `torch.export` and ONNX take the layer, `torch.jit.trace` does
    not.

    Shape:
        `points (B, N, D)`, D being 3 as a rule, and `features (B, N, C)` to centers `(B, Q, D)` and
        features `(B, Q, out_channels)`; Q is `num_centers`, or 1 for all points.

    Args:
        num_centers: How many centers, Q. None takes all points as one group around the origin: the
            coordinates stay as they are.
        radius: Of the balls, in the units of the points, one for each scale; None without centers.
        num_neighbors: How many points of a ball at most, one for each scale; None without centers.
        channels: Widths of the shared MLP, of which the first is D + C; with several scales a list
            of such widths for each.
        **options: Further arguments of each scale's `SharedMLPMaxPool`, such as `backend`, `norm`
            and `fused`, but not `channel_dim`.

    Raises:
        ValueError: If an argument, or the shape of an input, is not one of the above, if a
            coordinate is not finite, if a cloud has no points, or as `SharedMLPMaxPool`.
    """

    def __init__(
        self,
        num_centers: int | None,
        radius: float | Sequence[float] | None,
        num_neighbors: int | Sequence[int] | None,
        channels: Sequence[int] | Sequence[Sequence[int]],
        **options: Any,
    ) -> None:
        super().__init__()
        refuse_channel_dim("SetAbstraction", options)
        scales = _per_scale_channels(channels)
        self.num_centers = num_centers
        self.radii: tuple[float, ...] = ()
        self.num_neighbors: tuple[int, ...] = ()
        if num_centers is not None:
            _check_count(num_centers, "num_centers")
            self.radii = _per_scale(radius, len(scales), "radius")
            self.num_neighbors = _per_scale(num_neighbors, len(scales), "num_neighbors")
            for r in self.radii:
                if not 0 < r < math.inf:
                    raise ValueError(f"radius has to be a positive finite number, got {r}")
            for k in self.num_neighbors:
                _check_count(k, "num_neighbors")
        elif radius is not None or num_neighbors is not None or len(scales) != 1:
            raise ValueError(
                "num_centers=None groups all points: radius and num_neighbors are None and there "
                f"is one scale, got radius={radius}, num_neighbors={num_neighbors} and "
                f"{len(scales)} lists of channels"
            )
        self.pools = nn.ModuleList(NeighborhoodPool(widths, **options) for widths in scales)

    @property
    def in_channels(self) -> int:
        """Coordinates and features of a point together."""
        return self._scales()[0].in_channels

    @property
    def out_channels(self) -> int:
        """Features of a center, of all scales."""
        return sum(pool.out_channels for pool in self._scales())

    @overload
    def forward(
        self,
        points: Tensor,
        features: Tensor | None = None,
        return_indices: Literal[False] = False,
    ) -> tuple[Tensor, Tensor]: ...

    @overload
    def forward(
        self, points: Tensor, features: Tensor | None, return_indices: Literal[True]
    ) -> tuple[Tensor, Tensor, Tensor]: ...

    def forward(
        self,
        points: Tensor,
        features: Tensor | None = None,
        return_indices: bool = False,
    ) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]:
        """Return the centers and their features.

        Args:
            points: The coordinates `(B, N, D)`.
            features: `(B, N, C)`, or None for coordinates alone.
            return_indices: Also return which point won each channel of each center,
                `(B, Q, out_channels)` int64, rows within each cloud.
        """
        self._check_inputs(points, features)
        centers, neighborhoods = self._group(points)
        pooled = [
            self._pool(pool, points, features, centers, neighbors, return_indices)
            for pool, neighbors in zip(self._scales(), neighborhoods, strict=True)
        ]
        values = torch.cat([values for values, _ in pooled], -1)
        if not return_indices:
            return centers, values
        return centers, values, torch.cat([cast(Tensor, rows) for _, rows in pooled], -1)

    def _group(self, points: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """Return the centers `(B, Q, D)` and each scale's neighbors `(B, Q, K)`, None for all."""
        if self.num_centers is None:
            return torch.zeros_like(points[:, :1]), [None]
        centers = gather_rows(points, farthest_points(points, self.num_centers))
        return centers, [
            ball_query(points, centers, radius, k)
            for radius, k in zip(self.radii, self.num_neighbors, strict=True)
        ]

    def _pool(
        self,
        pool: NeighborhoodPool,
        points: Tensor,
        features: Tensor | None,
        centers: Tensor,
        neighbors: Tensor | None,
        return_indices: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the features of one scale `(B, Q, out_channels)`, and the points that won them."""
        if neighbors is not None:
            found = self._run_on_points(pool, points, features, centers, neighbors, return_indices)
            if found is not None:
                return found
        rows = points if features is None else torch.cat([points, features], -1)
        if neighbors is None:
            grouped = rows[:, None]
        else:
            # Zeros are subtracted from the features, which leaves them as they are.
            origin = pad(centers, (0, rows.shape[-1] - centers.shape[-1]))
            grouped = gather_rows(rows, neighbors) - origin[:, :, None]
        if not return_indices:
            return pool(grouped), None
        values, winners = pool(grouped, return_indices=True)
        return values, winners if neighbors is None else neighbors.gather(-1, winners)

    def _run_on_points(
        self,
        pool: NeighborhoodPool,
        points: Tensor,
        features: Tensor | None,
        centers: Tensor,
        neighbors: Tensor,
        return_indices: bool,
    ) -> tuple[Tensor, Tensor | None] | None:
        """Do what `_pool` does, the first layer on points; None if the groups have to be made."""
        must = pool.fused is True
        if pool.fused is False or type(pool) is not NeighborhoodPool or len(pool.layers) == 1:
            return None
        if not must and not pool.points_pay(neighbors, points.itemsize):
            return None
        if features is None or features.shape[-1] == 0:
            features, known = None, points
        else:
            known = features
        dtypes = {points.dtype, known.dtype} - {autocast_dtype(points)}
        if len(dtypes) > 1 or pool.points_reasons(known, points, must=must):
            return None
        groups = Groups(gather_rows(points, neighbors) - centers[:, :, None], neighbors)
        found = pool.pool_groups(groups, features, return_indices=return_indices)
        if found is None:
            return None
        values, positions = found
        return values, None if positions is None else neighbors.gather(-1, positions)

    def _check_inputs(self, points: Tensor, features: Tensor | None) -> None:
        shapes = [tuple(x.shape) for x in (points, features) if x is not None]
        if any(len(shape) != 3 or shape[:2] != shapes[0][:2] for shape in shapes):
            raise ValueError(
                "SetAbstraction expected points (B, N, D) and features (B, N, C) of the same B and "
                f"N, got {' and '.join(map(str, shapes))}: add a batch dimension with "
                "points.unsqueeze(0), or swap points and channels with features.transpose(1, 2)"
            )
        width = sum(shape[2] for shape in shapes)
        if width != self.in_channels:
            raise ValueError(
                f"SetAbstraction expected {self.in_channels} coordinates and features a point, got "
                f"{width} in {' and '.join(map(str, shapes))}: make the first of channels {width}, "
                "or pass the features that are missing"
            )

    def _scales(self) -> list[NeighborhoodPool]:
        return cast("list[NeighborhoodPool]", list(self.pools))

    def extra_repr(self) -> str:
        """The arguments that the submodules do not show."""
        if self.num_centers is None:
            return "num_centers=None"
        return (
            f"num_centers={self.num_centers}, radius={list(self.radii)}, "
            f"num_neighbors={list(self.num_neighbors)}"
        )


def _per_scale_channels(
    channels: Sequence[int] | Sequence[Sequence[int]],
) -> list[Sequence[int]]:
    """Return the widths of each scale.

    Raises:
        ValueError: If there is none, or the scales read inputs of different widths.
    """
    if all(isinstance(width, int) for width in channels):
        return [cast("Sequence[int]", channels)]
    scales = list(cast("Sequence[Sequence[int]]", channels))
    if any(isinstance(widths, int) or not widths or widths[0] != scales[0][0] for widths in scales):
        raise ValueError(
            "channels are widths such as [3, 64, 128], or one list of widths for each scale, all "
            f"with the same first width, got {channels!r}"
        )
    return scales


def _per_scale(value: T | Sequence[T] | None, num_scales: int, name: str) -> tuple[T, ...]:
    """Return the value of each scale.

    Raises:
        ValueError: If their number is not that of the scales.
    """
    values = tuple(value) if isinstance(value, Sequence) else (value,)
    if len(values) != num_scales or None in values:
        raise ValueError(
            f"{name} is one number for each of the {num_scales} lists of channels, got {value!r}"
        )
    return cast("tuple[T, ...]", values)


def _check_count(value: Any, name: str) -> None:
    """Refuse what is no positive integer."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} has to be an integer of 1 or more, got {value!r}")
