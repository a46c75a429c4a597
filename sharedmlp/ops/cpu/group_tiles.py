"""The first layer of set abstraction in tiles: its rows, and their gradients on the way back.

A row is `leaky_relu(a_j + W z_ij)`: a gathered row of the points, a product with three relative
coordinates, an activation. That is so little work that the rows are made again wherever they are
read: in memory they would cost more, and most of all the first touch of each of its pages.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sharedmlp.ops.cpu.sums import PartialSums
from sharedmlp.ops.cpu.tiles import Tile, split_into_chunks, tile_points
from sharedmlp.ops.cpu.workspace import workspace
from sharedmlp.ops.gather_rows import gather_rows


class GroupTiles:
    """The rows of all pairs, made a tile at a time.

    Args:
        a: `(B, N, D)`, of the points; `(1, 1, D)` if it is the same for all.
        relative: z, `(B, Q, K, P)`, of the pairs.
        weight: W, `(D, P)`.
        neighbors: `(B, Q, K)` int64, rows of `a` within each cloud.
        slope: Of the leaky ReLU, not negative: 0 for ReLU, 1 for the identity.
    """

    def __init__(
        self, a: Tensor, relative: Tensor, weight: Tensor, neighbors: Tensor, slope: float
    ) -> None:
        self.a = a
        self.weight = weight
        self.slope = slope
        self.is_shared = a.shape[:2] == (1, 1)
        self._num_clouds, self._num_centers, self.num_neighbors = neighbors.shape
        self._relative = relative.flatten(0, 2)
        self._neighbors = neighbors.flatten()
        self._transposed = weight.t().contiguous()

    @property
    def num_groups(self) -> int:
        """How many centers there are in all clouds."""
        return self._num_clouds * self._num_centers

    @cached_property
    def chunks(self) -> list[list[Tile]]:
        """All centers in tiles, in chunks of whole clouds: no two write gradients of one point."""
        # Four times the usual tile: there are many short calls for each.
        step = max(1, 4 * tile_points(self.a) // self.num_neighbors)
        points = slice(0, self.num_neighbors)
        chunks = []
        for clouds in split_into_chunks(self._num_clouds, self.a):
            chunks.append(tiles := list[Tile]())
            for first in range(clouds.start, clouds.stop):
                start, stop = first * self._num_centers, (first + 1) * self._num_centers
                for i in range(start, stop, step):
                    own = slice(i, min(i + step, stop))
                    lengths = [self.num_neighbors] * (own.stop - i)
                    tiles.append(Tile((own, points), own, 0, True, lengths))
        return chunks

    def rows(self, tile: Tile) -> Tensor:
        """Return the rows of a tile `(1, m, D)`, in the workspace."""
        relative = self.relative(self._relative, tile)
        out = workspace().rows.take(self.a, 1, len(relative), self.a.shape[2])
        rows = out[0]
        if self.is_shared:
            torch.addmm(self.a[0], relative, self._transposed, out=rows)
        else:
            torch.index_select(self.a[self.cloud(tile)], 0, self.neighbors(tile), out=rows)
            rows.addmm_(relative, self._transposed)
        if self.slope == 0:
            rows.relu_()
        elif self.slope != 1:
            functional.leaky_relu_(rows, self.slope)
        return out

    def relative(self, pairs: Tensor, tile: Tile) -> Tensor:
        """Return the part of `(M, P)` that belongs to a tile."""
        count = self.num_neighbors
        return pairs[tile.clouds.start * count : tile.clouds.stop * count]

    def coordinates(self, tile: Tile) -> Tensor:
        """Return the relative coordinates of a tile's pairs `(m, P)`."""
        return self.relative(self._relative, tile)

    def neighbors(self, tile: Tile) -> Tensor:
        """Return the points of a tile's pairs `(m,)`, rows within the cloud."""
        return self.relative(self._neighbors, tile)

    def cloud(self, tile: Tile) -> int:
        """Return the cloud of a tile."""
        return int(tile.clouds.start) // self._num_centers

    def first_rows(self) -> Tensor:
        """Return the row of each center's first neighbor, `(G, D)`."""
        return group_formula(
            self.a,
            self._relative[:: self.num_neighbors].view(self._num_clouds, self._num_centers, 1, -1),
            self.weight,
            self._neighbors[:: self.num_neighbors].view(self._num_clouds, self._num_centers, 1),
            self.slope,
        ).flatten(0, 2)


def group_formula(
    a: Tensor, relative: Tensor, weight: Tensor, neighbors: Tensor, slope: float
) -> Tensor:
    """Return all rows `(B, Q, K, D)` of `GroupTiles` by plain operations."""
    of_points = a[:, :, None] if a.shape[:2] == (1, 1) else gather_rows(a, neighbors)
    return functional.leaky_relu(of_points + relative @ weight.t(), slope)


class GroupGradients:
    """The gradients of a, z and W in the making.

    Args:
        tiles: What makes the rows.
        needs_relative: Whether z needs one.
    """

    def __init__(self, tiles: GroupTiles, needs_relative: bool) -> None:
        self._tiles = tiles
        own, num_chunks, width = workspace(), len(tiles.chunks), tiles.weight.shape
        self._weight = PartialSums(own.group_weight_sums, num_chunks, tiles.a, *reversed(width))
        self._bias = PartialSums(own.group_bias_sums, num_chunks, tiles.a, width[0])
        self._a = torch.zeros_like(tiles.a, memory_format=torch.contiguous_format)
        num_pairs = tiles.num_groups * tiles.num_neighbors if needs_relative else 0
        self._relative = tiles.a.new_empty(num_pairs, width[1])
        self._needs_relative = needs_relative

    def out(self, tile: Tile) -> Tensor:
        """Return where the gradient of a tile's rows `(m, D)` is to be written, for `add`."""
        count = len(tile.lengths) * self._tiles.num_neighbors
        return workspace().row_gradients.take(self._tiles.a, count, self._tiles.a.shape[2])

    def add(self, chunk: int, tile: Tile, gradient: Tensor, rows: Tensor) -> None:
        """Take the gradient `(m, D)` of a tile's rows `(1, m, D)` back, overwriting it."""
        tiles, rows = self._tiles, rows[0]
        if tiles.slope == 0:
            torch.ops.aten.threshold_backward(gradient, rows, 0, grad_input=gradient)
        elif tiles.slope != 1:
            torch.ops.aten.leaky_relu_backward(
                gradient, rows, tiles.slope, True, grad_input=gradient
            )
        if tiles.is_shared:
            self._bias[chunk].add_(gradient.sum(0))
        else:
            self._a[tiles.cloud(tile)].index_add_(0, tiles.neighbors(tile), gradient)
        self._weight[chunk].addmm_(tiles.coordinates(tile).t(), gradient)
        if self._needs_relative:
            torch.mm(gradient, tiles.weight, out=tiles.relative(self._relative, tile))

    def totals(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of a, of z `(M, P)` (empty if it needs none) and of W."""
        if self._tiles.is_shared:
            self._a.add_(self._bias.total())
        return self._a, self._relative, self._weight.total().t().contiguous()


def of_ends(found: tuple[Tensor, ...], relative: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return `GroupGradients.totals`, with z's in the shape of z, or None if it needs none."""
    of_a, of_relative, of_weight = found
    return of_a, of_relative.view(relative.shape) if len(of_relative) else None, of_weight


def ends_fake(
    a: Tensor, relative: Tensor, weight: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Return empty `GroupGradients.totals`; the last argument says whether z needs one."""
    pairs = relative.flatten(0, 2) if rest[-1] else relative.flatten(0, 2)[:0]
    return a.new_empty(a.shape), a.new_empty(pairs.shape), weight.new_empty(weight.shape)
