"""A pointwise layer, batch norm and ReLU in few passes over memory, with the same numbers.

Hidden layers are narrow, and their time goes into reading and writing: linear map, batch norm's
statistics, batch norm, ReLU, and all of it again backwards. Their statistics follow from the mean
and covariance of the input (see sharedmlp.ops.fused), so that batch norm folds into the linear map
before anything is written. Each tile of points goes through the layer and into the next one's
moments while it is in the cache, and in the backward pass the same way back. For CPUs: on a GPU
torch's own kernels are launched once for all points.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from sharedmlp.ops.cpu.huge_pages import empty_large
from sharedmlp.ops.cpu.sums import MomentSums, PartialSums, moment_gradients
from sharedmlp.ops.cpu.threads import run_chunks
from sharedmlp.ops.cpu.tiles import split_rows
from sharedmlp.ops.cpu.workspace import workspace
from sharedmlp.ops.custom_op import custom_op
from sharedmlp.ops.interface import FoldedLinear
from sharedmlp.ops.reference import double_backward, moments


def write_layer(layer: FoldedLinear, rows: Tensor, centered: Tensor, y: Tensor) -> None:
    """Take `rows (M, C)` to `y (M, D)` by way of `centered (M, C)`, both overwritten."""
    torch.sub(rows, layer.center, out=centered)
    torch.addmm(layer.bias, centered, layer.weight.t(), out=y).relu_()


def input_moments(rows: Tensor, center: Tensor) -> tuple[Tensor, Tensor]:
    """See `Implementation.moments`."""
    mean, second = _moments(rows, center)
    return mean, second


def linear_bn_relu(
    rows: Tensor, layer: FoldedLinear, center: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """See `Implementation.linear_bn_relu`."""
    y, mean, second = _linear_bn_relu(rows, *layer, center)
    return y, mean, second


def _moments_forward(rows: Tensor, center: Tensor) -> tuple[Tensor, Tensor]:
    chunks = split_rows(rows)
    sums = MomentSums(len(chunks), rows, rows.shape[1])

    def worker(numbers: Iterator[int]) -> None:
        for number in numbers:
            for tile in chunks[number]:
                centered = workspace().centered.take(rows, *rows[tile].shape)
                sums.add(number, torch.sub(rows[tile], center, out=centered))

    run_chunks(worker, len(chunks))
    return sums.means(len(rows))


def _moments_setup(ctx: Any, inputs: tuple[Tensor, Tensor], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _moments_backward(ctx: Any, of_mean: Tensor, of_second: Tensor) -> tuple[Tensor | None, None]:
    rows, center = ctx.saved_tensors
    if torch.is_grad_enabled():  # somebody will differentiate the gradients again
        of_rows, _ = double_backward(moments, (rows, center), (of_mean, of_second))
        return of_rows, None
    offset, matrix = moment_gradients(of_mean, of_second, len(rows))
    return _moments_gradient(rows, center, offset, matrix), None


def _moments_gradient_forward(
    rows: Tensor, center: Tensor, offset: Tensor, matrix: Tensor
) -> Tensor:
    of_rows = empty_large(rows, *rows.shape)
    chunks = split_rows(rows)

    def worker(numbers: Iterator[int]) -> None:
        for number in numbers:
            for tile in chunks[number]:
                centered = workspace().centered.take(rows, *rows[tile].shape)
                torch.sub(rows[tile], center, out=centered)
                torch.addmm(offset, centered, matrix, out=of_rows[tile])

    run_chunks(worker, len(chunks))
    return of_rows


def _layer_forward(
    rows: Tensor, input_center: Tensor, weight: Tensor, bias: Tensor, center: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    layer = FoldedLinear(input_center, weight, bias)
    y = empty_large(rows, len(rows), len(weight))
    chunks = split_rows(rows)
    sums = MomentSums(len(chunks), rows, len(weight))

    def worker(numbers: Iterator[int]) -> None:
        for number in numbers:
            for tile in chunks[number]:
                write_layer(
                    layer, rows[tile], workspace().inputs.take(rows, *rows[tile].shape), y[tile]
                )
                if center is not None:
                    centered = workspace().centered.take(rows, *y[tile].shape)
                    sums.add(number, torch.sub(y[tile], center, out=centered))

    run_chunks(worker, len(chunks))
    return (y, *sums.means(len(rows)))


def _layer_fake(
    rows: Tensor, input_center: Tensor, weight: Tensor, bias: Tensor, center: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    width = weight.shape[0]
    return rows.new_empty(rows.shape[0], width), rows.new_empty(width), rows.new_empty(width, width)


def _layer_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs, output[0])


def _layer_backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
    rows, input_center, weight, bias, center, y = ctx.saved_tensors
    if torch.is_grad_enabled():  # somebody will differentiate the gradients again

        def formula(rows: Tensor, *constants: Tensor) -> tuple[Tensor, ...]:
            y = FoldedLinear(*constants)(rows)
            return (y,) if center is None else (y, *moments(y, center))

        wanted = gradients[: 1 if center is None else 3]
        return (*double_backward(formula, (rows, input_center, weight, bias), wanted), None)
    offset = matrix = None
    if center is not None:
        offset, matrix = moment_gradients(gradients[1], gradients[2], len(rows))
    of_rows, of_weight, of_bias = _layer_gradient(
        rows,
        input_center,
        weight,
        y,
        gradients[0],
        center,
        offset,
        matrix,
        ctx.needs_input_grad[0],
    )
    return of_rows if ctx.needs_input_grad[0] else None, None, of_weight, of_bias, None


def _layer_gradient_forward(
    rows: Tensor,
    input_center: Tensor,
    weight: Tensor,
    y: Tensor,
    of_y: Tensor,
    center: Tensor | None,
    offset: Tensor | None,
    matrix: Tensor | None,
    needs_rows: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    of_rows = empty_large(rows, len(rows) if needs_rows else 0, rows.shape[1])
    chunks = split_rows(rows)
    sums = LinearBNReLUGradients(len(chunks), weight)

    def worker(numbers: Iterator[int]) -> None:
        for number in numbers:
            for tile in chunks[number]:
                inputs = workspace().inputs.take(rows, *rows[tile].shape)
                torch.sub(rows[tile], input_center, out=inputs)
                passed = workspace().gradients.take(rows, *y[tile].shape)
                if center is not None and offset is not None and matrix is not None:
                    centered = workspace().centered.take(rows, *y[tile].shape)
                    torch.sub(y[tile], center, out=centered)
                    torch.addmm(of_y[tile], centered, matrix, out=passed).add_(offset)
                else:
                    passed.copy_(of_y[tile])
                sums.add(number, passed, y[tile], inputs)
                if needs_rows:
                    torch.mm(passed, weight, out=of_rows[tile])

    run_chunks(worker, len(chunks))
    return (of_rows, *sums.totals())


def _layer_gradient_fake(
    rows: Tensor,
    input_center: Tensor,
    weight: Tensor,
    y: Tensor,
    of_y: Tensor,
    center: Tensor | None,
    offset: Tensor | None,
    matrix: Tensor | None,
    needs_rows: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    of_rows = rows.new_empty(rows.shape if needs_rows else (0, rows.shape[1]))
    return of_rows, weight.new_empty(weight.shape), weight.new_empty(weight.shape[0])


class LinearBNReLUGradients:
    """The gradients of a hidden layer's weight and bias in the making."""

    def __init__(self, num_chunks: int, weight: Tensor) -> None:
        own = workspace()
        # Transposed: a product with few rows is faster than one with few columns.
        self._weight = PartialSums(own.hidden_weight_sums, num_chunks, weight, *weight.t().shape)
        self._bias = PartialSums(own.hidden_bias_sums, num_chunks, weight, len(weight))

    def add(self, chunk: int, gradient: Tensor, y: Tensor, inputs: Tensor) -> None:
        """Take the gradient `(M, D)` of y back through ReLU, in place, and add the layer's."""
        torch.ops.aten.threshold_backward(gradient, y, 0, grad_input=gradient)
        self._weight[chunk].addmm_(inputs.t(), gradient)
        self._bias[chunk].add_(gradient.sum(0))

    def totals(self) -> tuple[Tensor, Tensor]:
        """Return the gradients of the weight `(D, C)` and of the bias `(D,)`."""
        return self._weight.total().t().contiguous(), self._bias.total()


_moments_gradient = custom_op(
    "moments_backward",
    _moments_gradient_forward,
    lambda rows, center, offset, matrix: rows.new_empty(rows.shape),
)
_moments = custom_op(
    "moments",
    _moments_forward,
    lambda rows, center: (
        rows.new_empty(rows.shape[1]),
        rows.new_empty(rows.shape[1], rows.shape[1]),
    ),
    _moments_setup,
    _moments_backward,
)
_layer_gradient = custom_op(
    "linear_bn_relu_backward", _layer_gradient_forward, _layer_gradient_fake
)
_linear_bn_relu = custom_op(
    "linear_bn_relu", _layer_forward, _layer_fake, _layer_setup, _layer_backward
)
