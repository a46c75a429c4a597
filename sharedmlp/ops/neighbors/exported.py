"""The searches as plain operations: torch.export records them, ONNX has them, torch.func maps them.

Nothing depends on the values or makes a number of a size, so a recorded search takes any number of
clouds and of points. Distances are in float64, as in the searches themselves, and in up to eight
channels the same bits. What differs: in more channels, distances that agree to about 14 digits are
ties; an exported search for the k nearest may take another of several points at the k-th distance
than the lowest row (ONNX Runtime takes the lowest); memory holds all pairs, 8 bytes each and more;
nothing is checked.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from sharedmlp.ops import torch_internals
from sharedmlp.ops.gather_rows import gather_rows
from sharedmlp.ops.neighbors.distances import sum_pairwise

P = ParamSpec("P")
R = TypeVar("R")

# With more channels products of matrices take less time and memory than differences.
_MAX_EXACT = 8
# Added to squared distances before their reciprocals are taken, as the field's code does.
EPSILON = 1e-8
_NO_ROW = 2**62


def exported_as(plain: Callable[..., Any]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a decorator that shows torch.export and torch.func another function than a search.

    Args:
        plain: The other function; it takes no batch vectors and no seed.
    """

    def decorate(search: Callable[P, R]) -> Callable[P, R]:
        @wraps(search)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if not (torch_internals.is_exporting() or _are_transformed(*args, *kwargs.values())):
                return search(*args, **kwargs)
            given = {name: value for name, value in kwargs.items() if value is not None}
            unknown = sorted(given.keys() & {"batch", "queries_batch", "centers_batch", "seed"})
            if unknown:
                raise RuntimeError(
                    f"{search.__name__} cannot be exported or transformed with "
                    f"{' and '.join(unknown)}: pass clouds of one size (B, N, C), or rows that "
                    "were found before"
                )
            return plain(*args, **given)  # type: ignore[no-any-return]

        return call

    return decorate


def _are_transformed(*arguments: object) -> bool:
    """Return whether a transform of torch.func sees a search with these arguments."""
    if torch.compiler.is_compiling() or not torch_internals.transforms_are_active():
        return False
    return any(isinstance(argument, Tensor) for argument in arguments)


def k_nearest(points: Tensor, k: int, queries: Tensor | None = None) -> Tensor:
    """Do what `sharedmlp.neighbors.k_nearest` does."""
    distances = _distances(points, points if queries is None else queries)
    # Columns of no point, for clouds of fewer than k.
    distances = pad(distances, (0, k - 1), value=torch.inf)
    if torch_internals.is_exporting():
        found = distances.topk(k, largest=False).indices
    else:  # which ONNX does not have
        found = distances.sort(stable=True, dim=-1).indices[..., :k]
    return torch.where(found < points.shape[-2], found, found[..., :1])


def ball_query(points: Tensor, centers: Tensor, radius: float, k: int) -> Tensor:
    """Do what `sharedmlp.neighbors.ball_query` does."""
    distances = _distances(points, centers)
    rows = torch.arange(points.shape[-2], device=points.device)
    inside = torch.where(distances < radius * radius, rows, _NO_ROW)
    found = pad(inside, (0, k - 1), value=_NO_ROW).topk(k, largest=False).values
    first = found[..., :1]
    first = torch.where(first < _NO_ROW, first, distances.argmin(-1, keepdim=True))
    return torch.where(found < _NO_ROW, found, first)


def interpolation_weights(points: Tensor, centers: Tensor, k: int = 3) -> tuple[Tensor, Tensor]:
    """Do what `sharedmlp.neighbors.interpolation_weights` does."""
    if points.ndim == 2:
        found, weights = interpolation_weights(points[None], centers[None], k)
        return found[0], weights[0]
    found = k_nearest(centers, k, points)
    near = gather_rows(centers.detach().double(), found)
    distances = sum_pairwise((near - points.detach().double()[:, :, None]).square(), -1)
    # Divided by it: ONNX Runtime drops an addend of 1e-8 as if it were zero.
    weights = 1 / (distances / EPSILON + 1)
    # Of fewer centers than k the nearest is repeated.
    repeated = (found == found[..., :1]) & (torch.arange(k, device=found.device) > 0)
    weights = weights.masked_fill(repeated, 0)
    return found, (weights / sum_pairwise(weights, -1)[..., None]).to(points.dtype)


def farthest_points(points: Tensor, num_samples: int, *, start: int = 0) -> Tensor:
    """Do what `sharedmlp.neighbors.farthest_points` does, as one loop (ONNX: Scan)."""
    if points.ndim == 2:
        return farthest_points(points[None], num_samples, start=start)[0]
    rows = points.detach().double()
    first = torch.zeros_like(rows[:, 0, 0], dtype=torch.int64) + start
    if num_samples == 1:
        return first[:, None]

    def step(
        remaining: Tensor, current: Tensor, _: Tensor, rows: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        sample = rows.gather(1, current[:, None, None].expand(-1, -1, rows.shape[-1]))
        remaining = torch.minimum(remaining, sum_pairwise((rows - sample).square(), -1))
        distance, following = remaining.max(1)
        # At distance 0 it is all the same which sample follows in the state.
        return remaining, following, torch.where(distance > 0, following, start)

    remaining = torch.full_like(rows[..., 0], torch.inf)
    steps = torch.arange(num_samples - 1, device=points.device)
    if torch_internals.is_exporting():
        *_, found = torch_internals.record_scan(step, (remaining, first), steps, (rows,))
        return torch.cat([first[:, None], found.movedim(0, 1)], 1)
    samples, current = [first], first
    for _ in range(num_samples - 1):
        remaining, current, sample = step(remaining, current, steps, rows)
        samples.append(sample)
    return torch.stack(samples, 1)


def _distances(points: Tensor, queries: Tensor) -> Tensor:
    """Return the squared distances `(..., Q, N)` in float64."""
    points, queries = points.detach().double(), queries.detach().double()
    if points.shape[-1] <= _MAX_EXACT:
        # The channels are added as `sum_pairwise` adds them, without a tensor of all of them.
        planes = [
            (queries[..., :, None, i] - points[..., None, :, i]).square()
            for i in range(points.shape[-1])
        ]
        while len(planes) > 1:
            half = len(planes) // 2
            planes = [planes[i] + planes[half + i] for i in range(half)] + planes[2 * half :]
        return planes[0]
    center = points.mean(-2, keepdim=True)  # the nearer the points, the smaller the error
    points, queries = points - center, queries - center
    norms = (queries * queries).sum(-1)[..., :, None] + (points * points).sum(-1)[..., None, :]
    return norms - 2 * (queries @ points.mT)
