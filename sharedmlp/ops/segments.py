"""Clouds of different sizes: which row belongs to which, and the max over each.

A flat batch is `rows (M, C)` with the number of its cloud for each row; a padded batch with a mask
becomes one by leaving the padding out, so that statistics and max see real points alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Segments:
    """The rows of G clouds among M rows.

    Attributes:
        cloud: `(M,)` int64, the cloud of each row.
        counts: `(G,)` int64, rows of each cloud; may be zero.
        lengths: The counts that are not zero, the largest first.
    """

    def __init__(self, cloud: Tensor, num_clouds: int) -> None:
        """Sort rows by their clouds `(M,)`, which are all in [0, num_clouds)."""
        self.cloud = cloud
        self.counts = torch.bincount(cloud, minlength=num_clouds)
        counts, by_length = self.counts.sort(descending=True, stable=True)
        self.lengths: list[int] = [count for count in counts.tolist() if count]
        rank = torch.empty_like(by_length)
        rank[by_length] = torch.arange(num_clouds, device=cloud.device)
        # A cloud without rows is given what another has: see `fill_empty`.
        self._rank = rank.clamp(max=max(0, len(self.lengths) - 1))
        self._order = rank[cloud].argsort(stable=True)
        self._starts = (counts.cumsum(0) - counts)[: len(self.lengths), None]

    def sort(self, rows: Tensor) -> Tensor:
        """Lay the clouds of `rows (M, C)` one after another, the longest first: `(1, M, C)`."""
        laid: Tensor = _Permute.apply(rows, self._order)  # type: ignore[no-untyped-call]
        return laid[None]

    def restore(self, values: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Take maxima of the sorted clouds, and their points, to the clouds' own order and rows."""
        rows = self._order[self._starts + indices]
        return values.index_select(0, self._rank), rows[self._rank]

    def fill_empty(self, values: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Give clouds without rows the value 0 and the row -1."""
        empty = (self.counts == 0)[:, None]
        return values.masked_fill(empty, 0), rows.masked_fill(empty, -1)


class _Permute(torch.autograd.Function):
    """Rows in another order; the gradient is the inverse, and not a sum as of an index."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor) -> Tensor:
        ctx.save_for_backward(order)
        return rows.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (order,) = ctx.saved_tensors
        inverse = torch.empty_like(order)
        inverse[order] = torch.arange(len(order), device=order.device)
        return _Permute.apply(gradient, inverse), None  # type: ignore[no-untyped-call]


def segment_max(y: Tensor, segments: Segments) -> tuple[Tensor, Tensor]:
    """Return the maxima of `y (M, D)` over each cloud, and their rows, both `(G, D)`.

    By plain operations. Of equal rows the first is taken. A cloud without rows gets what row 0 has:
    see `Segments.fill_empty`.
    """
    where = segments.cloud[:, None].expand_as(y)
    shape = (len(segments.counts), y.shape[1])
    seen = y.detach()
    best = y.new_full(shape, -torch.inf).scatter_reduce(0, where, seen, "amax")
    rows = torch.arange(len(y), device=y.device)[:, None]
    rows = torch.where((seen == best[segments.cloud]) | seen.isnan(), rows, len(y))
    indices = rows.new_full(shape, len(y)).scatter_reduce(0, where, rows, "amin")
    indices = indices.masked_fill((segments.counts == 0)[:, None], 0)
    return y.gather(0, indices), indices


def check_batch(x: Tensor, batch: Tensor | None, num_clouds: int | None) -> tuple[Tensor, int]:
    """Return the cloud of each row of `x (M, C)`, and how many clouds there are.

    Raises:
        ValueError: If they do not fit.
    """
    if batch is None or x.ndim != 2 or batch.shape != x.shape[:1] or batch.dtype != torch.int64:
        got = None if batch is None else f"{batch.dtype} {tuple(batch.shape)}"
        raise ValueError(
            "batch is an int64 tensor (M,) with the number of the cloud of each row of x (M, C), "
            f"got {got} for x {tuple(x.shape)}: lay the points of all clouds one after another, or "
            "pass a mask for padded clouds"
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
    """Check that a mask fits an input with these sizes beside its channels.

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
