"""Batch norm's statistics: from the input's moments, shared by processes, and the running ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed

from sharedmlp.ops.layer import BatchNorm, PointwiseTensors

# About how many rows a sample has.
SAMPLE = 1024


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
def update_running(
    running_mean: Tensor,
    running_var: Tensor,
    num_batches_tracked: Tensor | None,
    momentum: float | None,
    mean: Tensor,
    variance: Tensor,
    count: Tensor,
) -> None:
    """Move the running statistics toward those of a batch, as `nn.BatchNorm1d` does.

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


def update_norm(norm: BatchNorm, mean: Tensor, variance: Tensor, count: Tensor) -> None:
    """Move the running statistics of a norm, if it keeps any in training; see `update_running`."""
    if norm.training and norm.running_mean is not None and norm.running_var is not None:
        update_running(
            norm.running_mean,
            norm.running_var,
            norm.num_batches_tracked,
            norm.momentum,
            mean,
            variance,
            count,
        )


def order_of(norm: BatchNorm | None, weight: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return how a norm orders the positions of each channel, without a gradient.

    Args:
        norm: The norm, or None.
        weight: `(D, C)`, of the linear map before it.

    Returns:
        1 or -1 for each channel, such that the norm keeps the order of inputs times it; and in
        which channels the norm's weight makes all positions equal, None if in none.
    """
    ones = torch.ones_like(weight[:, 0].detach())
    if norm is None or norm.weight is None:
        return ones, None
    of_norm = norm.weight.detach()
    sign, tied = torch.where(of_norm < 0, -ones, ones), of_norm == 0
    return sign, tied if torch.compiler.is_compiling() or tied.any() else None


def scale_and_shift(
    norm: BatchNorm, mean: Tensor, variance: Tensor, sign: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return what a norm multiplies inputs times a sign by and then adds, `(D,)`, differentiably.

    Args:
        norm: The norm.
        mean: `(D,)`, of the inputs times the sign.
        variance: `(D,)`.
        sign: `(D,)`, as `order_of` returns it; None for no signs.
    """
    scale = torch.rsqrt(variance + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight
        scale = scale if sign is None else scale * sign
    shift = -mean * scale
    return scale, shift if norm.bias is None else shift + norm.bias


def is_finite(tensor: Tensor) -> bool:
    """Whether the sum of a tensor is finite; True under a compiler.

    A compiled graph cannot depend on a value.
    """
    return torch.compiler.is_compiling() or math.isfinite(tensor.detach().sum().item())


class BatchStatistics:
    """The batch statistics of a forward pass, and the running ones that they will update.

    Nothing is written before the whole pass is known to be finite: a number that is not is left to
    the plain layers, which then begin with the running statistics as they were.
    """

    def __init__(self) -> None:
        self._updates: list[Callable[[], None]] = []
        self._checked: list[Tensor] = []

    def of(
        self,
        layer: PointwiseTensors,
        norm: BatchNorm,
        center: Tensor,
        moments: tuple[Tensor, Tensor],
        count: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return variance and mean of `W (x - center)`, both `(D,)`.

        Args:
            layer: The layer.
            norm: Its batch norm.
            center: `(C,)`.
            moments: The mean `(C,)` and the second moment `(C, C)` of `x - center` over this
                process's points.
            count: `(1,)`, how many those are.
        """
        mean, second = moments
        shared, count = shared_means(torch.cat([mean[None], second]), count, norm.group)
        self._checked.append(shared.detach().sum())
        mean, second = shared[0], shared[1:]
        # center is near the mean, so the second term is small and nothing cancels
        covariance = second - torch.outer(mean, mean)
        variance = ((layer.weight @ covariance) * layer.weight).sum(1).clamp(min=0)
        shift = layer.weight @ mean
        offset = (shift + layer.weight @ center).detach()
        if layer.bias is not None:
            offset = offset + layer.bias.detach()
        self._updates.append(partial(update_norm, norm, offset, variance.detach(), count))
        if layer.bias is not None:  # subtracted with the mean: its gradient is zero, not None
            shift = shift - 0.0 * layer.bias
        return variance, shift

    def check(self, values: Tensor) -> None:
        """Let values that no statistics cover decide as well whether all is finite."""
        self._checked.append(values.detach().sum())

    def commit(self) -> bool:
        """Update the running statistics; False, and none is, if a number is not finite."""
        if not is_finite(torch.stack(self._checked)):
            return False
        for update in self._updates:
            update()
        return True


def sample_rows(clouds: Tensor) -> Tensor:
    """Return about a thousand of the M rows of `clouds (G, N, C)`, without their gradients.

    They are evenly spaced. Their mean m' is near enough to the mean m for moments around m' to
    keep their digits: whatever the rows are, k of them have `(m' - m)^2 <= M / k * variance`.
    """
    num_clouds, num_points, _ = clouds.shape
    count = num_clouds * num_points
    numbers = torch.arange(0, count, max(1, count // SAMPLE), device=clouds.device)
    return clouds.detach()[numbers // num_points, numbers % num_points]
