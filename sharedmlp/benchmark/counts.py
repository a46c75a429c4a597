"""Multiply-adds of a PointNet, counted from its widths.

Counted are the products with weights and transforms; batch norm, activations, the max, the loss and
the optimizer are not. A plain training step counts three times its forward pass: the product itself
and the two of its backward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

_HEAD = (512, 256)
_TNET = (64, 128, 1024)


def plain_forward(
    batch_size: int,
    num_points: int,
    num_classes: int,
    *,
    local_channels: Sequence[int] = (64, 64),
    global_channels: Sequence[int] = (64, 128, 1024),
) -> int:
    """Count the forward pass of a full PointNet; the fused one's in eval is the same.

    Args:
        batch_size: Clouds.
        num_points: Points of a cloud.
        num_classes: Number of classes.
        local_channels: Widths of the shared MLP before the feature T-Net.
        global_channels: Widths of the shared MLP before the max.
    """
    width = local_channels[-1]
    pointwise = (
        _stack(3, *_TNET)
        + 3 * 3
        + _stack(3, *local_channels)
        + _stack(width, *_TNET)
        + width * width
        + _stack(width, *global_channels)
    )
    clouds = (
        _stack(_TNET[-1], *_HEAD, 3 * 3)
        + _stack(_TNET[-1], *_HEAD, width * width)
        + _stack(global_channels[-1], *_HEAD, num_classes)
    )
    return batch_size * (num_points * pointwise + clouds)


def fused_training(batch_size: int, num_points: int, num_classes: int) -> int:
    """Count a training step with the three widest layers (C=128 to D=1024) fused.

    Each of them takes, over M points, M*C*D for the products, 2*M*C^2 for the second moment and its
    gradient, 2*B*C*D at the maxima and 2*D*C^2 to join weight and moment, instead of 3*M*C*D.
    """
    points = batch_size * num_points
    width, out = _TNET[-2:]
    plain = 3 * points * width * out
    fused = points * (width * out + 2 * width**2) + 2 * width * out * (batch_size + width)
    return 3 * plain_forward(batch_size, num_points, num_classes) + 3 * (fused - plain)


def _stack(*channels: int) -> int:
    return sum(width * out for width, out in pairwise(channels))
