"""Batch norm whose statistics are shared by the processes of a distributed training.

`nn.SyncBatchNorm` works on GPUs alone, and DistributedDataParallel refuses it on a CPU. All that
has to be shared is a count and the first two moments, which any backend of torch.distributed adds.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sharedmlp.ops.statistics import shared_center, shared_means, update_running


def is_distributed() -> bool:
    """Whether this process is one of several that train together."""
    return distributed.is_available() and distributed.is_initialized()


def sharing_group(norm: _BatchNorm) -> distributed.ProcessGroup | None:
    """Return the processes that share the statistics of a norm at this moment, or None."""
    if not (isinstance(norm, (SyncBatchNorm, nn.SyncBatchNorm)) and norm.training):
        return None
    if not is_distributed():
        return None
    group = distributed.group.WORLD
    if isinstance(norm, nn.SyncBatchNorm):
        group = norm.process_group or group
    return group if distributed.get_world_size(group) > 1 else None


class SyncBatchNorm(_BatchNorm):
    """Batch norm over `(M, C)` or `(B, C, ...)` and over all processes, on any device.

    In evaluation, and if torch.distributed is not initialized, it is plain batch norm, whose
    parameters, buffers and state-dict keys it has.

    Source: Ioffe and Szegedy 2015, algorithm 1, over the union of the processes' batches.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Every rank from two up is fine."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalize over every dimension but 1."""
        group = sharing_group(self)
        if group is None:
            return super().forward(input)
        dims = [d for d in range(input.ndim) if d != 1]
        shape = (1, -1, *[1] * (input.ndim - 2))
        count = input.new_tensor([input.numel() / input.shape[1]])
        center = shared_center(input.detach().mean(dims), count, group)
        centered = input - center.view(shape)
        means = torch.cat([centered.mean(dims), centered.square().mean(dims)])
        means, count = shared_means(means, count, group)
        mean, square = means.chunk(2)
        variance = square - mean.square()  # the mean is zero but for rounding: nothing cancels
        if self.running_mean is not None and self.running_var is not None:
            update_running(
                self.running_mean,
                self.running_var,
                self.num_batches_tracked,
                self.momentum,
                center + mean,
                variance,
                count,
            )
        y = (centered - mean.view(shape)) * torch.rsqrt(variance + self.eps).view(shape)
        return y if self.weight is None else y * self.weight.view(shape) + self.bias.view(shape)
