"""Axes moved between a pointwise layer and the max: which of them keep its meaning, and how.

A view has to mean the same for the layer's inputs, which have other channels, so that the fused
layer can apply it to them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sharedmlp.fusion.layer_output import LayerOutput


class ViewOp(NamedTuple):
    """What a call that moves axes makes of a layer's output.

    Attributes:
        shape: The new shape.
        channel: The new axis of the channels.
        arrange: The same, of a tensor of any number of channels.
    """

    shape: torch.Size
    channel: int
    arrange: Callable[[Tensor], Tensor]


def _transpose(y: LayerOutput, func: Callable[..., Tensor], dim0: int, dim1: int) -> ViewOp:
    shape = _empty(y, func, dim0, dim1).shape
    axes = list(range(len(y.shape)))
    axes[dim0], axes[dim1] = axes[dim1], axes[dim0]
    return ViewOp(shape, axes.index(y.channel), lambda x: x.permute(axes))


def _permute(y: LayerOutput, func: Callable[..., Tensor], *dims: Any) -> ViewOp:
    shape = _empty(y, func, *dims).shape
    axes = [axis % len(y.shape) for axis in (dims[0] if len(dims) == 1 else dims)]
    return ViewOp(shape, axes.index(y.channel), lambda x: x.permute(axes))


def _contiguous(y: LayerOutput, func: Callable[..., Tensor]) -> ViewOp:
    return ViewOp(y.shape, y.channel, lambda x: x)


def _reshape(
    y: LayerOutput,
    func: Callable[..., Tensor],
    *args: Any,
    **kwargs: Any,
) -> ViewOp | None:
    """Split or merge positions; the channels, in the last axis, stay as they are."""
    moved = _empty(y, func, *args, **kwargs)
    shape = moved.shape
    last = len(y.shape) - 1
    if y.channel != last or not shape or shape[-1] != y.shape[-1] or moved.dtype != y.dtype:
        return None
    return ViewOp(shape, len(shape) - 1, lambda x: x.reshape(*shape[:-1], x.shape[-1]))


def _empty(
    y: LayerOutput,
    func: Callable[..., Tensor],
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    """Return what torch makes of a call, without numbers, or raise torch's error."""
    return func(torch.empty(y.shape, dtype=y.dtype, device="meta"), *args, **kwargs)


# What moves axes -> what it makes of a layer's output; None if its meaning would be lost.
VIEW_OPS: dict[Callable[..., Any], Callable[..., ViewOp | None]] = {
    torch.transpose: _transpose,
    torch.Tensor.transpose: _transpose,
    torch.permute: _permute,
    torch.Tensor.permute: _permute,
    torch.Tensor.contiguous: _contiguous,
    torch.Tensor.view: _reshape,
    torch.Tensor.reshape: _reshape,
    torch.reshape: _reshape,
    torch.Tensor.flatten: _reshape,
    torch.flatten: _reshape,
    torch.Tensor.unflatten: _reshape,
}
