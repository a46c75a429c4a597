"""The max over points of a pointwise layer's output: which calls are one, and how it runs fused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sharedmlp.fusion.deferred import Pending
from sharedmlp.fusion.layer_output import LayerOutput
from sharedmlp.layers.folded import can_fold, folded_max_pool
from sharedmlp.layers.fused import can_fuse_hidden, fused_max_pool, fused_not_supported_reasons
from sharedmlp.layers.pointwise import PointwiseLayer


def _max(y: LayerOutput, dim: Any = None, keepdim: bool = False) -> Any:  # noqa: ANN401
    """``torch.max(y, dim)``, as a pair of maxima and indices."""
    found = max_over(y, (dim,)) if isinstance(dim, int) else None
    if found is None:
        return NotImplemented
    values, indices = found
    if not keepdim:
        return values, indices
    axis = dim % len(y.shape)
    values = values.unsqueeze(axis)
    if isinstance(indices, Tensor):
        return values, indices.unsqueeze(axis)
    return values, Pending(lambda x: x.unsqueeze(axis), indices, values.shape, dtype=indices.dtype)


def _amax(y: LayerOutput, dim: Any = (), keepdim: bool = False) -> Any:  # noqa: ANN401
    return _values(y, (dim,) if isinstance(dim, int) else tuple(dim), keepdim=keepdim)


def _max_pool(
    y: LayerOutput,
    kernel_size: Any,  # noqa: ANN401
    stride: Any = None,  # noqa: ANN401
    padding: Any = 0,  # noqa: ANN401
    dilation: Any = 1,  # noqa: ANN401
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:  # noqa: ANN401
    """``F.max_pool1d`` and ``F.max_pool2d`` whose window is the whole of an axis, or one of it.

    With ``return_indices=True`` torch calls other functions.
    """
    sizes = y.shape[2:]
    kernel, step = _each(kernel_size, sizes), _each(stride or kernel_size, sizes)
    whole = tuple(k == size for k, size in zip(kernel, sizes, strict=True))
    single = all(
        full or (k == 1 and s == 1) for full, k, s in zip(whole, kernel, step, strict=True)
    )
    plain = (*_each(padding, sizes), *(d - 1 for d in _each(dilation, sizes)))
    if not single or any(plain):
        return NotImplemented
    return _values(y, tuple(axis for axis, full in enumerate(whole, 2) if full), keepdim=True)


def _adaptive_max_pool(
    y: LayerOutput,
    output_size: Any,  # noqa: ANN401
    return_indices: bool = False,
) -> Any:  # noqa: ANN401
    sizes = y.shape[2:]
    wanted = [n if k is None else k for k, n in zip(_each(output_size, sizes), sizes, strict=True)]
    if any(k not in (1, n) for k, n in zip(wanted, sizes, strict=True)):
        return NotImplemented
    axes = tuple(axis for axis, (k, n) in enumerate(zip(wanted, sizes, strict=True), 2) if k != n)
    return _values(y, axes, keepdim=True)


# What takes a max -> how to take it of a layer's output; NotImplemented where it is another max.
MAXIMA: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.max: _max,
    torch.Tensor.max: _max,
    torch.amax: _amax,
    torch.Tensor.amax: _amax,
    functional.max_pool1d: _max_pool,
    functional.max_pool2d: _max_pool,
    torch.max_pool1d: _max_pool,
    torch.max_pool2d: _max_pool,
    functional.adaptive_max_pool1d: _adaptive_max_pool,
    functional.adaptive_max_pool2d: _adaptive_max_pool,
}


def _each(value: Any, sizes: Sequence[int]) -> tuple[Any, ...]:  # noqa: ANN401
    """One value for each axis, of an argument that may be given once for all."""
    if not isinstance(value, (tuple, list)):
        return (value,) * len(sizes)
    return tuple(value) * (len(sizes) if len(value) == 1 else 1)


def _values(y: LayerOutput, axes: tuple[int, ...], *, keepdim: bool) -> Any:  # noqa: ANN401
    found = max_over(y, axes)
    if found is None:
        return NotImplemented
    values = found[0]
    for axis in sorted(axis % len(y.shape) for axis in axes) if keepdim else ():
        values = values.unsqueeze(axis)
    return values


def max_over(y: LayerOutput, axes: tuple[int, ...]) -> tuple[Tensor, Tensor | Pending] | None:
    """Takes the max of a layer's output over axes of its points, in one with the layer.

    Args:
        y: The output.
        axes: Its axes, counted from either end.

    Returns:
        The maxima, without the axes, and the index of each among the points of the axes laid end
        to end; None, with the reason noted, if they are not to be had so.
    """
    ndim = len(y.shape)
    axes = tuple(sorted(axis % ndim if -ndim <= axis < ndim else ndim for axis in axes))
    if axes not in y.pooled:
        reasons = _reasons(y, axes)
        if reasons:
            y.layer.site.reason = "; ".join(reasons)
            return None
        with y.moment():
            y.pooled[axes] = _run(y, axes)
    return y.pooled[axes]


def _reasons(y: LayerOutput, axes: tuple[int, ...]) -> list[str]:
    norm = y.layer.norm
    points = set(range(len(y.shape))) - {y.channel}
    if not set(axes) <= points or len(set(axes)) != len(axes) or not axes:
        return ["the max that follows is not over points"]
    if not y.is_whole():
        return [y.layer.site.reason or "a value inside it has been read"]
    if norm is not None and norm.training and norm.running_mean is not None and not norm.owes:
        return ["two maxima over different axes follow"]
    return fused_not_supported_reasons(y.layer.module)


def _run(y: LayerOutput, axes: tuple[int, ...]) -> tuple[Tensor, Tensor | Pending]:
    outputs = _chain(y)
    layers = [output.layer.module for output in outputs]
    free = not torch.is_grad_enabled() and all(map(can_fold, layers))
    if not free and not can_fuse_hidden(layers):
        outputs, layers = outputs[-1:], layers[-1:]
    *hidden, last = layers
    x = outputs[0].inputs
    x = x.read(y.layer.site.layer) if isinstance(x, Pending) else x
    for output in outputs:
        x = output.arrange(x)
    others = [axis for axis in range(x.ndim) if axis not in axes and axis != y.channel]
    num_points = prod(y.shape[axis] for axis in axes)
    clouds = x.permute(*others, *axes, y.channel).reshape(-1, num_points, x.shape[y.channel])
    to_channel = sum(axis < y.channel for axis in others)

    def restore(pooled: Tensor) -> Tensor:
        pooled = pooled.reshape(*(y.shape[axis] for axis in others), y.shape[y.channel])
        return pooled.movedim(-1, to_channel).contiguous()

    def search(clouds: Tensor, hidden: Sequence[PointwiseLayer]) -> tuple[Tensor, Tensor]:
        values, indices = fused_max_pool(last, clouds, None, hidden)
        if isinstance(last.activation, nn.ReLU):  # where it is off all points tie: the first wins
            indices = indices * (values > 0)
        return restore(values), restore(indices)

    def find_indices(clouds: Tensor) -> Tensor:
        rows = clouds.reshape(-1, clouds.shape[-1])
        for layer in hidden:
            rows = layer(rows)
        return search(rows.view(*clouds.shape[:2], -1), [])[1]

    _note(outputs)
    if free:  # the indices are another search: only if somebody asks for them
        values = restore(folded_max_pool(layers, clouds))
        return values, Pending(find_indices, clouds, values.shape, dtype=torch.int64)
    return search(clouds, hidden)


def _chain(y: LayerOutput) -> list[LayerOutput]:
    """Returns the layers that can run in one with the max, from the first to y's own."""
    outputs = [y]
    while True:
        inputs = outputs[0].inputs
        if not isinstance(inputs, LayerOutput) or not inputs.is_whole():
            return outputs
        if not inputs.layer.can_run_inside():
            return outputs
        outputs.insert(0, inputs)


def _note(outputs: Sequence[LayerOutput]) -> None:
    """Notes that the layers run fused, their running statistics included."""
    for output in outputs:
        norm, activation, site = output.layer.norm, output.layer.activation, output.layer.site
        if norm is not None:
            norm.owes = False
        parts = [
            *(["batch norm"] if norm is not None else []),
            *([type(activation).__name__] if activation is not None else []),
            "max" if output is outputs[-1] else outputs[-1].layer.site.layer,
        ]
        site.fused_with = "with " + ", ".join(parts)
