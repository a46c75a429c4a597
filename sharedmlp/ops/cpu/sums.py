"""Sums over points, taken in parts by the jobs and added in their order."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sharedmlp.ops.cpu.threads import thread_buffer


class PartialSums:
    """A sum over points, a part a job, so that no bit depends on the timing of threads."""

    def __init__(self, name: str, num_jobs: int, like: Tensor, *shape: int) -> None:
        size = torch.Size((num_jobs, *shape))
        self._parts = thread_buffer(name, size.numel(), like).view(size).zero_()

    def __getitem__(self, job: int) -> Tensor:
        """Return the part of a job."""
        return self._parts[job]

    def total(self) -> Tensor:
        """Return the sum of all parts."""
        return self._parts.sum(0)


class MomentSums:
    """The first two moments of rows in the making."""

    def __init__(self, num_jobs: int, like: Tensor, channels: int) -> None:
        self._first = PartialSums("first moments", num_jobs, like, channels)
        self._second = PartialSums("second moments", num_jobs, like, channels, channels)

    def add(self, job: int, centered: Tensor) -> None:
        """Add the rows `(M, C)` of a tile."""
        self._first[job].add_(centered.sum(0))
        self._second[job].addmm_(centered.t(), centered)

    def means(self, count: int) -> tuple[Tensor, Tensor]:
        """Return the moments of all `count` rows."""
        return self._first.total() / count, self._second.total() / count


def moment_gradients(of_mean: Tensor, of_second: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return u `(C,)` and A `(C, C)`: the moments send `u + A (row - center)` to a row."""
    return of_mean / count, (of_second + of_second.t()) / count


def plain_moments(rows: Tensor, center: Tensor) -> tuple[Tensor, Tensor]:
    """Return the moments as a formula, for derivatives of any order."""
    centered = rows - center
    return centered.mean(0), centered.t() @ centered / len(rows)


def double_backward(
    formula: Callable[..., tuple[Tensor, ...]],
    inputs: tuple[Tensor | None, ...],
    gradients: tuple[Tensor, ...],
) -> list[Tensor | None]:
    """Return the gradients of a formula's inputs such that they can be differentiated again."""
    # Aliases, as one input may come from another: its gradient must not count that one's too.
    inputs = tuple(None if t is None else t.view_as(t) for t in inputs)
    wanted = [t for t in inputs if t is not None and t.requires_grad]
    found = iter(
        torch.autograd.grad(
            formula(*inputs), wanted, gradients, create_graph=True, allow_unused=True
        )
    )
    return [next(found) if t is not None and t.requires_grad else None for t in inputs]
