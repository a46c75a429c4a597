"""An activation of a channelwise affine map of the sum of two tensors, in one pass each way."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sharedmlp.ops.cpu.huge_pages import empty_large
from sharedmlp.ops.cpu.threads import run_chunks
from sharedmlp.ops.cpu.tiles import split_into_chunks
from sharedmlp.ops.cpu.workspace import workspace
from sharedmlp.ops.custom_op import custom_op
from sharedmlp.ops.layer import Activation
from sharedmlp.ops.reference import double_backward

# Numbers of a tile of rows: a call on fewer does not hide what threads wait between calls.
_TILE = 262144


def scaled_activation(
    first: Tensor, second: Tensor, scale: Tensor, shift: Tensor, activation: Activation
) -> Tensor:
    """Return `activation((first + second) * scale + shift)`.

    Args:
        first: `(..., D)`.
        second: `(..., D)`, of the same shape.
        scale: `(D,)`.
        shift: `(D,)`.
        activation: What is applied last.
    """
    slope = activation.slope
    if slope is None:
        return activation(torch.addcmul(shift, first + second, scale))
    rows = (first.flatten(0, -2), second.flatten(0, -2))
    result: Tensor = _scaled(*rows, scale, shift, slope)
    return result.view(first.shape)


def leaky_relu_gradient(gradient: Tensor, outputs: Tensor, slope: float, out: Tensor) -> None:
    """Write the gradient of the inputs of a leaky ReLU; `torch.where` takes ten times as long.

    Args:
        gradient: That of its outputs.
        outputs: Its outputs, or its inputs: both have the same signs.
        slope: More than 0, or 0 for a ReLU.
        out: Where to write; may be the outputs.
    """
    if slope == 0:  # zero times an infinite gradient would be NaN
        torch.ops.aten.threshold_backward(gradient, outputs, 0, grad_input=out)
    else:
        torch.ops.aten.leaky_relu_backward(gradient, outputs, slope, False, grad_input=out)


def _chunks(rows: Tensor) -> list[list[slice]]:
    """Split rows `(M, D)` into chunks, each a list of tiles."""
    step = max(1, _TILE // rows.shape[1])
    tiles = [slice(start, start + step) for start in range(0, len(rows), step)]
    return [tiles[share] for share in split_into_chunks(len(tiles), rows)]


def _formula(
    slope: float, first: Tensor, second: Tensor, scale: Tensor, shift: Tensor
) -> tuple[Tensor]:
    return (functional.leaky_relu(torch.addcmul(shift, first + second, scale), slope),)


def _forward(first: Tensor, second: Tensor, scale: Tensor, shift: Tensor, slope: float) -> Tensor:
    result = empty_large(first, *first.shape)
    chunks = _chunks(first)

    def worker(numbers: Iterator[int]) -> None:
        for number in numbers:
            for tile in chunks[number]:
                out = torch.add(first[tile], second[tile], out=result[tile])
                torch.addcmul(shift, out, scale, out=out)
                if slope == 0:
                    out.relu_()
                elif slope != 1:
                    functional.leaky_relu_(out, slope)

    run_chunks(worker, len(chunks))
    return result


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.slope = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    tensors = ctx.saved_tensors
    if torch.is_grad_enabled():  # somebody will differentiate the gradients again
        formula = partial(_formula, ctx.slope)
        found = double_backward(formula, tensors, (gradient,))
        return (*found, None)
    of_sum, of_scale, of_shift = _gradient(*tensors, gradient, ctx.slope)
    return of_sum, of_sum, of_scale, of_shift, None


def _gradient_forward(
    first: Tensor, second: Tensor, scale: Tensor, shift: Tensor, gradient: Tensor, slope: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of the sum, the scale and the shift."""
    of_sum = empty_large(first, *first.shape)
    chunks = _chunks(first)
    sums = first.new_zeros(len(chunks), 2, first.shape[1])

    def worker(numbers: Iterator[int]) -> None:
        for number in numbers:
            of_scale, of_shift = sums[number]
            for tile in chunks[number]:
                out = of_sum[tile]
                y = workspace().end_sums.take(out, *out.shape)
                torch.add(first[tile], second[tile], out=y)
                if slope == 1:
                    out.copy_(gradient[tile])
                else:
                    torch.addcmul(shift, y, scale, out=out)
                    leaky_relu_gradient(gradient[tile], out, slope, out)
                of_scale.add_(y.mul_(out).sum(0))
                of_shift.add_(out.sum(0))
                out.mul_(scale)

    run_chunks(worker, len(chunks))
    of_scale, of_shift = sums.sum(0)
    return of_sum, of_scale.clone(), of_shift.clone()


def _gradient_fake(
    first: Tensor, second: Tensor, scale: Tensor, shift: Tensor, gradient: Tensor, slope: float
) -> tuple[Tensor, Tensor, Tensor]:
    of_sum = torch.empty_like(first, memory_format=torch.contiguous_format)
    return of_sum, torch.empty_like(scale), torch.empty_like(shift)


_gradient = custom_op("scaled_activation_backward", _gradient_forward, _gradient_fake)
_scaled = custom_op(
    "scaled_activation",
    _forward,
    lambda first, *_: torch.empty_like(first, memory_format=torch.contiguous_format),
    _setup,
    _backward,
)
