"""Squared distances in float64: exact for a few pairs, fast with a known error for all pairs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sharedmlp.ops.cpu.workspace import workspace

# Numbers of 8 bytes in one tile: a call on fewer does not hide what threads wait between calls, one
# on more leaves the caches that the cores of a CPU share; on a GPU, enough to keep it busy.
_TILE = {"cpu": 2**21}
_TILE_OF_ACCELERATORS = 2**24


def tile_size(device: torch.device) -> int:
    """Return how many numbers of 8 bytes one tile may have."""
    return _TILE.get(device.type, _TILE_OF_ACCELERATORS)


def sum_pairwise(values: Tensor, dim: int) -> Tensor:
    """Return the sum over a dimension, the second half added to the first until one is left.

    Every addition is an operation of its own, which IEEE 754 rounds in one way: `sum` adds in an
    order that depends on the device, the strides and the number of threads.
    """
    while (size := values.shape[dim]) > 1:
        half = size // 2
        total = values.narrow(dim, 0, half) + values.narrow(dim, half, half)
        if size % 2:
            total = torch.cat([total, values.narrow(dim, size - 1, 1)], dim)
        values = total
    return values.squeeze(dim)


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Return the squared distances of float64 rows `(..., C)`, the ones that decide all answers.

    The same bits on every device. Never smaller for a difference that is larger in every channel:
    so the distance of two boxes is a lower bound of their points' distances, without a margin.
    """
    difference = a - b
    return sum_pairwise(difference * difference, -1)


class Products(NamedTuple):
    """Factors whose matrix product approximates the squared distances of all pairs.

    With float32 factors they are divided by the largest squared norm of each cloud, so that neither
    large nor small clouds leave its range.

    Attributes:
        left: `(b, q, C + 2)`, of the queries.
        right: `(b, C + 2, n)`, of the points.
        error: `(b, q, 1)` float64, how far a product may be from `squared_distances`, divided as it
            is; in float32 room for one more rounding is left.
    """

    left: Tensor
    right: Tensor
    error: Tensor

    @classmethod
    def of(cls, points: Tensor, queries: Tensor, dtype: torch.dtype = torch.float64) -> Products:
        """Prepare points `(b, n, C)` and queries `(b, q, C)`, float64, for products in a dtype."""
        center = points.mean(1, keepdim=True)  # any point near them serves: the error is smaller
        points, queries = points - center, queries - center
        of_points, of_queries = (torch.linalg.vecdot(x, x)[..., None] for x in (points, queries))
        scale = torch.ones_like(center[..., :1])
        underflow = torch.full_like(scale, 1e-300)
        if dtype == torch.float32:
            largest = torch.maximum(of_points.amax(1), of_queries.amax(1)).clamp_(min=1e-300)
            scale = largest.rsqrt_()[..., None]
            of_points, of_queries = of_points.mul_(scale**2), of_queries.mul_(scale**2)
            underflow = 1e-30 + underflow * scale**2
        left = _join(queries, -2 * scale, torch.ones_like(of_queries), of_queries, dtype)
        right = _join(points, scale, of_points, torch.ones_like(of_points), dtype)
        # Sums of C + 2 products in any order, whose factors were rounded: at most C + 4 roundings,
        # half an epsilon each, of numbers whose magnitudes add up to 2 |x|^2 + 2 |y|^2. Once more
        # as many in float64 for the norms, the subtraction of the center, the division, and
        # `squared_distances` itself. The rest of 16 and 1.01 is what second order terms need.
        channels = points.shape[-1]
        roundings = (1.01 * channels + 16) * torch.finfo(dtype).eps
        roundings += (2 * channels + 32) * torch.finfo(torch.float64).eps
        error = roundings * (of_queries + of_points.amax(1, keepdim=True)) + underflow
        return cls(left, right.transpose(1, 2), error)

    def part(self, clouds: slice, queries: slice) -> Products:
        """Return those of some clouds and some of their queries."""
        return Products(self.left[clouds, queries], self.right[clouds], self.error[clouds, queries])

    def distances(self) -> Tensor:
        """Return `(b, q, n)`, off by at most `error`, possibly below zero.

        On a CPU it is in a buffer of this thread, which the next call overwrites.
        """
        shape = (*self.left.shape[:2], self.right.shape[2])
        return torch.bmm(self.left, self.right, out=workspace().products.take(self.left, *shape))


def _join(rows: Tensor, scale: Tensor, one: Tensor, other: Tensor, dtype: torch.dtype) -> Tensor:
    """Return rows `(b, m, C)` times a scale and two more columns, `(b, m, C + 2)`."""
    result = rows.new_empty((*rows.shape[:2], rows.shape[2] + 2), dtype=dtype)
    torch.mul(rows, scale, out=result[..., :-2])
    result[..., -2:-1] = one
    result[..., -1:] = other
    return result


def tiles(
    num_clouds: int, num_queries: int, num_points: int, size: int
) -> list[tuple[slice, slice]]:
    """Split clouds and queries so that no tile has more than `size` pairs, or one query.

    Small clouds are taken together, a large one is split by its queries.
    """
    clouds = max(1, size // max(1, num_queries * num_points))
    queries = max(1, min(num_queries, size // num_points))
    return [
        (slice(i, i + clouds), slice(j, j + queries))
        for i in range(0, num_clouds, clouds)
        for j in range(0, num_queries, queries)
    ]
