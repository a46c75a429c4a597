"""Tiles of points that fit the caches, and how they are split into chunks of work."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

# Points of a tile: on a CPU what is made of them then stays in the caches; on a GPU few large
# kernels beat many small ones.
_CPU_POINTS = 1024
_GPU_POINTS = 65536
# Sums over points are taken in at most this many parts and then added in order, so that neither the
# number of threads nor their timing changes a bit of the result.
_MAX_CHUNKS = 16


class Tile(NamedTuple):
    """All points of some clouds, or a range of the points of one.

    Attributes:
        part: Where it is in the first two axes of the tensor `(G, N, C)`, or `(1, M, C)`.
        clouds: The numbers of its clouds.
        start: The number of its first point in the one cloud; 0 for whole clouds.
        is_whole: Whether it holds all points of its clouds.
        lengths: How many points of each cloud it holds, the most first.
    """

    part: tuple[slice, slice]
    clouds: slice
    start: int
    is_whole: bool
    lengths: Sequence[int]

    def of(self, x: Tensor) -> Tensor:
        """Return the tile `(g, n, C)` of `x (G, N, C)`; `(1, m, C)` of `x (1, M, C)`."""
        return x[self.part]

    def rows(self, x: Tensor) -> Tensor:
        """Return the tile of a contiguous tensor as `(m, C)`."""
        return self.of(x).view(-1, x.shape[-1])

    def first_rows(self, device: torch.device) -> Tensor:
        """Return the first row of each cloud among the tile's, `(g, 1)` int64."""
        if self.lengths[0] == self.lengths[-1]:
            return torch.arange(len(self.lengths), device=device)[:, None] * self.lengths[0]
        counts = torch.tensor(self.lengths, device=device)
        return (counts.cumsum(0) - counts)[:, None]

    def pad(self, rows: Tensor) -> Tensor:
        """Return the rows `(m, C)` as `(g * n, C)`: a shorter cloud repeats its last row."""
        longest = self.lengths[0]
        if longest == self.lengths[-1]:
            return rows
        steps = torch.arange(longest, device=rows.device)
        last = torch.tensor(self.lengths, device=rows.device)[:, None] - 1
        return rows[(self.first_rows(rows.device) + torch.minimum(steps, last)).flatten()]

    def unpad(self, indices: Tensor) -> Tensor:
        """Return points `(g, D)` of padded clouds as points of the clouds themselves."""
        if self.lengths[0] == self.lengths[-1]:
            return indices
        last = torch.tensor(self.lengths, device=indices.device)[:, None] - 1
        return torch.minimum(indices, last)


def tile_points(x: Tensor) -> int:
    """Return how many points a tile has at most."""
    return _CPU_POINTS if x.device.type == "cpu" else _GPU_POINTS


def split_clouds(
    clouds: Tensor,
    lengths: Sequence[int] = (),
    size: int | None = None,
    *,
    whole_clouds: bool = True,
) -> list[list[Tile]]:
    """Split clouds into chunks, each a list of tiles.

    Args:
        clouds: `(G, N, C)`, or `(1, M, C)` with lengths.
        lengths: As in `Implementation.linear_argmax`.
        size: How many points a tile has at most.
        whole_clouds: Whether a cloud is never in two chunks.
    """
    size = size or tile_points(clouds)
    groups = _split_ragged(lengths, size) if lengths else _split_dense(clouds, size)
    if not whole_clouds:
        groups = [[tile] for tiles in groups for tile in tiles]
    return [
        [tile for tiles in groups[share] for tile in tiles]
        for share in split_into_chunks(len(groups), clouds)
    ]


def _split_dense(clouds: Tensor, size: int) -> list[list[Tile]]:
    num_clouds, num_points, _ = clouds.shape
    step = max(1, size // num_points)
    points = [slice(i, min(i + size, num_points)) for i in range(0, num_points, size)]
    groups = []
    for i in range(0, num_clouds, step):
        own = slice(i, min(i + step, num_clouds))
        groups.append(
            [
                Tile((own, p), own, p.start, len(points) == 1, [p.stop - p.start] * (own.stop - i))
                for p in points
            ]
        )
    return groups


def _split_ragged(lengths: Sequence[int], size: int) -> list[list[Tile]]:
    """Put clouds that follow each other, and so are about equally long, into one tile."""
    groups = []
    cloud = row = 0
    while cloud < len(lengths):
        longest = lengths[cloud]
        own = slice(cloud, min(cloud + max(1, size // longest), len(lengths)))
        if longest > size:
            points = [slice(i, min(i + size, longest)) for i in range(0, longest, size)]
            groups.append(
                [
                    Tile(
                        (slice(0, 1), slice(row + p.start, row + p.stop)),
                        own,
                        p.start,
                        False,
                        [p.stop - p.start],
                    )
                    for p in points
                ]
            )
            row += longest
        else:
            some = lengths[own]
            part = (slice(0, 1), slice(row, row + sum(some)))
            groups.append([Tile(part, own, 0, True, some)])
            row = part[1].stop
        cloud = own.stop
    return groups


def split_rows(rows: Tensor) -> list[list[slice]]:
    """Split `rows (M, C)` into chunks, each a list of slices."""
    count, step = len(rows), tile_points(rows)
    tiles = [slice(i, min(i + step, count)) for i in range(0, count, step)]
    return [tiles[share] for share in split_into_chunks(len(tiles), rows)]


def split_into_chunks(count: int, like: Tensor) -> list[slice]:
    """Split a number of pieces of work into chunks: several on a CPU, one on a GPU."""
    num_chunks = min(_MAX_CHUNKS if like.device.type == "cpu" else 1, count)
    bounds = [count * i // max(1, num_chunks) for i in range(num_chunks + 1)]
    return [slice(low, high) for low, high in pairwise(bounds)]
