"""Differentiable functions that eager code calls directly and compiled code as one node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def custom_op(
    name: str,
    forward: Callable[..., Any],
    fake: Callable[..., Any],
    setup_context: Callable[..., None] | None = None,
    backward: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    """Register a function as `sharedmlp::NAME` and return what calls it.

    Compilers see one operator with a fake implementation and a gradient formula. Eager code calls
    the same functions by `torch.autograd.Function`, which takes a third of the operator's time.

    Args:
        name: The operator's name.
        forward: The implementation; its annotations make the operator's schema.
        fake: Makes empty outputs of the right shapes.
        setup_context: Saves what `backward` needs, as in `torch.autograd.Function`.
        backward: The gradients of the inputs; None if the function has none.
    """
    operator = torch.library.custom_op(f"sharedmlp::{name}", forward, mutates_args=())
    operator.register_fake(fake)
    direct = forward
    if backward is not None:
        operator.register_autograd(backward, setup_context=setup_context)
        methods = {"forward": forward, "setup_context": setup_context, "backward": backward}
        function = type(
            name,
            (torch.autograd.Function,),
            {key: staticmethod(method) for key, method in methods.items()},  # type: ignore[arg-type]
        )
        direct = function.apply  # type: ignore[attr-defined]

    def call(first: Tensor, *args: Any) -> Any:
        compiling = torch.compiler.is_compiling() or type(first) not in (Tensor, nn.Parameter)
        return operator(first, *args) if compiling else direct(first, *args)

    return call
