"""A pointwise layer, batch norm and ReLU in few passes over memory, with the same numbers.

In front of the widest layer stand narrow ones, whose time goes into reading and writing: linear
map, batch norm's statistics, batch norm, ReLU, and all of it again backwards. Their statistics too
follow from the mean and covariance of the input (:mod:`sharedmlp.layers.fused`), so that batch norm
folds into the linear map before anything is written, and each tile of points goes through the rest
while it is in the cache. For CPUs: on a GPU torch's own kernels are launched once for all points.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from sharedmlp.layers.threads import run_jobs

_ROWS = 1024
_MAX_JOBS = 16  # sums are taken in at most this many parts, whatever the number of threads


def input_moments(x: Tensor, center: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the mean ``(C,)`` and second moment ``(C, C)`` of ``x (M, C) - center``."""
    mean, second = _Moments.apply(x, center)  # type: ignore[no-untyped-call]
    return mean, second


def affine_relu(x: Tensor, center: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Returns ``relu((x - center) @ weight.T + bias)``, ``(M, C) -> (M, D)``."""
    y: Tensor = _AffineReLU.apply(x, center, weight, bias)  # type: ignore[no-untyped-call]
    return y


def _deal_rows(count: int) -> list[list[slice]]:
    """Deals tiles of rows to jobs."""
    tiles = [slice(i, min(i + _ROWS, count)) for i in range(0, count, _ROWS)]
    num_jobs = min(_MAX_JOBS, len(tiles))
    bounds = [len(tiles) * i // num_jobs for i in range(num_jobs + 1)]
    return [tiles[bounds[i] : bounds[i + 1]] for i in range(num_jobs)]


class _Moments(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, center: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        ctx.save_for_backward(x, center)
        jobs = _deal_rows(len(x))
        sums = x.new_zeros(len(jobs), x.shape[1])
        products = x.new_zeros(len(jobs), x.shape[1], x.shape[1])

        def worker(numbers: Iterator[int]) -> None:
            buffer = x.new_empty(min(_ROWS, len(x)), x.shape[1])
            for number in numbers:
                for rows in jobs[number]:
                    centred = buffer[: rows.stop - rows.start]
                    torch.sub(x[rows], center, out=centred)
                    sums[number].add_(centred.sum(0))
                    products[number].addmm_(centred.t(), centred)

        run_jobs(worker, len(jobs))
        return sums.sum(0) / len(x), products.sum(0) / len(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        x, center = ctx.saved_tensors
        of_mean, of_second = gradients
        matrix = (of_second + of_second.t()) / len(x)
        offset = of_mean / len(x)
        if torch.is_grad_enabled():  # somebody will differentiate the gradients again
            return (x - center) @ matrix + offset, None
        result = torch.empty_like(x)
        jobs = _deal_rows(len(x))

        def worker(numbers: Iterator[int]) -> None:
            buffer = x.new_empty(min(_ROWS, len(x)), x.shape[1])
            for number in numbers:
                for rows in jobs[number]:
                    centred = buffer[: rows.stop - rows.start]
                    torch.sub(x[rows], center, out=centred)
                    torch.addmm(offset, centred, matrix, out=result[rows])

        run_jobs(worker, len(jobs))
        return result, None


class _AffineReLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        x: Tensor,
        center: Tensor,
        weight: Tensor,
        bias: Tensor,
    ) -> Tensor:
        y = x.new_empty(len(x), len(weight))
        jobs = _deal_rows(len(x))

        def worker(numbers: Iterator[int]) -> None:
            buffer = x.new_empty(min(_ROWS, len(x)), x.shape[1])
            for number in numbers:
                for rows in jobs[number]:
                    centred = buffer[: rows.stop - rows.start]
                    torch.sub(x[rows], center, out=centred)
                    torch.addmm(bias, centred, weight.t(), out=y[rows]).relu_()

        run_jobs(worker, len(jobs))
        ctx.save_for_backward(x, center, weight, y)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        x, center, weight, y = ctx.saved_tensors
        (gradient,) = gradients
        if torch.is_grad_enabled():  # somebody will differentiate the gradients again
            passed = gradient * (y > 0)
            return passed @ weight, None, passed.t() @ (x - center), passed.sum(0)
        of_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        jobs = _deal_rows(len(x))
        of_weight = x.new_zeros(len(jobs), *weight.shape)
        of_bias = x.new_zeros(len(jobs), len(weight))

        def worker(numbers: Iterator[int]) -> None:
            size = min(_ROWS, len(x))
            inputs, passes = x.new_empty(size, x.shape[1]), x.new_empty(size, len(weight))
            for number in numbers:
                for rows in jobs[number]:
                    centred = inputs[: rows.stop - rows.start]
                    passed = passes[: rows.stop - rows.start]
                    torch.sub(x[rows], center, out=centred)
                    torch.ops.aten.threshold_backward(gradient[rows], y[rows], 0, grad_input=passed)
                    of_weight[number].addmm_(passed.t(), centred)
                    of_bias[number].add_(passed.sum(0))
                    if of_x is not None:
                        torch.mm(passed, weight, out=of_x[rows])

        run_jobs(worker, len(jobs))
        return of_x, None, of_weight.sum(0), of_bias.sum(0)
