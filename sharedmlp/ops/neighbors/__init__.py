"""Neighbor search and sampling of points; public as `sharedmlp.neighbors`."""

from sharedmlp.ops.neighbors.functions import (
    ball_query,
    farthest_points,
    interpolation_weights,
    k_nearest,
)

__all__ = ["ball_query", "farthest_points", "interpolation_weights", "k_nearest"]
