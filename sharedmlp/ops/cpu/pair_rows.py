"""The pairs of centers and neighbors as rows: an activation of the sum of their two ends."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sharedmlp.ops.cpu.huge_pages import empty_large
from sharedmlp.ops.cpu.scaled_activation import leaky_relu_gradient
from sharedmlp.ops.cpu.threads import run_chunks
from sharedmlp.ops.cpu.workspace import workspace
from sharedmlp.ops.custom_op import custom_op
from sharedmlp.ops.gather_rows import gather_rows
from sharedmlp.ops.reference import double_backward

# Numbers of the rows that are made at a time, which then stay in the cache.
_TILE = 262144


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


def _tiles(neighbors: Tensor, channels: int) -> list[slice]:
    """Return the centers, as many at a time as a tile has."""
    num_centers, num_neighbors = neighbors.shape[1:]
    step = max(1, _TILE // (num_neighbors * channels))
    return [slice(start, start + step) for start in range(0, num_centers, step)]


def _formula(neighbors: Tensor, slope: float, a: Tensor, b: Tensor) -> tuple[Tensor]:
    return (functional.leaky_relu(gather_rows(a, neighbors) + b[:, :, None], slope),)


def _forward(a: Tensor, b: Tensor, neighbors: Tensor, slope: float) -> Tensor:
    rows = empty_large(a, *neighbors.shape, a.shape[2])
    tiles = _tiles(neighbors, a.shape[2])

    def worker(chunks: Iterator[int]) -> None:
        for chunk in chunks:
            cloud, number = divmod(chunk, len(tiles))
            tile = tiles[number]
            out = rows[cloud, tile]
            torch.index_select(a[cloud], 0, neighbors[cloud, tile].flatten(), out=out.flatten(0, 1))
            out.add_(b[cloud, tile, None])
            if slope != 1:
                functional.leaky_relu_(out, slope)

    run_chunks(worker, len(a) * len(tiles))
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
    of_a = empty_large(a, *a.shape)
    of_b = empty_large(a, *neighbors.shape[:2], a.shape[2])
    tiles = _tiles(neighbors, a.shape[2])

    def worker(chunks: Iterator[int]) -> None:
        for cloud in chunks:
            of_a[cloud].zero_()
            for tile in tiles:
                received, made = gradient[cloud, tile], rows[cloud, tile]
                if slope != 1:
                    out = workspace().pair_gradients.take(made, *made.shape)
                    leaky_relu_gradient(received, made, slope, out)
                    received = out
                torch.sum(received, 1, out=of_b[cloud, tile])
                of_a[cloud].index_add_(
                    0, neighbors[cloud, tile].flatten(), received.reshape(-1, a.shape[2])
                )

    run_chunks(worker, len(a))
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
