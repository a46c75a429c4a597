"""Tiles of points that fit the caches, and how they are dealt to jobs."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from sharedmlp.ops.cpu.threads import thread_buffer

# Points of a tile: on a CPU what is made of them then stays in the caches; on a GPU few large
# kernels beat many small ones.
_CPU_POINTS = 1024
_GPU_POINTS = 65536
# Sums over points are taken in at most this many parts and then added in order, so that neither the
# number of threads nor their timing changes a bit of the result.
_MAX_JOBS = 16
_SAMPLE = 1024


class Tile(NamedTuple):
    """Points ``start`` to ``stop`` of clouds ``first`` to ``last``: of one, or all of several."""

    first: int
    last: int
    start: int
    stop: int

    def of(self, clouds: Tensor) -> Tensor:
        """Returns the tile ``(g, n, C)`` of ``clouds (G, N, C)``."""
        return clouds[self.first : self.last, self.start : self.stop]

    def rows(self, clouds: Tensor) -> Tensor:
        """Returns the tile of contiguous clouds as ``(g * n, C)``."""
        return self.of(clouds).view(-1, clouds.shape[-1])


def tile_points(clouds: Tensor) -> int:
    """Points in a tile, at most."""
    return _CPU_POINTS if clouds.device.type == "cpu" else _GPU_POINTS


def tile_buffer(name: str, like: Tensor, channels: int) -> Tensor:
    """Returns memory of this thread's own for the rows of any tile, ``(tile_points, channels)``."""
    return thread_buffer(name, tile_points(like) * channels, like).view(-1, channels)


def split_clouds(clouds: Tensor, size: int | None = None) -> list[list[Tile]]:
    """Deals ``clouds (G, N, C)`` to jobs, each a list of tiles of ``size`` points at most."""
    num_clouds, num_points, _ = clouds.shape
    size = size or tile_points(clouds)
    step = max(1, size // num_points)
    clouds_of = [(i, min(i + step, num_clouds)) for i in range(0, num_clouds, step)]
    points_of = [(i, min(i + size, num_points)) for i in range(0, num_points, size)]
    return [
        [Tile(*some, *points) for some in clouds_of[share] for points in points_of]
        for share in split_into_chunks(len(clouds_of), clouds)
    ]


def split_rows(rows: Tensor) -> list[list[slice]]:
    """Deals ``rows (M, C)`` to jobs, each a list of slices."""
    count, step = len(rows), tile_points(rows)
    tiles = [slice(i, min(i + step, count)) for i in range(0, count, step)]
    return [tiles[share] for share in split_into_chunks(len(tiles), rows)]


def split_into_chunks(count: int, like: Tensor) -> list[slice]:
    """Deals a number of pieces of work to jobs: several on a CPU, one on a GPU."""
    num_jobs = min(_MAX_JOBS if like.device.type == "cpu" else 1, count)
    bounds = [count * i // max(1, num_jobs) for i in range(num_jobs + 1)]
    return [slice(low, high) for low, high in pairwise(bounds)]


def sample_rows(clouds: Tensor) -> Tensor:
    """Returns about a thousand of the M rows of ``clouds (G, N, C)``, without their gradients.

    They are evenly spaced. Their mean m' is near enough to the mean m for moments around m' to
    keep their digits: whatever the rows are, k of them have ``(m' - m)^2 <= M / k * variance``.
    """
    num_clouds, num_points, _ = clouds.shape
    count = num_clouds * num_points
    numbers = torch.arange(0, count, max(1, count // _SAMPLE), device=clouds.device)
    return clouds.detach()[numbers // num_points, numbers % num_points]
