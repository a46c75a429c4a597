"""Batch norm whose statistics are shared by the processes of a distributed training.

``nn.SyncBatchNorm`` works on GPUs alone, and DistributedDataParallel refuses it on a CPU. All that
has to be shared is a count and the first two moments, which any backend of torch.distributed adds.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm


def sharing_group(norm: _BatchNorm) -> distributed.ProcessGroup | None:
    """The processes that share the statistics of a norm at this moment, or None."""
    if not (isinstance(norm, (SyncBatchNorm, nn.SyncBatchNorm)) and norm.training):
        return None
    if not (distributed.is_available() and distributed.is_initialized()):
        return None
    group = distributed.group.WORLD
    if isinstance(norm, nn.SyncBatchNorm):
        group = norm.process_group or group
    return group if distributed.get_world_size(group) > 1 else None


@torch.no_grad()
def shared_center(mean: Tensor, count: Tensor, group: distributed.ProcessGroup | None) -> Tensor:
    """Returns the mean over all processes of ``mean (C,)`` over ``count (1,)`` positions each."""
    if group is None:
        return mean
    total = torch.cat([count, mean * count])
    distributed.all_reduce(total, group=group)
    return total[1:] / total[0]


def shared_means(
    means: Tensor, count: Tensor, group: distributed.ProcessGroup | None
) -> tuple[Tensor, Tensor]:
    """Returns the means over all processes, differentiably, and the count of all positions."""
    if group is None:
        return means, count
    sums = torch.cat([count, (means * count).flatten()])
    total: Tensor = _Sum.apply(sums, group)  # type: ignore[no-untyped-call]
    count = total[:1].detach()
    return total[1:].view_as(means) / count, count


class _Sum(torch.autograd.Function):
    """The sum over all processes; torch's own that autograd sees is deprecated or private."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, group: distributed.ProcessGroup) -> Tensor:  # noqa: ANN401
        ctx.group = group
        total = values.clone()
        distributed.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        return _Sum.apply(gradient, ctx.group), None  # type: ignore[no-untyped-call]


@torch.no_grad()
def track(norm: _BatchNorm, mean: Tensor, variance: Tensor, count: Tensor) -> None:
    """Moves the running statistics towards those of a batch, as ``nn.BatchNorm1d`` does."""
    if not norm.training or norm.running_mean is None or norm.running_var is None:
        return
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    factor = norm.momentum
    if factor is None:
        factor = 1.0 / float(norm.num_batches_tracked)
    unbiased = variance * (count / (count - 1))
    # As torch's own kernel, this moves statistics that autograd has saved for another call.
    norm.running_mean.data.lerp_(mean.to(norm.running_mean.dtype), factor)
    norm.running_var.data.lerp_(unbiased.to(norm.running_var.dtype), factor)


class SyncBatchNorm(_BatchNorm):
    """Batch norm over ``(M, C)`` or ``(B, C, ...)`` and over all processes, on any device.

    In evaluation and where torch.distributed is not initialised it is plain batch norm, whose
    parameters, buffers and state-dict keys it has.

    Source: Ioffe and Szegedy 2015, algorithm 1, over the union of the processes' batches.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Every rank from two up is fine."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalises over every dimension but 1."""
        group = sharing_group(self)
        if group is None:
            return super().forward(input)
        dims = [d for d in range(input.ndim) if d != 1]
        shape = (1, -1, *[1] * (input.ndim - 2))
        count = input.new_tensor([input.numel() / input.shape[1]])
        center = shared_center(input.detach().mean(dims), count, group)
        centred = input - center.view(shape)
        means = torch.cat([centred.mean(dims), centred.square().mean(dims)])
        means, count = shared_means(means, count, group)
        mean, square = means.chunk(2)
        variance = square - mean.square()  # the mean is zero but for rounding: nothing cancels
        track(self, center + mean, variance, count)
        y = (centred - mean.view(shape)) * torch.rsqrt(variance + self.eps).view(shape)
        return y if self.weight is None else y * self.weight.view(shape) + self.bias.view(shape)
