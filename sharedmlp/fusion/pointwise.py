"""Which calls are a pointwise layer, and which are an activation that can follow one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sharedmlp.fusion.lazy_tensor import LazyTensor, watches_saved_tensors
from sharedmlp.ops.gate import result_dtype_of, tensor_reasons, watcher_reason
from sharedmlp.ops.layer import Activation

CONVOLUTIONS = (torch.conv1d, torch.conv2d)


def _named(name: str) -> Callable[[], Activation]:
    return lambda: Activation(name)


def _leaky_relu(negative_slope: float = 0.01) -> Activation:
    return Activation("leaky_relu", negative_slope)


# Monotone activations -> what takes the call's further arguments to the activation.
ACTIVATIONS: dict[Callable[..., Any], Callable[..., Activation]] = {
    functional.relu: _named("relu"),
    torch.relu: _named("relu"),
    torch.relu_: _named("relu"),
    torch.Tensor.relu: _named("relu"),
    torch.Tensor.relu_: _named("relu"),
    functional.leaky_relu: _leaky_relu,
    functional.leaky_relu_: _leaky_relu,
    torch.tanh: _named("tanh"),
    torch.Tensor.tanh: _named("tanh"),
    torch.sigmoid: _named("sigmoid"),
    torch.Tensor.sigmoid: _named("sigmoid"),
}


def is_pointwise(weight: Tensor, stride: Any, padding: Any, groups: int) -> bool:
    """Whether a convolution sees one position at a time, and every one of them."""
    return (
        all(size == 1 for size in weight.shape[2:])
        and _all(stride, 1)
        and (isinstance(padding, str) or _all(padding, 0))
        and groups == 1
    )


def not_deferred_reason(x: Tensor, weight: Tensor, bias: Tensor | None, channel: int) -> str | None:
    """Say in words why a layer is not even deferred; None if it can be."""
    watcher = watcher_reason()
    if watcher is not None:
        return watcher
    if type(weight) is not nn.Parameter or type(bias) not in (nn.Parameter, type(None)):
        return "its weight or bias is computed, not a parameter"
    if type(x) is not LazyTensor:
        reasons = tensor_reasons(x)
        if reasons:
            return reasons[0]
    if watches_saved_tensors():
        return "what autograd saves is watched here, as by torch.utils.checkpoint"
    dtypes = {weight.dtype, result_dtype_of(weight)}
    usual = weight.device == x.device and x.dtype in dtypes
    if not usual or x.shape[channel] != weight.shape[1] or x.numel() == 0:
        return f"its input {tuple(x.shape)} of {x.dtype} on {x.device} is an error or empty"
    return None


def _all(value: Any, wanted: int) -> bool:
    return all(v == wanted for v in value) if isinstance(value, (tuple, list)) else value == wanted
