"""Rows of clouds, handed out in tiles, and what takes the gradients of such rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from sharedmlp.ops.cpu.tiles import Tile, split_clouds
from sharedmlp.ops.reference import first_rows


class RowTiles(Protocol):
    """Rows `(M, C)` of G clouds, in tiles."""

    @property
    def chunks(self) -> list[list[Tile]]:
        """The tiles, each chunk's one after another; a cloud is never in two chunks."""

    @property
    def num_groups(self) -> int:
        """How many clouds there are, G."""

    def rows(self, tile: Tile) -> Tensor:
        """Return the rows of a tile `(g, n, C)` or `(1, m, C)`; may be in the workspace."""

    def first_rows(self) -> Tensor:
        """Return the first row of each cloud, `(G, C)`."""


class RowGradients(Protocol):
    """What takes the gradients of such rows."""

    def out(self, tile: Tile) -> Tensor | None:
        """Return where to write the gradient of a tile `(m, C)`; None if nobody wants it."""

    def add(self, chunk: int, tile: Tile, gradient: Tensor, rows: Tensor) -> None:
        """Take what was written there, with the rows as `RowTiles.rows` returned them."""


class CloudTiles:
    """Rows that lie in memory: `(G, N, C)`, or `(1, M, C)` with lengths."""

    def __init__(
        self, clouds: Tensor, lengths: Sequence[int] = (), size: int | None = None
    ) -> None:
        """Split them into tiles of this size at most; see `split_clouds`."""
        self._clouds, self._lengths = clouds, lengths
        self.chunks = split_clouds(clouds, lengths, size)
        self.num_groups = len(lengths) or len(clouds)

    def rows(self, tile: Tile) -> Tensor:
        """Return a view of them."""
        return tile.of(self._clouds)

    def first_rows(self) -> Tensor:
        """Return the first row of each cloud, `(G, C)`."""
        if not self._lengths:
            return self._clouds[:, 0]
        return self._clouds[0, first_rows(self._clouds, self._lengths)]


class CloudGradients:
    """Gradients that lie in memory, as the clouds do.

    Attributes:
        total: The gradient of the clouds; without rows if nobody wants it.
    """

    def __init__(self, clouds: Tensor, is_needed: bool) -> None:
        like = clouds if is_needed else clouds[:0]
        self.total = torch.empty_like(like, memory_format=torch.contiguous_format)
        self._is_needed = is_needed

    def out(self, tile: Tile) -> Tensor | None:
        """Return their own place."""
        return tile.rows(self.total) if self._is_needed else None

    def add(self, chunk: int, tile: Tile, gradient: Tensor, rows: Tensor) -> None:
        """Nothing is left to do."""
