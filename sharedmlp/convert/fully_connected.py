"""A fully connected layer over an input = a convolution with a kernel as large as the input."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, Literal

from torch import nn

from sharedmlp.convert.errors import ConversionError
from sharedmlp.convert.module_state import (
    AnyConv,
    copy_module_state,
    not_plain_reason,
    padding_reason,
)

Order = Literal["channels_first", "channels_last"]

_CONVS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def fc_to_conv(
    linear: nn.Linear,
    in_channels: int,
    kernel_size: int | Sequence[int],
    *,
    order: Order = "channels_first",
) -> AnyConv:
    """Make the convolution that is a fully connected layer over an n x n input of i channels.

    It has m filters as large as the input, no padding and one output position: n * n * i * m + m
    parameters, those of the layer. Only for n = 1 is it a 1x1 convolution. On a larger input it
    gives a map, each position of which is the layer on its own n x n window.

    Source: LeCun et al. 1998, "Gradient-Based Learning Applied to Document Recognition", section
    II.B (C5 is called a convolution because a larger input would give a map); Long et al. 2015,
    "Fully Convolutional Networks for Semantic Segmentation", section 3.1.

    The parameters are copies, bit by bit; device, dtype, requires_grad, mode and hooks are kept.

    Args:
        linear: Of weight `(m, in_channels * prod(kernel_size))`.
        in_channels: Channels i of the input that was flattened.
        kernel_size: Its spatial sizes: a tuple of one, two or three makes an `nn.Conv1d`,
            `nn.Conv2d` or `nn.Conv3d`; an integer n means `(n, n)`.
        order: How the input was flattened: `"channels_first"` as torch's flatten of (C, H, W),
            `"channels_last"` as TensorFlow's of (H, W, C). The convolution takes channels first
            in both cases.

    Returns:
        A convolution of weight `(m, in_channels, *kernel_size)`.

    Raises:
        ConversionError: If the sizes do not fit `linear`, or `linear` is not plain.
        ValueError: If `order` or `kernel_size` is none of the above.
    """
    _check_order(order)
    kernel = _sizes(kernel_size, "kernel_size", 2 if isinstance(kernel_size, int) else None)
    reason = not_plain_reason(linear, nn.Linear)
    if reason is not None:
        raise ConversionError(f"cannot convert {linear}: {reason}")
    if linear.in_features != in_channels * prod(kernel):
        raise ConversionError(
            f"in_channels={in_channels} and kernel_size={kernel} make "
            f"{in_channels * prod(kernel)} features, and the layer takes {linear.in_features}: "
            "pass the channels and sizes of its input before the flatten"
        )
    new: AnyConv = _CONVS[len(kernel)](
        in_channels, linear.out_features, kernel, bias=linear.bias is not None, device="meta"
    )
    if order == "channels_first":
        weight = linear.weight.reshape(new.weight.shape)
    else:
        weight = linear.weight.reshape(linear.out_features, *kernel, in_channels).movedim(-1, 1)
    return copy_module_state(linear, new, weight)


def conv_to_fc(
    conv: AnyConv, input_size: int | Sequence[int], *, order: Order = "channels_first"
) -> nn.Linear:
    """Make the fully connected layer that a convolution as large as its input is.

    The inverse of `fc_to_conv`, bit by bit. Every convolution over an input of fixed size is
    some linear map, but a smaller kernel gives a matrix in which the same weights repeat, with
    zeros between them: as a layer, training would make them differ. That is refused, with the
    setting that causes it.

    Args:
        conv: Without padding, dilation and groups; its stride never takes a step.
        input_size: Spatial sizes of the input; an integer means the same on every axis.
        order: How the input of the layer will be flattened, see `fc_to_conv`.

    Returns:
        A linear layer of weight `(m, in_channels * prod(input_size))`.

    Raises:
        ConversionError: If the kernel is not as large as the input, or `conv` pads, dilates, has
            groups or is not plain.
        ValueError: If `order` or `input_size` is none of the above.
    """
    _check_order(order)
    reason = not_plain_reason(conv, *_CONVS.values())
    if reason is None:
        sizes = _sizes(input_size, "input_size", len(conv.kernel_size))
        if len(sizes) != len(conv.kernel_size):
            raise ValueError(
                f"input_size has {len(sizes)} sizes and {type(conv).__name__} takes "
                f"{len(conv.kernel_size)}: pass the spatial sizes without batch and channels"
            )
        reason = _not_one_window_reason(conv, sizes)
    if reason is not None:
        raise ConversionError(f"{conv} is no fully connected layer over {input_size}: {reason}")
    new = nn.Linear(
        conv.weight[0].numel(), conv.out_channels, bias=conv.bias is not None, device="meta"
    )
    weight = conv.weight if order == "channels_first" else conv.weight.movedim(1, -1)
    return copy_module_state(conv, new, weight.flatten(1))


def _not_one_window_reason(conv: AnyConv, sizes: tuple[int, ...]) -> str | None:
    repeats = "the matrix would repeat its weights, and training would make the copies differ"
    if conv.groups > 1:
        return (
            f"groups={conv.groups} connects each output to a part of the channels, and training "
            "would fill the zeros of the others"
        )
    padding = padding_reason(conv)
    if padding is not None:
        return f"{padding}, so that the kernel sees several places: {repeats}"
    gaps = zip(conv.dilation, conv.kernel_size, strict=True)
    if any(step > 1 and size > 1 for step, size in gaps):
        return f"dilation={conv.dilation} leaves gaps, and training would fill their zeros"
    if any(kernel > size for kernel, size in zip(conv.kernel_size, sizes, strict=True)):
        return f"its kernel {conv.kernel_size} is larger than the input"
    if tuple(conv.kernel_size) != sizes:
        return f"its kernel {conv.kernel_size} is smaller than the input: {repeats}"
    return None


def _sizes(value: int | Sequence[int], name: str, axes: int | None) -> tuple[int, ...]:
    """Return the sizes; an integer counts for all `axes`."""
    sizes = (value,) * (axes or 1) if isinstance(value, int) else tuple(value)
    if len(sizes) not in _CONVS or any(not isinstance(n, int) or n < 1 for n in sizes):
        raise ValueError(
            f"{name} is a positive integer or a tuple of one, two or three, got {value!r}"
        )
    return sizes


def _check_order(order: str) -> None:
    if order not in ("channels_first", "channels_last"):
        raise ValueError(
            'order is "channels_first" for a flatten of (C, H, W), as torch\'s, or '
            f'"channels_last" for one of (H, W, C), as TensorFlow\'s, got {order!r}'
        )
