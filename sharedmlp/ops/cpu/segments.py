"""Clouds of different sizes, laid end to end: which row belongs to which, and the max over each.

A flat batch is ``rows (M, C)`` with the number of its cloud for each row; a padded batch with a
mask becomes one by leaving the padding out, so that statistics and max see real points alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sharedmlp.ops.cpu.linear_argmax import LinearArgmax
from sharedmlp.ops.cpu.linear_bn_relu import FoldedLinear, input_moments, linear_bn_relu_moments
from sharedmlp.ops.cpu.search import GATHERED, best_points, is_better, products_at
from sharedmlp.ops.cpu.sums import PartialSums, double_backward
from sharedmlp.ops.cpu.threads import run_jobs
from sharedmlp.ops.cpu.tiles import split_into_chunks, tile_points


class Segments(NamedTuple):
    """The rows of G clouds among M rows.

    Attributes:
        cloud: ``(M,)`` int64, the cloud of each row.
        order: ``(M,)`` int64, the rows sorted by cloud.
        counts: ``(G,)`` int64, rows of each cloud; may be zero.
        starts: ``(G,)`` int64, where the rows of each cloud begin in ``order``.
    """

    cloud: Tensor
    order: Tensor
    counts: Tensor
    starts: Tensor

    @classmethod
    def of(cls, cloud: Tensor, num_clouds: int) -> Segments:
        """Sorts rows by their clouds ``(M,)``, which are all in [0, num_clouds)."""
        counts = torch.bincount(cloud, minlength=num_clouds)
        starts = counts.cumsum(0) - counts
        return cls(cloud, cloud.argsort(stable=True), counts, starts)

    def empty(self) -> Tensor:
        """Returns which clouds have no rows, ``(G, 1)`` bool."""
        return (self.counts == 0)[:, None]

    def first_rows(self) -> Tensor:
        """Return the first row of each cloud `(G,)`; of one without rows, any row."""
        return self.order[self.starts.clamp(max=len(self.order) - 1)]

    def rows_of(self, clouds: Tensor, length: int) -> Tensor:
        """Returns the rows of g clouds ``(g, length)``; a shorter cloud repeats its last row."""
        steps = torch.arange(length, device=clouds.device)
        places = torch.minimum(steps, self.counts[clouds, None] - 1)
        return self.order[self.starts[clouds, None] + places]


def check_batch(x: Tensor, batch: Tensor | None, num_clouds: int | None) -> tuple[Tensor, int]:
    """Returns the cloud of each row of ``x (M, C)``, and how many clouds there are.

    Raises:
        ValueError: If they do not fit.
    """
    if batch is None or x.ndim != 2 or batch.shape != x.shape[:1] or batch.dtype != torch.int64:
        got = None if batch is None else f"{batch.dtype} {tuple(batch.shape)}"
        raise ValueError(
            "batch is an int64 tensor (M,) with the number of the cloud of each row of x (M, C), "
            f"got {got} for x {tuple(x.shape)}: lay the points of all clouds end to end, or pass a "
            "mask for padded clouds"
        )
    low, high = (int(batch.min()), int(batch.max())) if len(batch) else (0, -1)
    if low < 0 or (num_clouds is not None and high >= num_clouds):
        raise ValueError(
            f"batch holds numbers of clouds from 0 to num_clouds - 1, got {low} to {high} with "
            f"num_clouds={num_clouds}: pass the number of all clouds, empty ones included"
        )
    return batch, high + 1 if num_clouds is None else num_clouds


def check_mask(
    positions: tuple[int, ...], mask: Tensor, batch: Tensor | None, num_clouds: int | None
) -> None:
    """Checks that a mask fits an input with these sizes beside its channels.

    Raises:
        ValueError: If it does not.
    """
    if batch is not None or num_clouds is not None:
        raise ValueError(
            "a mask is for padded clouds, batch and num_clouds are for flat ones: pass either"
        )
    if mask.dtype != torch.bool or tuple(mask.shape) != positions or len(positions) < 2:
        raise ValueError(
            "mask is a bool tensor of the shape of x without its channels, True for points and "
            f"False for padding, with clouds and points: expected {positions}, got {mask.dtype} "
            f"{tuple(mask.shape)}"
        )


def segment_max(y: Tensor, segments: Segments) -> tuple[Tensor, Tensor]:
    """Returns the maxima of ``y (M, D)`` over each cloud, and the rows that won, both ``(G, D)``.

    By plain torch operations. A tie goes to the first row. A cloud without rows gets what row 0
    has: see :func:`fill_empty`.
    """
    where = segments.cloud[:, None].expand_as(y)
    shape = (len(segments.counts), y.shape[1])
    seen = y.detach()
    best = y.new_full(shape, -torch.inf).scatter_reduce(0, where, seen, "amax")
    rows = torch.arange(len(y), device=y.device)[:, None]
    rows = torch.where((seen == best[segments.cloud]) | seen.isnan(), rows, len(y))
    indices = rows.new_full(shape, len(y)).scatter_reduce(0, where, rows, "amin")
    indices = indices.masked_fill(segments.empty(), 0)
    return y.gather(0, indices), indices


def fill_empty(pooled: Tensor, indices: Tensor, segments: Segments) -> tuple[Tensor, Tensor]:
    """Gives clouds without rows the value 0 and the winner -1."""
    empty = segments.empty()
    return pooled.masked_fill(empty, 0), indices.masked_fill(empty, -1)


def segment_linear_argmax(
    clouds: Tensor,
    weight: Tensor,
    sign: Tensor,
    center: Tensor,
    *,
    moments: bool,
    search_dtype: torch.dtype,
    layer: FoldedLinear | None = None,
    segments: Segments,
) -> LinearArgmax:
    """Do what `linear_argmax` does, for the segments of `clouds (1, M, C)`.

    The indices are rows. A cloud without rows gets anything: see `fill_empty`. Moments, and the
    hidden layer, have a pass of their own over the rows: a tile here repeats the last row of its
    shorter clouds, which must not count twice.
    """
    rows = clouds[0]
    mean, second = torch.zeros_like(center), torch.zeros_like(weight[0].diag())
    if layer is not None:
        rows, mean, second = linear_bn_relu_moments(rows, layer, center)
    elif moments:
        mean, second = input_moments(rows, center)
    values, indices = _SegmentLinearArgmax.apply(  # type: ignore[no-untyped-call]
        rows, weight, sign, center, search_dtype, segments
    )
    return LinearArgmax(values, indices, mean, second)


class _SegmentLinearArgmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor,
        sign: Tensor,
        center: Tensor,
        search_dtype: torch.dtype,
        segments: Segments,
    ) -> tuple[Tensor, Tensor]:
        values, indices = _search(rows, weight * sign[:, None], center, search_dtype, segments)
        # The value without the sign; if the sign is zero, that of the first row.
        first = segments.first_rows()
        values = torch.where(sign == 0, (rows[first] - center) @ weight.t(), values * sign)
        ctx.mark_non_differentiable(indices)
        ctx.save_for_backward(rows, weight, center, indices)
        return values, indices

    @staticmethod
    def backward(ctx: Any, of_values: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, center, indices = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody will differentiate the gradients again

            def formula(rows: Tensor, weight: Tensor) -> tuple[Tensor]:
                return (((rows - center)[indices] * weight).sum(-1),)

            return (*double_backward(formula, (rows, weight), (of_values,)), *[None] * 4)
        of_rows = torch.zeros_like(rows) if ctx.needs_input_grad[0] else None
        step = max(1, GATHERED // weight.numel())
        parts = [slice(i, i + step) for i in range(0, len(indices), step)]
        jobs = split_into_chunks(len(parts), rows)
        of_weight = PartialSums("weights", len(jobs), weight, *weight.shape)

        def worker(numbers: Iterator[int]) -> None:
            for number in numbers:
                for part in parts[jobs[number]]:
                    own, sent = indices[part].flatten(), of_values[part, :, None]
                    won = (rows[own] - center).view(*sent.shape[:2], -1)
                    of_weight[number].add_(won.mul_(sent).sum(0))
                    if of_rows is not None:  # the clouds of other jobs have other rows
                        of_rows.index_add_(0, own, (weight * sent).flatten(0, 1))

        run_jobs(worker, len(jobs))
        return (of_rows, of_weight.total(), *[None] * 4)


def _search(
    rows: Tensor,
    signed_weight: Tensor,
    center: Tensor,
    search_dtype: torch.dtype,
    segments: Segments,
) -> tuple[Tensor, Tensor]:
    """Returns the largest products and their rows, ``(G, D)``; zeros where there are no rows."""
    values = rows.new_zeros(len(segments.counts), len(signed_weight))
    indices = torch.zeros_like(values, dtype=torch.int64)
    search_weight = signed_weight.to(search_dtype)
    size = tile_points(rows)
    tiles = _tiles(segments, size)
    jobs = split_into_chunks(len(tiles), rows)

    def worker(numbers: Iterator[int]) -> None:
        for number in numbers:
            for clouds, length in tiles[jobs[number]]:
                all_points = segments.rows_of(clouds, length)
                for start in range(0, length, size):
                    points = all_points[:, start : start + size]
                    centred = rows[points.flatten()] - center
                    best, where = best_points(search_weight, centred, len(points))
                    if search_dtype != rows.dtype:
                        best = products_at(centred, where, signed_weight)
                    where = points.gather(1, where)
                    if start > 0:
                        better = is_better(best, values[clouds])
                        where = torch.where(better, where, indices[clouds])
                        best = torch.where(better, best, values[clouds])
                    values[clouds], indices[clouds] = best, where

    run_jobs(worker, len(jobs))
    return values, indices


def _tiles(segments: Segments, size: int) -> list[tuple[Tensor, int]]:
    """Deals the clouds with rows into tiles of about equally long ones, the longest first.

    The last tile may reach into the clouds without rows: what is found there, nobody looks at.
    """
    lengths, clouds = segments.counts.sort(descending=True, stable=True)
    sizes: list[int] = lengths.tolist()
    tiles, first = [], 0
    while first < len(sizes) and sizes[first] > 0:
        last = first + max(1, size // sizes[first])
        tiles.append((clouds[first:last], sizes[first]))
        first = last
    return tiles
