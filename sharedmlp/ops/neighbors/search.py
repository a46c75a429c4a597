"""The searches over clouds of one size, by all pairs or by leaves: k nearest and balls."""

from __future__ import annotations

import torch
from torch import Tensor

from sharedmlp.ops.neighbors.distances import Products, squared_distances, tile_size, tiles
from sharedmlp.ops.neighbors.leaves import Leaves, leaves_pay, near_queries, nearest_in_leaves
from sharedmlp.ops.neighbors.nearest import nearest


def search_nearest(points: Tensor, queries: Tensor, k: int) -> Tensor:
    """Return the k nearest points `(b, q, k)`; if there are fewer, the nearest again.

    Args:
        points: `(b, n, C)` float64, finite, n at least 1.
        queries: `(b, q, C)` float64, finite.
        k: At least 1.
    """
    if queries.shape[0] * queries.shape[1] == 0:
        return points.new_empty((*queries.shape[:2], k), dtype=torch.int64)
    count = min(k, points.shape[1])
    if leaves_pay(points, queries):
        pairs = zip(points, queries, strict=True)
        found = torch.stack([nearest_in_leaves(p, q, count) for p, q in pairs])
    else:
        found = nearest(points, queries, count)
    return torch.cat([found, found[..., :1].expand(-1, -1, k - count)], -1)


def search_ball(points: Tensor, centers: Tensor, radius: float, k: int) -> Tensor:
    """Return the first k rows nearer than the radius `(b, q, k)`; if fewer, the first again.

    The arguments are those of `search_nearest`. Of an empty ball, the nearest point's row.
    """
    if centers.shape[0] * centers.shape[1] == 0:
        return points.new_empty((*centers.shape[:2], k), dtype=torch.int64)
    if leaves_pay(points, centers):
        pairs = zip(points, centers, strict=True)
        found = torch.stack([_ball_in_leaves(p, c, radius, k) for p, c in pairs])
    else:
        found = _ball(points, centers, radius, k)
    empty = found[..., 0] < 0
    for cloud in empty.any(-1).nonzero()[:, 0].tolist():
        alone = centers[cloud, empty[cloud]]
        found[cloud, empty[cloud]] = search_nearest(points[cloud, None], alone[None], 1)[0]
    return found


def _ball_in_leaves(points: Tensor, centers: Tensor, radius: float, k: int) -> Tensor:
    """Do what `_ball` does, for one cloud `(n, C)` and its centers `(q, C)`."""
    result = points.new_full((len(centers), k), -1, dtype=torch.int64)
    leaves = Leaves(points)
    for rows, some, distances in near_queries(leaves, centers):
        chosen = distances < radius * radius
        if bool(chosen.any()):
            candidates = leaves.join(chosen)
            found = _ball(points[candidates][None], some[None], radius, k)[0]
            result[rows] = torch.where(found < 0, found, candidates[found])
    return result


def _ball(points: Tensor, centers: Tensor, radius: float, k: int) -> Tensor:
    """Return the first k rows in each ball `(b, q, k)`; of an empty one -1."""
    num_clouds, num_points = points.shape[:2]
    squared = radius * radius
    result = points.new_empty((num_clouds, centers.shape[1], k), dtype=torch.int64)
    products = Products.of(points, centers)
    for some, part in tiles(num_clouds, centers.shape[1], num_points, tile_size(points.device)):
        piece = products.part(some, part)
        distances = piece.distances()
        inside = distances < squared
        doubtful = distances.sub_(squared).abs_() <= 2 * piece.error
        if bool(doubtful.any()):
            inside[doubtful] = _nearer(points[some], centers[some, part], doubtful, squared)
        result[some, part] = _first_rows(inside, k)
    return result


def _nearer(points: Tensor, centers: Tensor, pairs: Tensor, squared: float) -> Tensor:
    """Return which of some pairs, True in a bool `(b, q, n)`, are nearer, in their order."""
    step = max(1, tile_size(points.device) // points.shape[-1])
    parts = [part.unbind(1) for part in torch.split(pairs.nonzero(), step)]
    distances = [squared_distances(points[i, row], centers[i, j]) for i, j, row in parts]
    return torch.cat(distances) < squared


def _first_rows(inside: Tensor, k: int) -> Tensor:
    """Return the first k rows that are True `(b, q, k)`; if fewer, the first again, or -1."""
    counts = inside.sum(-1).flatten()
    ball, row = inside.flatten(0, 1).nonzero(as_tuple=True)
    rank = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[ball]
    kept = rank < k
    result = row.new_full((len(counts), k), -1)
    result[ball[kept], rank[kept]] = row[kept]
    result = torch.where(result < 0, result[:, :1], result)
    return result.view(*inside.shape[:2], k)
