"""A product with a weight whose results, in both directions, are in huge pages."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sharedmlp.ops.cpu.huge_pages import empty_large
from sharedmlp.ops.custom_op import custom_op
from sharedmlp.ops.reference import double_backward


def product(x: Tensor, weight: Tensor) -> Tensor:
    """Return `x @ weight.T`, `(..., C) -> (..., D)`.

    Args:
        x: `(..., C)`.
        weight: `(D, C)`.
    """
    y: Tensor = _product(x.flatten(0, -2), weight)
    return y.view(*x.shape[:-1], -1)


def _forward(x: Tensor, weight: Tensor) -> Tensor:
    return torch.mm(x, weight.t(), out=empty_large(x, len(x), len(weight)))


def _setup(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
    x, weight = ctx.saved_tensors
    if torch.is_grad_enabled():  # somebody will differentiate the gradients again
        of_x, of_weight = double_backward(
            lambda x, weight: (x @ weight.t(),), (x, weight), (gradient,)
        )
        return of_x, of_weight
    needs_x, needs_weight = ctx.needs_input_grad
    of_x = _gradient(gradient, weight) if needs_x else None
    return of_x, gradient.t() @ x if needs_weight else None


def _gradient_forward(gradient: Tensor, weight: Tensor) -> Tensor:
    return torch.mm(gradient, weight, out=empty_large(gradient, len(gradient), weight.shape[1]))


_gradient = custom_op(
    "product_backward",
    _gradient_forward,
    lambda gradient, weight: gradient.new_empty(gradient.shape[0], weight.shape[1]),
)
_product = custom_op(
    "product",
    _forward,
    lambda x, weight: x.new_empty(x.shape[0], weight.shape[0]),
    _setup,
    _backward,
)
