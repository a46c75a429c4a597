"""The max over points of a pointwise layer's output: which calls are one, and how it runs fused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sharedmlp.fusion.layer_output import LayerOutput
from sharedmlp.fusion.lazy_tensor import LazyValue
from sharedmlp.ops.fused import run_max, run_mlp
from sharedmlp.ops.layer import PointwiseTensors
from sharedmlp.ops.plan import Plan, make_plan

_Found = tuple[Tensor, Tensor | LazyValue]


def _max(y: LayerOutput, dim: Any = None, keepdim: bool = False) -> Any:
    """`torch.max(y, dim)`, as a pair of maxima and indices."""
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
    return values, LazyValue(
        lambda x: x.unsqueeze(axis), indices, values.shape, dtype=indices.dtype
    )


def _amax(y: LayerOutput, dim: Any = (), keepdim: bool = False) -> Any:
    return _values(y, (dim,) if isinstance(dim, int) else tuple(dim), keepdim=keepdim)


def _max_pool(
    y: LayerOutput,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """`F.max_pool1d` and `F.max_pool2d` whose window is the whole of an axis, or one of it.

    With `return_indices=True` torch calls other functions.
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
    output_size: Any,
    return_indices: bool = False,
) -> Any:
    sizes = y.shape[2:]
    wanted = [n if k is None else k for k, n in zip(_each(output_size, sizes), sizes, strict=True)]
    if any(k not in (1, n) for k, n in zip(wanted, sizes, strict=True)):
        return NotImplemented
    axes = tuple(axis for axis, (k, n) in enumerate(zip(wanted, sizes, strict=True), 2) if k != n)
    return _values(y, axes, keepdim=True)


# What takes a max -> how to take it of a layer's output; NotImplemented if it is another max.
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


def _each(value: Any, sizes: Sequence[int]) -> tuple[Any, ...]:
    """One value for each axis, of an argument that may be given once for all."""
    if not isinstance(value, (tuple, list)):
        return (value,) * len(sizes)
    return tuple(value) * (len(sizes) if len(value) == 1 else 1)


def _values(y: LayerOutput, axes: tuple[int, ...], *, keepdim: bool) -> Any:
    found = max_over(y, axes)
    if found is None:
        return NotImplemented
    values = found[0]
    for axis in sorted(axis % len(y.shape) for axis in axes) if keepdim else ():
        values = values.unsqueeze(axis)
    return values


def max_over(y: LayerOutput, axes: tuple[int, ...]) -> _Found | None:
    """Take the max of a layer's output over axes of its points, in one with the layer.

    Args:
        y: The output.
        axes: Its axes, counted from either end.

    Returns:
        The maxima, without the axes, and the index of each among the points of the axes laid one
        after another; None, with the reason recorded, if the max cannot be taken so.
    """
    ndim = len(y.shape)
    axes = tuple(sorted(axis % ndim if -ndim <= axis < ndim else ndim for axis in axes))
    if axes not in y.pooled:
        found: _Found | list[str] = _pattern_reasons(y, axes)
        if not found:
            with y.modes():
                found = _run(y, axes)
        if isinstance(found, list):
            y.layer.record.reason = "; ".join(found)
            return None
        y.pooled[axes] = found
    return y.pooled[axes]


def _pattern_reasons(y: LayerOutput, axes: tuple[int, ...]) -> list[str]:
    norm = y.layer.norm
    points = set(range(len(y.shape))) - {y.channel}
    if not set(axes) <= points or len(set(axes)) != len(axes) or not axes:
        return ["the max that follows is not over points"]
    if not y.is_uncomputed():
        return [y.layer.record.reason or "a value inside it has been read"]
    if (
        norm is not None
        and norm.training
        and norm.running_mean is not None
        and not norm.update_pending
    ):
        return ["two maxima over different axes follow"]
    return []


def _run(y: LayerOutput, axes: tuple[int, ...]) -> _Found | list[str]:
    """Take the max, or say why it is not to be had in one with the layer."""
    outputs = _chain(y)
    num_points = prod(y.shape[axis] for axis in axes)
    rows = y.shape.numel() // y.shape[y.channel]
    plan = make_plan([output.layer.tensors for output in outputs], rows, rows // num_points)
    if plan.path == "plain":
        return list(plan.reasons) or [f"{rows} rows are too few for fusion to pay"]
    outputs = outputs[len(outputs) - len(plan.layers) :]
    x = outputs[0].inputs
    x = x.read(y.layer.record.layer) if isinstance(x, LazyValue) else x
    for output in outputs:
        x = output.arrange(x)
    others = [axis for axis in range(x.ndim) if axis not in axes and axis != y.channel]
    clouds = x.permute(*others, *axes, y.channel).reshape(-1, num_points, x.shape[y.channel])
    to_channel = sum(axis < y.channel for axis in others)

    def restore(pooled: Tensor) -> Tensor:
        pooled = pooled.reshape(*(y.shape[axis] for axis in others), y.shape[y.channel])
        return pooled.movedim(-1, to_channel).contiguous()

    found = run_max(plan, clouds)
    if found is None:
        return ["a number in it is not finite"]
    _note(outputs)
    values, indices = found
    if indices is not None:
        return restore(values), restore(indices)

    def find_indices(clouds: Tensor) -> Tensor:  # another search: only if somebody asks for them
        return restore(_find_indices(plan, clouds))

    values = restore(values)
    return values, LazyValue(find_indices, clouds, values.shape, dtype=torch.int64)


def _find_indices(plan: Plan, clouds: Tensor) -> Tensor:
    """Return the points of the maxima `(G, D)` of layers that run folded."""
    *hidden, last = plan.layers
    shape, rows = clouds.shape[:2], clouds.reshape(-1, clouds.shape[-1])
    if hidden:
        rows = _run_folded(plan, hidden, rows)
    fused = make_plan([last], len(rows), shape[0], needs_indices=True, must=True)
    found = run_max(fused, rows.view(*shape, -1)) if fused.path == "fuse" else None
    if found is None or found[1] is None:
        return _run_folded(plan, [last], rows).view(*shape, -1).max(1).indices
    return found[1]


def _run_folded(plan: Plan, layers: Sequence[PointwiseTensors], rows: Tensor) -> Tensor:
    y = run_mlp(plan._replace(layers=tuple(layers)), rows)
    assert y is not None
    return y


def _chain(y: LayerOutput) -> list[LayerOutput]:
    """Return the layers that can run in one with the max, from the first to y's own."""
    outputs = [y]
    while True:
        inputs = outputs[0].inputs
        if not isinstance(inputs, LayerOutput) or not inputs.is_uncomputed():
            return outputs
        if not inputs.layer.can_run_inside():
            return outputs
        outputs.insert(0, inputs)


def _note(outputs: Sequence[LayerOutput]) -> None:
    """Record that the layers run fused, their running statistics included."""
    for output in outputs:
        norm, activation, record = output.layer.norm, output.layer.activation, output.layer.record
        if norm is not None:
            norm.update_pending = False
        parts = [
            *(["batch norm"] if norm is not None else []),
            *([activation.label] if activation.label else []),
            "max" if output is outputs[-1] else outputs[-1].layer.record.layer,
        ]
        record.fused_with = "with " + ", ".join(parts)
