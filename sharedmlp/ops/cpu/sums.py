"""Sums over points, taken in parts by the chunks and added in their order."""

from __future__ import annotations

from torch import Tensor

from sharedmlp.ops.cpu.workspace import Buffer, workspace


class PartialSums:
    """A sum over points, a part a chunk, so that no bit depends on the timing of threads.

    Args:
        buffer: Where the parts are kept; of the thread that calls.
        num_chunks: How many parts there are.
        like: A tensor of the sum's dtype and device.
        *shape: The sum's shape.
    """

    def __init__(self, buffer: Buffer, num_chunks: int, like: Tensor, *shape: int) -> None:
        self._parts = buffer.take(like, num_chunks, *shape).zero_()

    def __getitem__(self, chunk: int) -> Tensor:
        """Return the part of a chunk."""
        return self._parts[chunk]

    def total(self) -> Tensor:
        """Return the sum of all parts."""
        return self._parts.sum(0)


class MomentSums:
    """The sums that make the first two moments of rows."""

    def __init__(self, num_chunks: int, like: Tensor, channels: int) -> None:
        own = workspace()
        self._first = PartialSums(own.first_moments, num_chunks, like, channels)
        self._second = PartialSums(own.second_moments, num_chunks, like, channels, channels)

    def add(self, chunk: int, centered: Tensor) -> None:
        """Add the rows `(m, C)` of a tile."""
        self._first[chunk].add_(centered.sum(0))
        self._second[chunk].addmm_(centered.t(), centered)

    def means(self, count: int) -> tuple[Tensor, Tensor]:
        """Return the moments of all `count` rows."""
        return self._first.total() / count, self._second.total() / count


def moment_gradients(of_mean: Tensor, of_second: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return u `(C,)` and A `(C, C)`: the moments send `u + A (row - center)` to a row."""
    return of_mean / count, (of_second + of_second.t()) / count
