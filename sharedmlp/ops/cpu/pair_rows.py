"""The pairs of centers and neighbors as rows: an activation of the sum of their two ends."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sharedmlp.ops.cpu.sums import double_backward
from sharedmlp.ops.cpu.threads import run_jobs, thread_buffer
from sharedmlp.ops.custom_op import custom_op

# Numbers of the rows that are made at a time, which then stay in the cache.
_CHUNK = 65536


def pair_rows(a: Tensor, b: Tensor, neighbors: Tensor, slope: float) -> Tensor:
    """Return `leaky_relu(a_j + b_i)` of all pairs, `(B, Q, K, D)`.

    Args:
        a: `(B, N, D)`, of the sources.
        b: `(B, Q, D)`, of the centers.
        neighbors: `(B, Q, K)` int64, rows of `a` within each cloud.
        slope: Of the leaky ReLU, not negative: 0 for ReLU, 1 for the identity.
    """
    rows: Tensor = _pair_rows(a, b, neighbors, slope)
    return rows


def _chunks(neighbors: Tensor, channels: int) -> list[slice]:
    """Return the centers, as many at a time as a chunk holds."""
    num_centers, num_neighbors = neighbors.shape[1:]
    step = max(1, _CHUNK // (num_neighbors * channels))
    return [slice(start, start + step) for start in range(0, num_centers, step)]


def _formula(neighbors: Tensor, slope: float, a: Tensor, b: Tensor) -> tuple[Tensor]:
    clouds = torch.arange(len(a), device=a.device)[:, None, None]
    return (functional.leaky_relu(a[clouds, neighbors] + b[:, :, None], slope),)


def _forward(a: Tensor, b: Tensor, neighbors: Tensor, slope: float) -> Tensor:
    rows = a.new_empty(*neighbors.shape, a.shape[2])
    chunks = _chunks(neighbors, a.shape[2])

    def worker(jobs: Iterator[int]) -> None:
        for job in jobs:
            cloud, number = divmod(job, len(chunks))
            some = chunks[number]
            out = rows[cloud, some]
            torch.index_select(a[cloud], 0, neighbors[cloud, some].flatten(), out=out.flatten(0, 1))
            out.add_(b[cloud, some, None])
            if slope != 1:
                functional.leaky_relu_(out, slope)

    run_jobs(worker, len(a) * len(chunks))
    return rows


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    a, b, neighbors, ctx.slope = inputs
    ctx.save_for_backward(a, b, neighbors, output)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    a, b, neighbors, rows = ctx.saved_tensors
    if torch.is_grad_enabled():  # somebody will differentiate the gradients again
        formula = partial(_formula, neighbors, ctx.slope)
        found = double_backward(formula, (a, b), (gradient,))
        return (*found, None, None)
    return (*_gradient(a, neighbors, rows, gradient, ctx.slope), None, None)


def _gradient_forward(
    a: Tensor, neighbors: Tensor, rows: Tensor, gradient: Tensor, slope: float
) -> tuple[Tensor, Tensor]:
    """Return the gradients of a and b: the sums over the pairs of each source and each center."""
    of_a = torch.zeros_like(a, memory_format=torch.contiguous_format)
    of_b = a.new_empty(*neighbors.shape[:2], a.shape[2])
    chunks = _chunks(neighbors, a.shape[2])

    def worker(jobs: Iterator[int]) -> None:
        for cloud in jobs:
            for some in chunks:
                received, made = gradient[cloud, some], rows[cloud, some]
                if slope != 1:
                    out = thread_buffer("gradients of pairs", made.numel(), made).view_as(made)
                    below = made.new_zeros(()) if slope == 0 else received * slope
                    received = torch.where(made > 0, received, below, out=out)
                torch.sum(received, 1, out=of_b[cloud, some])
                of_a[cloud].index_add_(
                    0, neighbors[cloud, some].flatten(), received.reshape(-1, a.shape[2])
                )

    run_jobs(worker, len(a))
    return of_a, of_b


def _gradient_fake(
    a: Tensor, neighbors: Tensor, rows: Tensor, gradient: Tensor, slope: float
) -> tuple[Tensor, Tensor]:
    return a.new_empty(a.shape), a.new_empty(*neighbors.shape[:2], a.shape[2])


_gradient = custom_op("pair_rows_backward", _gradient_forward, _gradient_fake)
_pair_rows = custom_op(
    "pair_rows",
    _forward,
    lambda a, b, neighbors, slope: a.new_empty(*neighbors.shape, a.shape[2]),
    _setup,
    _backward,
)
