"""The k nearest of all points, by products of tiles whose error is known.

Approximate distances, of which only those below a bound of the k-th are looked at, give an order
that is certain except where two of them are closer than their error. Only those few pairs are
computed again by `squared_distances`. So float32 products are good enough on a CPU, where they take
half of the time; a query with more candidates than expected is searched again in float64.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sharedmlp.ops.cpu.threads import run_chunks
from sharedmlp.ops.neighbors.distances import Products, squared_distances, tile_size, tiles

# Bits of a float64 without its sign: below zero is rounding alone.
_MAGNITUDE = 2**63 - 1
# The bits of infinity: it stands where a query has fewer candidates than others.
_PADDING = 0x7FF0000000000000
# With float32, so many times k are too many candidates, with some more where k is small.
_MOST_CANDIDATES = 4
_EXTRA = 8
# Groups of columns whose minima bound the k-th smallest: at least this many times k, which leaves
# 1.2 k candidates, in a number that fills the registers of a CPU.
_GROUPS = 3
_GROUPS_STEP = 64
# Beyond this many channels the bound of float32's error would not hold.
_MOST_FLOAT32_CHANNELS = 2**17


def nearest(points: Tensor, queries: Tensor, k: int) -> Tensor:
    """Return the k nearest points `(b, q, k)` int64 of every query, the nearest first.

    By `squared_distances`, ties by the lowest row, whatever the number of threads.

    Args:
        points: `(b, n, C)` float64, finite, n at least k.
        queries: `(b, q, C)` float64.
        k: At least 1.
    """
    num_clouds, num_points = points.shape[:2]
    result = points.new_empty((num_clouds, queries.shape[1], k), dtype=torch.int64)
    parts = tiles(num_clouds, queries.shape[1], num_points, tile_size(points.device))
    dtype = _product_dtype(points)
    limit = _MOST_CANDIDATES * (k + _EXTRA)

    def worker(numbers: Iterator[int]) -> None:
        for number in numbers:
            some, part = parts[number]
            clouds, tile, found = points[some], queries[some, part], result[some, part]
            rows, crowded = _search(clouds, tile, k, dtype, limit)
            found.copy_(rows)
            for cloud in crowded.any(-1).nonzero()[:, 0].tolist():
                # Equal queries have equal answers, and many ties come from many equal points.
                at = crowded[cloud]
                several, inverse = torch.unique(tile[cloud, at], dim=0, return_inverse=True)
                found[cloud, at] = _search_crowded(clouds[cloud, None], several, k)[inverse]

    if points.device.type == "cpu":
        run_chunks(worker, len(parts))
    else:
        worker(iter(range(len(parts))))
    return result


def kth_distance(points: Tensor, queries: Tensor, k: int) -> Tensor:
    """Return an upper bound of every query's k-th smallest squared distance, `(b, q)`.

    The arguments are those of `nearest`.
    """
    result = queries.new_empty(queries.shape[:2])
    size = tile_size(points.device)
    for some, part in tiles(len(points), queries.shape[1], points.shape[1], size):
        products = Products.of(points[some], queries[some, part])
        result[some, part] = (_bound_kth(products.distances(), k) + products.error)[..., 0]
    return result


def _product_dtype(points: Tensor) -> torch.dtype:
    """Return the dtype of the products, float32 if they are sure to be computed in it."""
    # Others have float32 products that really are of bfloat16, by an environment variable.
    if points.device.type != "cpu" or not torch.backends.mkl.is_available():  # type: ignore[no-untyped-call]
        return torch.float64
    try:
        full = torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # devices have settings of their own
        full = False
    return torch.float32 if full and points.shape[-1] <= _MOST_FLOAT32_CHANNELS else torch.float64


def _search_crowded(points: Tensor, queries: Tensor, k: int) -> Tensor:
    """Return the k nearest `(q, k)` in one cloud `(1, n, C)`, for queries `(q, C)`."""
    num_points = points.shape[1]
    parts = tiles(1, len(queries), num_points, tile_size(points.device))
    found = [
        _search(points, queries[None, part], k, torch.float64, num_points)[0][0]
        for _, part in parts
    ]
    return torch.cat(found)


def _search(
    points: Tensor, queries: Tensor, k: int, dtype: torch.dtype, limit: int
) -> tuple[Tensor, Tensor]:
    """Search one tile.

    Args:
        points: `(b, n, C)`.
        queries: `(b, q, C)`.
        k: As in `nearest`.
        dtype: That of the products.
        limit: How many candidates a query may have.

    Returns:
        The k nearest `(b, q, k)`, and which queries have too many candidates, bool `(b, q)`: their
        rows are to be found in another way.
    """
    shape, num_points = queries.shape[:2], points.shape[1]
    products = Products.of(points, queries, dtype)
    distances, error = products.distances().flatten(0, 1), products.error.flatten(0, 1)
    # Whoever may be among the k nearest is not farther than this, by products.
    candidates = _not_beyond(distances, _bound_kth(distances, k) + 2 * error)
    query = candidates // num_points
    counts = torch.bincount(query, minlength=len(distances))
    crowded = counts > limit
    if bool(crowded.any()):
        kept = ~crowded[query]
        candidates, query = candidates[kept], query[kept]
        counts = counts.masked_fill(crowded, 0)
    width = max(k, int(counts.amax()))
    # As integers, nonnegative floats keep their order. The last bits make room for the row.
    bits = max(1, (num_points - 1).bit_length())
    row_mask = 2**bits - 1
    keys = distances.flatten().index_select(0, candidates).double().view(torch.int64)
    keys = (keys & (_MAGNITUDE & ~row_mask)) | (candidates - query * num_points)
    first = torch.arange(len(counts), device=keys.device) * width - (counts.cumsum(0) - counts)
    place = torch.arange(len(keys), device=keys.device) + first[query]
    table = keys.new_full((len(counts), width), _PADDING)
    table.view(-1).scatter_(0, place, keys)
    table = _sort(table)
    rows = table & row_mask
    near = (table & ~row_mask).view(torch.float64)
    close = ~(near.diff(dim=-1) > 2 * error + near[:, :-1] * 2.0 ** (bits - 51))
    close &= ~crowded[:, None]
    # Beyond the k-th only those matter that are not certain to be farther than it.
    close[:, k - 1 :] = close[:, k - 1 :].cumprod(-1).bool()
    if bool(close.any()):
        _sort_exactly(points, queries, rows, close)
    return rows[:, :k].view(*shape, k), crowded.view(shape)


def _bound_kth(distances: Tensor, k: int) -> Tensor:
    """Return an upper bound of the k-th smallest along the last dimension, `(..., 1)`.

    It is the k-th smallest of the minima of groups, or of all if there are not enough for groups.
    """
    groups = -(-_GROUPS * k // _GROUPS_STEP) * _GROUPS_STEP
    size = distances.shape[-1] // groups
    if size > 1:
        grouped = distances[..., : size * groups]
        distances = grouped.view(*grouped.shape[:-1], size, groups).amin(-2)
    if distances.device.type != "cpu":
        return distances.kthvalue(k, keepdim=True).values
    return torch.from_numpy(np.partition(distances.numpy(), k - 1, axis=-1)[..., k - 1 : k])


def _not_beyond(distances: Tensor, reach: Tensor) -> Tensor:
    """Return the flat indices of distances `(m, n)` that are at most `(m, 1)`, ascending.

    To round the reach to their dtype is among the roundings in `Products.error`.
    """
    reach = reach.to(distances.dtype)
    if distances.device.type != "cpu":
        return (distances <= reach).flatten().nonzero()[:, 0]
    return torch.from_numpy(np.flatnonzero(distances.numpy() <= reach.numpy()))


def _sort(keys: Tensor) -> Tensor:
    """Return integers sorted along the last dimension."""
    if keys.device.type != "cpu":
        return keys.sort(-1).values
    return torch.from_numpy(np.sort(keys.numpy(), axis=-1))


def _sort_exactly(points: Tensor, queries: Tensor, rows: Tensor, close: Tensor) -> None:
    """Sort candidates of which neighbors are too close to tell apart, in place.

    Args:
        points: `(b, n, C)`.
        queries: `(b, q, C)`.
        rows: `(b * q, w)`, the candidates of each query.
        close: `(b * q, w - 1)` bool, whether a candidate and the one after it are to be compared.
    """
    after = functional.pad(close, (1, 0))
    places = (after | functional.pad(close, (0, 1))).flatten().nonzero()[:, 0]
    run = (~after.flatten()[places]).cumsum(0)
    query, row = places // rows.shape[1], rows.flatten()[places]
    cloud, query_of_cloud = query // queries.shape[1], query % queries.shape[1]
    distances = []
    step = max(1, tile_size(points.device) // points.shape[-1])
    for i in range(0, len(places), step):
        some = cloud[i : i + step]
        pairs = points[some, row[i : i + step]], queries[some, query_of_cloud[i : i + step]]
        distances.append(squared_distances(*pairs))
    # By run, then by distance, then by row.
    order = row.argsort(stable=True)
    order = order[torch.cat(distances)[order].argsort(stable=True)]
    order = order[run[order].argsort(stable=True)]
    rows.view(-1)[places] = row[order]
