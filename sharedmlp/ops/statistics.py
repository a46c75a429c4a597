"""Batch norm's statistics: shared by processes, and the running ones moved by a batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed


@torch.no_grad()
def shared_center(mean: Tensor, count: Tensor, group: distributed.ProcessGroup | None) -> Tensor:
    """Return the mean over all processes of `mean (C,)` over `count (1,)` positions each."""
    if group is None:
        return mean
    total = torch.cat([count, mean * count])
    distributed.all_reduce(total, group=group)
    return total[1:] / total[0]


def shared_means(
    means: Tensor, count: Tensor, group: distributed.ProcessGroup | None
) -> tuple[Tensor, Tensor]:
    """Return the means over all processes, differentiably, and the count of all positions."""
    if group is None:
        return means, count
    sums = torch.cat([count, (means * count).flatten()])
    total: Tensor = _Sum.apply(sums, group)  # type: ignore[no-untyped-call]
    count = total[:1].detach()
    return total[1:].view_as(means) / count, count


class _Sum(torch.autograd.Function):
    """The sum over all processes; torch's own that autograd sees is deprecated or private."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, group: distributed.ProcessGroup) -> Tensor:
        ctx.group = group
        total = values.clone()
        distributed.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Sum.apply(gradient, ctx.group), None  # type: ignore[no-untyped-call]


@torch.no_grad()
def track(
    running_mean: Tensor,
    running_var: Tensor,
    num_batches_tracked: Tensor | None,
    momentum: float | None,
    mean: Tensor,
    variance: Tensor,
    count: Tensor,
) -> None:
    """Move the running statistics towards those of a batch, as `nn.BatchNorm1d` does.

    Args:
        running_mean: `(D,)`, written to.
        running_var: `(D,)`, written to.
        num_batches_tracked: A counter, raised by one if it is given.
        momentum: How far to move; None for the cumulative average by the counter.
        mean: `(D,)`, of the batch.
        variance: `(D,)`, biased.
        count: `(1,)`, over how many positions.
    """
    if num_batches_tracked is not None:
        num_batches_tracked.add_(1)
    factor: float | Tensor | None = momentum
    if factor is None:
        assert num_batches_tracked is not None
        factor = 1.0 / num_batches_tracked.to(running_mean.dtype)
    unbiased = variance * (count / (count - 1))
    # As torch's own kernel, this moves statistics that autograd has saved for another call.
    running_mean.data.lerp_(mean.to(running_mean.dtype), factor)
    running_var.data.lerp_(unbiased.to(running_var.dtype), factor)
