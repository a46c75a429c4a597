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
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sharedmlp.ops.cpu.sums import (
    MomentSums,
    PartialSums,
    double_backward,
    moment_gradients,
    plain_moments,
)
from sharedmlp.ops.cpu.threads import run_jobs
from sharedmlp.ops.cpu.tiles import split_rows, tile_buffer
from sharedmlp.ops.custom_op import custom_op


class FoldedLinear(NamedTuple):
    """A hidden layer with batch norm folded in: `relu((x - center) @ weight.T + bias)`.

    Attributes:
        center: `(C,)`; a constant.
        weight: `(D, C)`.
        bias: `(D,)`.
    """

    center: Tensor
    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Take `(..., C)` to `(..., D)`."""
        return torch.relu((x - self.center) @ self.weight.t() + self.bias)

    def write(self, x: Tensor, centered: Tensor, y: Tensor) -> None:
        """Take `(M, C)` to `y (M, D)` by way of `centered (M, C)`, both overwritten."""
        torch.sub(x, self.center, out=centered)
        torch.addmm(self.bias, centered, self.weight.t(), out=y).relu_()


def input_moments(x: Tensor, center: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean `(C,)` and second moment `(C, C)` of the rows of `x (M, C)` less a center."""
    mean, second = _moments(x, center)
    return mean, second


def linear_bn_relu_moments(
    x: Tensor, layer: FoldedLinear, center: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return `layer(x)`, `(M, C) -> (M, D)`, and its moments around the center `(D,)`."""
    y, mean, second = _linear_bn_relu(x, *layer, center)
    return y, mean, second


def linear_bn_relu(x: Tensor, layer: FoldedLinear) -> Tensor:
    """Return `layer(x)`, `(M, C) -> (M, D)`."""
    y: Tensor = _linear_bn_relu(x, *layer, None)[0]
    return y


def _moments_forward(x: Tensor, center: Tensor) -> tuple[Tensor, Tensor]:
    jobs = split_rows(x)
    sums = MomentSums(len(jobs), x, x.shape[1])

    def worker(numbers: Iterator[int]) -> None:
        for number in numbers:
            for rows in jobs[number]:
                centered = tile_buffer("centered", x, x.shape[1])[: rows.stop - rows.start]
                sums.add(number, torch.sub(x[rows], center, out=centered))

    run_jobs(worker, len(jobs))
    return sums.means(len(x))


def _moments_setup(ctx: Any, inputs: tuple[Tensor, Tensor], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _moments_backward(ctx: Any, of_mean: Tensor, of_second: Tensor) -> tuple[Tensor | None, None]:
    x, center = ctx.saved_tensors
    if torch.is_grad_enabled():  # somebody will differentiate the gradients again
        of_x, _ = double_backward(plain_moments, (x, center), (of_mean, of_second))
        return of_x, None
    offset, matrix = moment_gradients(of_mean, of_second, len(x))
    return _moments_gradient(x, center, offset, matrix), None


def _moments_gradient_forward(x: Tensor, center: Tensor, offset: Tensor, matrix: Tensor) -> Tensor:
    of_x = torch.empty_like(x, memory_format=torch.contiguous_format)
    jobs = split_rows(x)

    def worker(numbers: Iterator[int]) -> None:
        for number in numbers:
            for rows in jobs[number]:
                centered = tile_buffer("centered", x, x.shape[1])[: rows.stop - rows.start]
                torch.sub(x[rows], center, out=centered)
                torch.addmm(offset, centered, matrix, out=of_x[rows])

    run_jobs(worker, len(jobs))
    return of_x


def _layer_forward(
    x: Tensor, input_center: Tensor, weight: Tensor, bias: Tensor, center: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    layer = FoldedLinear(input_center, weight, bias)
    y = x.new_empty(len(x), len(weight))
    jobs = split_rows(x)
    sums = MomentSums(len(jobs), x, len(weight))

    def worker(numbers: Iterator[int]) -> None:
        for number in numbers:
            for rows in jobs[number]:
                count = rows.stop - rows.start
                layer.write(x[rows], tile_buffer("inputs", x, x.shape[1])[:count], y[rows])
                if center is not None:
                    centered = tile_buffer("centered", x, len(weight))[:count]
                    sums.add(number, torch.sub(y[rows], center, out=centered))

    run_jobs(worker, len(jobs))
    return (y, *sums.means(len(x)))


def _layer_fake(
    x: Tensor, input_center: Tensor, weight: Tensor, bias: Tensor, center: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    width = weight.shape[0]
    return x.new_empty(x.shape[0], width), x.new_empty(width), x.new_empty(width, width)


def _layer_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs, output[0])


def _layer_backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
    x, input_center, weight, bias, center, y = ctx.saved_tensors
    if torch.is_grad_enabled():  # somebody will differentiate the gradients again

        def formula(x: Tensor, *constants: Tensor) -> tuple[Tensor, ...]:
            y = FoldedLinear(*constants)(x)
            return (y,) if center is None else (y, *plain_moments(y, center))

        wanted = gradients[: 1 if center is None else 3]
        return (*double_backward(formula, (x, input_center, weight, bias), wanted), None)
    offset = matrix = None
    if center is not None:
        offset, matrix = moment_gradients(gradients[1], gradients[2], len(x))
    of_x, of_weight, of_bias = _layer_gradient(
        x,
        input_center,
        weight,
        y,
        gradients[0],
        center,
        offset,
        matrix,
        ctx.needs_input_grad[0],
    )
    return of_x if ctx.needs_input_grad[0] else None, None, of_weight, of_bias, None


def _layer_gradient_forward(
    x: Tensor,
    input_center: Tensor,
    weight: Tensor,
    y: Tensor,
    of_y: Tensor,
    center: Tensor | None,
    offset: Tensor | None,
    matrix: Tensor | None,
    needs_x: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    of_x = torch.empty_like(x if needs_x else x[:0], memory_format=torch.contiguous_format)
    jobs = split_rows(x)
    sums = LinearBNReLUGradients(len(jobs), weight)

    def worker(numbers: Iterator[int]) -> None:
        for number in numbers:
            for rows in jobs[number]:
                count = rows.stop - rows.start
                inputs = tile_buffer("inputs", x, x.shape[1])[:count]
                torch.sub(x[rows], input_center, out=inputs)
                passed = tile_buffer("gradients", x, len(weight))[:count]
                if center is not None and offset is not None and matrix is not None:
                    centered = tile_buffer("centered", x, len(weight))[:count]
                    torch.sub(y[rows], center, out=centered)
                    torch.addmm(of_y[rows], centered, matrix, out=passed).add_(offset)
                else:
                    passed.copy_(of_y[rows])
                sums.add(number, passed, y[rows], inputs)
                if needs_x:
                    torch.mm(passed, weight, out=of_x[rows])

    run_jobs(worker, len(jobs))
    return (of_x, *sums.totals())


def _layer_gradient_fake(
    x: Tensor,
    input_center: Tensor,
    weight: Tensor,
    y: Tensor,
    of_y: Tensor,
    center: Tensor | None,
    offset: Tensor | None,
    matrix: Tensor | None,
    needs_x: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    of_x = x.new_empty(x.shape if needs_x else (0, x.shape[1]))
    return of_x, weight.new_empty(weight.shape), weight.new_empty(weight.shape[0])


class LinearBNReLUGradients:
    """The gradients of a hidden layer's weight and bias in the making."""

    def __init__(self, num_jobs: int, weight: Tensor) -> None:
        self._weight = PartialSums("hidden weights", num_jobs, weight, *weight.shape)
        self._bias = PartialSums("hidden biases", num_jobs, weight, len(weight))

    def add(self, job: int, gradient: Tensor, y: Tensor, inputs: Tensor) -> None:
        """Take the gradient `(M, D)` of y back through ReLU, in place, and add the layer's."""
        torch.ops.aten.threshold_backward(gradient, y, 0, grad_input=gradient)
        self._weight[job].addmm_(gradient.t(), inputs)
        self._bias[job].add_(gradient.sum(0))

    def totals(self) -> tuple[Tensor, Tensor]:
        """Return the gradients of the weight `(D, C)` and of the bias `(D,)`."""
        return self._weight.total(), self._bias.total()


_moments_gradient = custom_op(
    "moments_backward",
    _moments_gradient_forward,
    lambda x, center, offset, matrix: x.new_empty(x.shape),
)
_moments = custom_op(
    "moments",
    _moments_forward,
    lambda x, center: (x.new_empty(x.shape[1]), x.new_empty(x.shape[1], x.shape[1])),
    _moments_setup,
    _moments_backward,
)
_layer_gradient = custom_op(
    "linear_bn_relu_backward", _layer_gradient_forward, _layer_gradient_fake
)
_linear_bn_relu = custom_op(
    "linear_bn_relu", _layer_forward, _layer_fake, _layer_setup, _layer_backward
)
