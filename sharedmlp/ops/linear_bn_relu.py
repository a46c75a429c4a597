"""A pointwise layer, batch norm and ReLU in few passes over memory, with the same numbers.

In front of the widest layer stand narrow ones, whose time goes into reading and writing: linear
map, batch norm's statistics, batch norm, ReLU, and all of it again backwards. Their statistics too
follow from the mean and covariance of the input (:mod:`sharedmlp.layers.fused`), so that batch norm
folds into the linear map before anything is written. Each tile of points goes through the layer and
into the next one's moments while it is in the cache, and in the backward pass the same way back.
For CPUs: on a GPU torch's own kernels are launched once for all points.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sharedmlp.ops.threads import run_jobs, thread_buffer
from sharedmlp.ops.tiles import split_rows, tile_buffer


class FoldedLinear(NamedTuple):
    """A narrow layer with batch norm folded in: ``relu((x - center) @ weight.T + bias)``.

    Attributes:
        center: ``(C,)``; a constant.
        weight: ``(D, C)``.
        bias: ``(D,)``.
    """

    center: Tensor
    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Takes ``(..., C)`` to ``(..., D)``."""
        return torch.nn.functional.linear(x - self.center, self.weight, self.bias).relu()

    def write(self, x: Tensor, centred: Tensor, y: Tensor) -> None:
        """Takes ``(M, C)`` to ``y (M, D)`` by way of ``centred (M, C)``, both written over."""
        torch.sub(x, self.center, out=centred)
        torch.addmm(self.bias, centred, self.weight.t(), out=y).relu_()


class Moments(NamedTuple):
    """The first two moments of ``rows (M, C)`` around a center.

    Attributes:
        rows: The rows themselves, for the next layer to read: on the way back its gradient and
            that of the moments then meet in one pass.
        mean: ``(C,)``, the mean of ``row - center``.
        second: ``(C, C)``, the mean of ``(row - center) (row - center)^T``.
    """

    rows: Tensor
    mean: Tensor
    second: Tensor


def input_moments(x: Tensor, center: Tensor) -> Moments:
    """Returns the moments of ``x (M, C)`` around the center ``(C,)``."""
    return Moments(*_Moments.apply(x, center))  # type: ignore[no-untyped-call]


def linear_bn_relu_moments(x: Tensor, layer: FoldedLinear, center: Tensor) -> Moments:
    """Returns ``layer(x)``, ``(M, C) -> (M, D)``, and its moments around the center ``(D,)``."""
    return Moments(*_LinearBNReLU.apply(x, *layer, center))  # type: ignore[no-untyped-call]


def linear_bn_relu(x: Tensor, layer: FoldedLinear) -> Tensor:
    """Returns ``layer(x)``, ``(M, C) -> (M, D)``."""
    y: Tensor = _LinearBNReLU.apply(x, *layer, None)[0]  # type: ignore[no-untyped-call]
    return y


class PartialSums:
    """Sums over points, a part a job: added at the end, in the order of the jobs."""

    def __init__(self, name: str, num_jobs: int, like: Tensor, *shape: int) -> None:
        size = torch.Size((num_jobs, *shape))
        self._parts = thread_buffer(name, size.numel(), like).view(size).zero_()

    def __getitem__(self, job: int) -> Tensor:
        """Returns the part of a job."""
        return self._parts[job]

    def total(self) -> Tensor:
        """Returns the sum of all parts."""
        return self._parts.sum(0)


class MomentSums:
    """Moments in the making."""

    def __init__(self, num_jobs: int, like: Tensor, channels: int) -> None:
        self._first = PartialSums("first moments", num_jobs, like, channels)
        self._second = PartialSums("second moments", num_jobs, like, channels, channels)

    def add(self, job: int, centred: Tensor) -> None:
        """Adds the rows ``(M, C)`` of a tile."""
        self._first[job].add_(centred.sum(0))
        self._second[job].addmm_(centred.t(), centred)

    def means(self, count: int) -> tuple[Tensor, Tensor]:
        """Returns the moments of all ``count`` rows."""
        return self._first.total() / count, self._second.total() / count


def moment_gradients(of_mean: Tensor, of_second: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Returns u ``(C,)`` and A ``(C, C)``: a row gets ``u + A (row - center)`` from the moments."""
    return of_mean / count, (of_second + of_second.t()) / count


def _plain_moments(rows: Tensor, center: Tensor) -> tuple[Tensor, Tensor]:
    centred = rows - center
    return centred.mean(0), centred.t() @ centred / len(rows)


def double_backward(
    function: Any,  # noqa: ANN401
    inputs: tuple[Tensor | None, ...],
    gradients: tuple[Tensor, ...],
) -> Iterator[Tensor | None]:
    """Yields the gradients of a plain formula's inputs, so that they can be differentiated."""
    wanted = [t for t in inputs if t is not None and t.requires_grad]
    found = iter(
        torch.autograd.grad(
            function(*inputs), wanted, gradients, create_graph=True, allow_unused=True
        )
    )
    return (next(found) if t is not None and t.requires_grad else None for t in inputs)


class _Moments(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, center: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ANN401
        ctx.save_for_backward(x, center)
        jobs = split_rows(x)
        sums = MomentSums(len(jobs), x, x.shape[1])

        def worker(numbers: Iterator[int]) -> None:
            for number in numbers:
                for rows in jobs[number]:
                    centred = tile_buffer("centred", x, x.shape[1])[: rows.stop - rows.start]
                    sums.add(number, torch.sub(x[rows], center, out=centred))

        run_jobs(worker, len(jobs))
        return (x.view_as(x), *sums.means(len(x)))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None]:  # noqa: ANN401
        x, center = ctx.saved_tensors
        of_rows, of_mean, of_second = gradients
        if torch.is_grad_enabled():  # somebody will differentiate the gradients again
            of_x, _ = double_backward(
                lambda x, center: (x, *_plain_moments(x, center)), (x, center), gradients
            )
            return of_x, None
        offset, matrix = moment_gradients(of_mean, of_second, len(x))
        result = torch.empty_like(x)
        jobs = split_rows(x)

        def worker(numbers: Iterator[int]) -> None:
            for number in numbers:
                for rows in jobs[number]:
                    centred = tile_buffer("centred", x, x.shape[1])[: rows.stop - rows.start]
                    torch.sub(x[rows], center, out=centred)
                    torch.addmm(of_rows[rows], centred, matrix, out=result[rows]).add_(offset)

        run_jobs(worker, len(jobs))
        return result, None


class _LinearBNReLU(torch.autograd.Function):
    """The layer, and the moments around the center if there is one."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        x: Tensor,
        input_center: Tensor,
        weight: Tensor,
        bias: Tensor,
        center: Tensor | None,
    ) -> tuple[Tensor, ...]:
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
                        centred = tile_buffer("centred", x, len(weight))[:count]
                        sums.add(number, torch.sub(y[rows], center, out=centred))

        run_jobs(worker, len(jobs))
        ctx.save_for_backward(x, *layer, center, y)
        return (y,) if center is None else (y, *sums.means(len(x)))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        x, input_center, weight, bias, center, y = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody will differentiate the gradients again

            def plain(x: Tensor, *constants: Tensor) -> tuple[Tensor, ...]:
                y = FoldedLinear(*constants)(x)
                return (y,) if center is None else (y, *_plain_moments(y, center))

            return (*double_backward(plain, (x, input_center, weight, bias), gradients), None)
        of_y = gradients[0]
        if center is not None:
            offset, matrix = moment_gradients(gradients[1], gradients[2], len(x))
        of_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        jobs = split_rows(x)
        sums = LinearBNReLUGradients(len(jobs), weight)

        def worker(numbers: Iterator[int]) -> None:
            for number in numbers:
                for rows in jobs[number]:
                    count = rows.stop - rows.start
                    inputs = tile_buffer("inputs", x, x.shape[1])[:count]
                    torch.sub(x[rows], input_center, out=inputs)
                    passed = tile_buffer("gradients", x, len(weight))[:count]
                    if center is not None:
                        centred = tile_buffer("centred", x, len(weight))[:count]
                        torch.sub(y[rows], center, out=centred)
                        torch.addmm(of_y[rows], centred, matrix, out=passed).add_(offset)
                    else:
                        passed.copy_(of_y[rows])
                    sums.add(number, passed, y[rows], inputs)
                    if of_x is not None:
                        torch.mm(passed, weight, out=of_x[rows])

        run_jobs(worker, len(jobs))
        return (of_x, None, *sums.totals(), None)


class LinearBNReLUGradients:
    """The gradients of a narrow layer's weight and bias in the making."""

    def __init__(self, num_jobs: int, weight: Tensor) -> None:
        self._weight = PartialSums("narrow weights", num_jobs, weight, *weight.shape)
        self._bias = PartialSums("narrow biases", num_jobs, weight, len(weight))

    def add(self, job: int, gradient: Tensor, y: Tensor, inputs: Tensor) -> None:
        """Takes the gradient ``(M, D)`` of y back through ReLU, in place, and adds the layer's."""
        torch.ops.aten.threshold_backward(gradient, y, 0, grad_input=gradient)
        self._weight[job].addmm_(gradient.t(), inputs)
        self._bias[job].add_(gradient.sum(0))

    def totals(self) -> tuple[Tensor, Tensor]:
        """Returns the gradients of the weight ``(D, C)`` and of the bias ``(D,)``."""
        return self._weight.total(), self._bias.total()
