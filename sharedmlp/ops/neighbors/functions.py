"""Neighbor search and sampling for tensors and arrays; see `sharedmlp.neighbors`."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from sharedmlp.ops.disable_compile import disable_compile
from sharedmlp.ops.neighbors import exported
from sharedmlp.ops.neighbors.distances import squared_distances, sum_pairwise
from sharedmlp.ops.neighbors.exported import EPSILON, exported_as
from sharedmlp.ops.neighbors.farthest import search_farthest
from sharedmlp.ops.neighbors.inputs import (
    Array,
    Pairs,
    split_clouds,
    to_batch,
    to_count,
    to_int,
    to_points,
    to_users,
)
from sharedmlp.ops.neighbors.search import search_ball, search_nearest


@exported_as(exported.k_nearest)
@disable_compile
def k_nearest(
    points: Array,
    k: int,
    queries: Array | None = None,
    *,
    batch: Array | None = None,
    queries_batch: Array | None = None,
) -> Array:
    """Find the k nearest points of every query, the nearest first.

    A tie goes to the lowest row. If a cloud has fewer than k points, the nearest is repeated at the
    end. Among the points themselves, every point is a neighbor of its own: the first one, unless
    an equal point has a lower row.

    Args:
        points: `(B, N, C)`, or `(N, C)` for one cloud or, with `batch`, for several.
        k: How many neighbors, at least 1.
        queries: `(B, Q, C)` or `(Q, C)`; the points themselves if missing.
        batch: `(N,)` int64, the cloud of each row of `points`, in any order; numbers may be left
            out.
        queries_batch: `(Q,)` int64, the cloud of each row of `queries`.

    Returns:
        `(B, Q, k)` int64, rows within each cloud, or `(Q, k)`, rows of `points`. What `points` is:
        a tensor on its device, or an array.

    Raises:
        TypeError: If an argument is of another type, or not of floating-point numbers.
        ValueError: If shapes do not fit, a number is not finite, `k` is less than 1, or a query has
            no point to choose from.
    """
    k = to_count(k, "k")
    if queries is None and queries_batch is not None:
        raise ValueError("queries_batch is for queries: pass them too, or batch alone")
    if queries is None:
        queries, queries_batch = points, batch
    pairs = Pairs.of(points, queries, batch, queries_batch, ("points", "queries"))
    with torch.no_grad():
        found = pairs.search(lambda p, q: search_nearest(p, q, k))
    return to_users(found, points)


@exported_as(exported.ball_query)
@disable_compile
def ball_query(
    points: Array,
    centers: Array,
    radius: float,
    k: int,
    *,
    batch: Array | None = None,
    centers_batch: Array | None = None,
) -> Array:
    """Find the first k points, by their rows, in a ball around every center (Qi et al. 2017b, 3.3).

    In the ball are the points whose squared distance is less than `radius * radius`, as in the
    authors' CUDA code. If there are fewer than k, the first is repeated at the end, as there. A
    ball without points gets the nearest point, repeated, where their code leaves row 0 and the
    port by yanx27 a row that does not exist.

    Args:
        points: `(B, N, C)`, or `(N, C)` for one cloud or, with `batch`, for several.
        centers: `(B, Q, C)` or `(Q, C)`.
        radius: More than 0, in the units of the points.
        k: How many neighbors at most, at least 1.
        batch: `(N,)` int64, the cloud of each row of `points`, in any order; numbers may be left
            out.
        centers_batch: `(Q,)` int64, the cloud of each row of `centers`.

    Returns:
        `(B, Q, k)` int64, rows within each cloud, or `(Q, k)`, rows of `points`. What `points` is:
        a tensor on its device, or an array.

    Raises:
        TypeError: If an argument is of another type, or not of floating-point numbers.
        ValueError: If shapes do not fit, a number is not finite, `k` is less than 1, the radius is
            not a positive number, or a center has no point to choose from.
    """
    k = to_count(k, "k")
    radius = float(radius)
    if not 0 < radius < math.inf:
        raise ValueError(f"radius has to be a positive finite number, got {radius}")
    pairs = Pairs.of(points, centers, batch, centers_batch, ("points", "centers"))
    with torch.no_grad():
        found = pairs.search(lambda p, c: search_ball(p, c, radius, k))
    return to_users(found, points)


@exported_as(exported.farthest_points)
@disable_compile
def farthest_points(
    points: Array,
    num_samples: int,
    *,
    start: int | None = None,
    seed: int | np.random.Generator | torch.Generator | None = None,
    batch: Array | None = None,
) -> Array:
    """Sample points one by one, each the farthest from those before (Qi et al. 2017b, 3.2).

    A tie goes to the lowest row. If no point is left that differs from all samples, the first
    sample is repeated: so for more samples than points, as in the authors' CUDA code.

    Args:
        points: `(B, N, C)`, or `(N, C)` for one cloud or, with `batch`, for several.
        num_samples: How many samples of each cloud, S, at least 1.
        start: The first sample, a row within each cloud; 0 if both it and the seed are missing.
        seed: Draws the first sample of each cloud, the same one on every device: a number, or a
            generator that is advanced.
        batch: `(N,)` int64, the cloud of each row of `points`, in any order; numbers may be left
            out.

    Returns:
        `(B, S)` int64, rows within each cloud; or `(S,)`, rows of `points`; with `batch`, S of each
        cloud that has points `(G * S,)`, in the order of the clouds' numbers: their clouds are
        `batch[rows]`. What `points` is: a tensor on its device, or an array.

    Raises:
        TypeError: If an argument is of another type, or not of floating-point numbers.
        ValueError: If shapes do not fit, a number is not finite, `num_samples` is less than 1, a
            cloud has no points or not so many that `start` is one, or both it and `seed` are given.
    """
    num_samples = to_count(num_samples, "num_samples")
    if start is not None and seed is not None:
        raise ValueError("start names the first sample and seed draws it: pass either")
    rows = to_points(points, "points")
    clouds = to_batch(batch, rows, "points")
    with torch.no_grad():
        return to_users(_sample(rows, clouds, num_samples, start, seed), points)


@exported_as(exported.interpolation_weights)
@disable_compile
def interpolation_weights(
    points: Array,
    centers: Array,
    k: int = 3,
    *,
    batch: Array | None = None,
    centers_batch: Array | None = None,
) -> tuple[Array, Array]:
    """Find the k nearest centers of every point and their weights (Qi et al. 2017b, eq. 2).

    Weights are 1 / (d^2 + 1e-8), d the distance, divided by their sum over the k centers. If there
    are fewer centers than k, the nearest is repeated at the end, with the weight 0, so that none
    counts twice. No gradient flows through the weights.

    Args:
        points: `(B, N, C)`, or `(N, C)`: where features are wanted.
        centers: `(B, Q, C)` or `(Q, C)`: where they are known.
        k: How many centers, at least 1.
        batch: `(N,)` int64, the cloud of each row of `points`, in any order; numbers may be left
            out.
        centers_batch: `(Q,)` int64, the cloud of each row of `centers`.

    Returns:
        Rows of the centers `(B, N, k)` or `(N, k)` int64, as `k_nearest` returns them, and weights
        of the same shape in the dtype of `points`.

    Raises:
        TypeError: If an argument is of another type, or not of floating-point numbers.
        ValueError: If shapes do not fit, a number is not finite, `k` is less than 1, or a point has
            no center to choose from.
    """
    k = to_count(k, "k")
    pairs = Pairs.of(centers, points, centers_batch, batch, ("centers", "points"))
    with torch.no_grad():
        found = pairs.search(lambda c, p: search_nearest(c, p, k))
        where: tuple[Tensor, ...] = (found,)
        if found.ndim == 3:
            where = (torch.arange(len(found), device=found.device)[:, None, None], found)
        distances = squared_distances(pairs.points[where], pairs.queries[..., None, :])
        weights = 1 / (distances + EPSILON)
        weights[..., 1:].masked_fill_(found[..., 1:] == found[..., :1], 0)
        weights /= sum_pairwise(weights, -1)[..., None]
    if isinstance(points, Tensor):
        return to_users(found, points), to_users(weights, points).to(points.dtype)
    return to_users(found, points), to_users(weights, points).astype(points.dtype)


def _sample(
    points: Tensor,
    batch: Tensor | None,
    num_samples: int,
    start: int | None,
    seed: int | np.random.Generator | torch.Generator | None,
) -> Tensor:
    """Do what `farthest_points` does, for float64 points and a checked batch vector."""
    members: list[Tensor] = []
    if batch is not None:
        members = list(split_clouds(batch).values())
        clouds = [points[rows] for rows in members]
    else:
        clouds = list(points if points.ndim == 3 else points[None])
    starts = _first_samples([len(cloud) for cloud in clouds], start, seed)
    found = search_farthest(clouds, starts, num_samples)
    if batch is not None:
        chosen = [rows[samples] for rows, samples in zip(members, found, strict=True)]
        return torch.cat([batch[:0], *chosen])
    if points.ndim == 2:
        return found[0]
    empty = torch.empty((0, num_samples), dtype=torch.int64, device=points.device)
    return torch.stack(found) if found else empty


def _first_samples(
    counts: list[int],
    start: int | None,
    seed: int | np.random.Generator | torch.Generator | None,
) -> list[int]:
    """Return the first sample of clouds of these sizes, checked."""
    if counts and min(counts) == 0:
        raise ValueError("points has no rows to choose from")
    if seed is None:
        first = 0 if start is None else to_int(start, "start")
        if counts and not 0 <= first < min(counts):
            raise ValueError(
                f"start is a row of every cloud, from 0 to {min(counts) - 1}, got {first}"
            )
        return [first] * len(counts)
    if isinstance(seed, torch.Generator):
        seed = int(torch.randint(2**62, (), generator=seed, device=seed.device))
    drawn: list[int] = np.random.default_rng(seed).integers(0, counts).tolist() if counts else []
    return drawn
