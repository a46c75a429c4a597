"""The k nearest of all points, by products of tiles whose error is known."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sharedmlp.ops.neighbors.distances import Products, squared_distances, tile_size, tiles

_INT64_MAX = 2**63 - 1
# Candidates beyond the k nearest: with them, a tie at the last place is usually settled at once.
_EXTRA = 8
# By how much the candidates grow while ties are not settled.
_GROWTH = 4


def nearest(points: Tensor, queries: Tensor, k: int) -> Tensor:
    """Return the k nearest points `(b, q, k)` int64 of every query, the nearest first.

    By `squared_distances`, ties by the lowest row. Candidates are selected by approximate distances
    with their rows packed into their last bits; where two of them are too close to tell apart, the
    candidates are sorted again by `squared_distances`.

    Args:
        points: `(b, n, C)` float64, finite, n at least k.
        queries: `(b, q, C)` float64.
        k: At least 1.
    """
    num_clouds, num_points = points.shape[:2]
    result = points.new_empty((num_clouds, queries.shape[1], k), dtype=torch.int64)
    products = Products.of(points, queries)
    for some, part in tiles(num_clouds, queries.shape[1], num_points, tile_size(points.device)):
        rows, close, unsettled = _candidates(products.part(some, part), k, k + _EXTRA)
        result[some, part] = rows[..., :k]
        if bool(close.any()):
            cloud, query = close.nonzero(as_tuple=True)
            at = (cloud + some.start, query + part.start)
            result[at] = _sort_exactly(points, at[0], queries[at], rows[cloud, query], k)
        if bool(unsettled.any()):
            for cloud in unsettled.any(-1).nonzero()[:, 0].tolist():
                at = (cloud + some.start, unsettled[cloud].nonzero()[:, 0] + part.start)
                # Equal queries have equal answers, and many ties come from many equal points.
                several, inverse = torch.unique(queries[at], dim=0, return_inverse=True)
                found = _widen(points[at[0]], several, k, _GROWTH * (k + _EXTRA))
                result[at] = found[inverse]
    return result


def kth_distance(points: Tensor, queries: Tensor, k: int) -> Tensor:
    """Return an upper bound of every query's k-th smallest squared distance, `(b, q)`.

    The arguments are those of `nearest`.
    """
    products = Products.of(points, queries)
    parts = tiles(len(points), queries.shape[1], points.shape[1], tile_size(points.device))
    result = torch.empty_like(products.error[..., 0])
    for some, part in parts:
        result[some, part] = products.part(some, part).distances().kthvalue(k).values
    return result + products.error[..., 0]


def _candidates(products: Products, k: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return candidates, which queries have to sort them exactly, and which need more of them.

    Returns:
        Rows `(b, q, w)`, w at most `width`, sorted by approximate distance; bool `(b, q)` for
        queries whose k nearest are among them in an order that is not certain; bool `(b, q)` for
        queries whose k nearest may not all be among them.
    """
    num_points = products.right.shape[-1]
    width = min(width, num_points)
    bits = max(1, (num_points - 1).bit_length())
    row_mask = 2**bits - 1
    keys = products.distances().view(torch.int64)
    # As integers, nonnegative floats keep their order. The sign goes too: below zero is rounding.
    keys &= _INT64_MAX & ~row_mask
    keys |= torch.arange(num_points, device=keys.device)
    keys = _smallest(keys, width)
    rows = keys & row_mask
    near = (keys & ~row_mask).view(torch.float64)
    doubt = 2 * products.error + near[..., :-1] * 2.0 ** (bits - 51)
    certain = near.diff(dim=-1) > doubt
    sorted_right = certain[..., :k].all(-1)
    if width == num_points:
        return rows, ~sorted_right, torch.zeros_like(sorted_right)
    complete = certain[..., k - 1 :].any(-1)
    return rows, complete & ~sorted_right, ~complete


def _smallest(keys: Tensor, count: int) -> Tensor:
    """Return the smallest of distinct integers along the last dimension, sorted."""
    if keys.device.type != "cpu":
        return keys.topk(count, largest=False).values
    array = keys.numpy()
    if count < array.shape[-1]:
        array.partition(count - 1, axis=-1)
    return torch.from_numpy(np.sort(array[..., :count], axis=-1))


def _widen(points: Tensor, queries: Tensor, k: int, width: int) -> Tensor:
    """Return the k nearest `(m, k)` in one cloud `(n, C)`, for queries `(m, C)` with many ties."""
    num_points = len(points)
    if width >= num_points:
        rows = torch.arange(num_points, device=points.device).expand(len(queries), -1)
        return _sort_exactly(points[None], rows.new_zeros(len(queries)), queries, rows, k)
    products = Products.of(points[None], queries[None])
    result = queries.new_empty((len(queries), k), dtype=torch.int64)
    for some, part in tiles(1, len(queries), num_points, tile_size(points.device)):
        rows, close, unsettled = (x[0] for x in _candidates(products.part(some, part), k, width))
        of_part = queries[part]
        cloud = torch.zeros_like(close, dtype=torch.int64)
        found = _sort_exactly(points[None], cloud, of_part, rows, k)
        if bool(unsettled.any()):
            found[unsettled] = _widen(points, of_part[unsettled], k, _GROWTH * width)
        result[part] = found
    return result


def _sort_exactly(points: Tensor, cloud: Tensor, queries: Tensor, rows: Tensor, k: int) -> Tensor:
    """Return the k nearest `(m, k)` among candidates, ties by the lowest row.

    Args:
        points: `(b, n, C)`.
        cloud: `(m,)`, the cloud of each query.
        queries: `(m, C)`.
        rows: `(m, w)`, the candidates.
        k: At most w.
    """
    result = rows.new_empty((len(rows), k))
    step = max(1, tile_size(points.device) // (rows.shape[1] * points.shape[-1]))
    for i in range(0, len(rows), step):
        part = slice(i, i + step)
        lowest_first = rows[part].sort(-1).values
        distances = squared_distances(points[cloud[part, None], lowest_first], queries[part, None])
        order = distances.sort(dim=-1, stable=True).indices[:, :k]
        result[part] = lowest_first.gather(1, order)
    return result
