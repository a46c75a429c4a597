"""A linear layer at every position = a convolution with kernel 1: each made into the other."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from sharedmlp.convert.errors import ConversionError
from sharedmlp.convert.module_state import (
    AnyConv,
    copy_module_state,
    not_plain_reason,
    padding_reason,
)
from sharedmlp.layers.backend import get_backend, pointwise_linear


def linear_to_conv1d(linear: nn.Linear) -> nn.Conv1d:
    """Make the `nn.Conv1d` with kernel 1 that does at every position what a linear layer does.

    `linear` on `(B, N, I)` and the convolution on `(B, I, N)` give the same numbers. Each of
    its O kernels is a row of the weight, of shape 1 x I: an output is a weighted sum of the I
    input maps plus a bias, O * I + O parameters in both.

    Source: Lin et al. 2013, "Network in Network", section 3.1 (the shared layer as a 1x1
    convolution); Qi et al. 2017, "PointNet", section 4.2.

    The parameters are copies, bit by bit; device, dtype, requires_grad, mode and hooks are kept.
    The hooks then see channels first.

    Args:
        linear: Of weight `(O, I)`.

    Returns:
        A convolution of weight `(O, I, 1)`, which also loads the weights of `linear`.

    Raises:
        ConversionError: If `linear` is not plain: a subclass, parametrized, weight-normed.
    """
    return cast(nn.Conv1d, _from_linear(linear, "conv1d"))


def linear_to_conv2d(linear: nn.Linear) -> nn.Conv2d:
    """Make the 1x1 `nn.Conv2d` that does at every position what a linear layer does.

    As `linear_to_conv1d`, for `(B, I, H, W)`. Applied to an image flattened to one position
    of n * n * i channels, `x.flatten(1)[..., None, None]`, it is the fully connected layer over
    the image; to have that layer as one convolution over the image itself, which is n x n and not
    1x1, take `fc_to_conv`.

    Args:
        linear: Of weight `(O, I)`.

    Returns:
        A convolution of weight `(O, I, 1, 1)`.

    Raises:
        ConversionError: As `linear_to_conv1d`.
    """
    return cast(nn.Conv2d, _from_linear(linear, "conv2d"))


def conv_to_linear(conv: AnyConv) -> nn.Linear:
    """Make the linear layer that a convolution of one position applies at every position.

    The inverse, bit by bit, of `linear_to_conv1d` and `linear_to_conv2d`: the
    convolution on `(B, I, ...)` and the linear layer on `(B, ..., I)` give the same numbers.

    Args:
        conv: With a kernel of 1 on every axis, stride 1, no padding and groups=1.

    Returns:
        A linear layer of weight `(O, I)`.

    Raises:
        ConversionError: If `conv` is another kind of convolution, or not plain; says why.
    """
    reason = not_plain_reason(conv, nn.Conv1d, nn.Conv2d, nn.Conv3d) or not_pointwise_reason(conv)
    if reason is not None:
        hint = ""
        if any(size > 1 for size in conv.kernel_size):
            hint = "; conv_to_fc takes a kernel as large as the whole input"
        raise ConversionError(f"{conv} is no linear layer at every position: {reason}{hint}")
    with torch.device("meta"):
        new = nn.Linear(conv.in_channels, conv.out_channels, bias=conv.bias is not None)
    return copy_module_state(conv, new, conv.weight.flatten(1))


def not_pointwise_reason(module: nn.Module) -> str | None:
    """Say in words why a plain linear map or convolution is not the same map at every position."""
    if isinstance(module, nn.Linear):
        return None
    conv = cast(AnyConv, module)
    if any(size > 1 for size in conv.kernel_size):
        return f"its kernel {conv.kernel_size} sees more than one position"
    if conv.groups > 1:
        return (
            f"groups={conv.groups} makes its matrix block diagonal, and training would fill the "
            "zeros between the blocks of a linear layer"
        )
    if any(step > 1 for step in conv.stride):
        return f"stride={conv.stride} skips positions"
    padding = padding_reason(conv)
    return f"{padding}, and there its output is the bias alone" if padding else None


def _from_linear(linear: nn.Linear, backend: str) -> nn.Module:
    reason = not_plain_reason(linear, nn.Linear)
    if reason is not None:
        raise ConversionError(f"cannot convert {linear}: {reason}")
    with torch.device("meta"):
        new = pointwise_linear(
            get_backend(backend), linear.in_features, linear.out_features, linear.bias is not None
        )
    return copy_module_state(linear, new, linear.weight.reshape(new.get_parameter("weight").shape))
