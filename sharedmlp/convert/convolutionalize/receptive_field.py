"""Local operations: those whose output at one position sees one window of their input.

This is the one table of what may stand before a flatten. Everything that is not in it is
refused, because an output of an unknown operation may see the whole input: then a map of outputs
has no windows.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.fx.node import Node
from torch.nn import functional as F

from sharedmlp.convert.convolutionalize.flatten_windows import FlattenWindows
from sharedmlp.convert.convolutionalize.tracing import Traced, arguments

Pair = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """Output i along an axis reads `i * stride - padding + dilation * j`, j in range(kernel)."""

    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)


POINT = Window()


@dataclass(frozen=True)
class ReceptiveField:
    """Position i along an axis sees `[i * jump + low, i * jump + high)` of the network's input.

    Source: Long et al. 2015, "Fully Convolutional Networks for Semantic Segmentation", section 3,
    for the composition of kernels and strides.
    """

    jump: int = 1
    low: int = 0
    high: int = 1

    def followed_by(self, kernel: int, stride: int, padding: int, dilation: int) -> ReceptiveField:
        """Compose with a window that reads this map."""
        first, last = -padding, -padding + dilation * (kernel - 1)
        return ReceptiveField(
            self.jump * stride, self.low + first * self.jump, self.high + last * self.jump
        )


ReceptiveFields = tuple[ReceptiveField, ReceptiveField]  # along the rows, along the columns
INPUT: ReceptiveFields = (ReceptiveField(), ReceptiveField())

# Elementwise at any number of dimensions.
ELEMENTWISE_MODULES: tuple[type[nn.Module], ...] = (
    *(nn.Identity, nn.Dropout, nn.AlphaDropout),
    *(nn.ReLU, nn.LeakyReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Hardshrink, nn.Softshrink, nn.Threshold),
    *(nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Tanhshrink, nn.Softplus, nn.Softsign),
)
ELEMENTWISE: set[object] = {
    *(operator.add, operator.sub, operator.mul, operator.truediv, operator.neg, operator.pow),
    *(operator.iadd, operator.isub, operator.imul, operator.itruediv),
    *(torch.add, torch.sub, torch.mul, torch.div, torch.neg, torch.maximum, torch.minimum),
    *(torch.relu, torch.relu_, torch.sigmoid, torch.tanh, torch.clamp, torch.abs, torch.exp),
    *(F.relu, F.leaky_relu, F.relu6, F.elu, F.selu, F.celu, F.gelu, F.silu, F.mish),
    *(F.hardtanh, F.hardswish, F.hardsigmoid, F.logsigmoid, F.softplus, F.softsign),
    *(F.dropout, F.alpha_dropout),
    *("add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_", "neg", "abs", "exp", "pow"),
    *("relu", "relu_", "sigmoid", "tanh", "clamp", "clamp_", "contiguous", "clone"),
}
CAT: set[object] = {torch.cat, torch.concat, torch.concatenate}
SOFTMAX: set[object] = {
    F.softmax,
    F.log_softmax,
    torch.softmax,
    torch.log_softmax,
    "softmax",
    "log_softmax",
}
RESHAPE: set[object] = {
    *(nn.Flatten, torch.flatten, torch.reshape, torch.squeeze),
    *("flatten", "view", "reshape", "squeeze"),
}


def propagate(
    node: Node, traced: Traced, fields: Mapping[Node, ReceptiveFields]
) -> ReceptiveFields:
    """Compose the fields of the maps that a local node reads with the node's own window.

    Raises:
        ConversionError: If the node is not local.
    """
    window = _window(node, traced)
    if isinstance(window, str):
        raise traced.error(node, window)
    maps = [source for source in traced.tensor_inputs(node) if source in fields]
    reason = _inputs_reason(node, traced, maps)
    if reason is not None:
        raise traced.error(node, reason)
    return compose(union(node, traced, [fields[source] for source in maps]), window)


def compose(fields: ReceptiveFields, window: Window) -> ReceptiveFields:
    """Return the fields after one more window."""
    steps = zip(window.kernel, window.stride, window.padding, window.dilation, strict=True)
    rows, columns = (f.followed_by(*step) for f, step in zip(fields, steps, strict=True))
    return rows, columns


def union(node: Node, traced: Traced, inputs: Sequence[ReceptiveFields]) -> ReceptiveFields:
    """Return the smallest fields that contain those of all branches that meet in a node.

    Raises:
        ConversionError: If the branches have different strides: if their maps are of one size at
            one input, they are not at another.
    """
    rows, columns = ([fields[axis] for fields in inputs] for axis in (0, 1))
    for branches in (rows, columns):
        if len({field.jump for field in branches}) != 1:
            strides = ", ".join(str(field.jump) for field in branches)
            raise traced.error(
                node,
                f"it joins branches that move over the input with different strides ({strides}): "
                "their maps agree at one size of the input alone",
            )
    row, column = (
        ReceptiveField(fs[0].jump, min(f.low for f in fs), max(f.high for f in fs))
        for fs in (rows, columns)
    )
    return row, column


def _inputs_reason(node: Node, traced: Traced, maps: Sequence[Node]) -> str | None:
    """Say why what a node reads cannot be joined position by position."""
    if any(source in traced.numbers for source in node.all_input_nodes):
        return (
            "it computes with a number, such as the size of its input, that differs at every size"
        )
    sizes = {traced.shapes[source][2:] for source in maps}
    if len(sizes) != 1:
        shapes = ", ".join(" x ".join(map(str, size)) for size in sorted(sizes))
        return (
            f"it broadcasts maps of different sizes ({shapes or 'none'}), so an output sees all of "
            "the smaller one, as in squeeze and excitation: only maps of equal sizes are local"
        )
    if node.target is torch.conv2d:  # its other tensors are weights
        moving = arguments(node, _CONV_NAMES)["weight"] in maps
        return "its kernel is made of the input, all of which it sees" if moving else None
    for source in traced.tensor_inputs(node):
        shape = traced.shapes[source]
        if source not in maps and any(size != 1 for size in shape[-2:]):
            return (
                f"it reads a tensor {source.target!r} of shape {shape} that does not come from the "
                "input: one of the input's own size, such as a positional parameter, fits no other "
                "size; one number a channel is (C, 1, 1)"
            )
    return None


def _window(node: Node, traced: Traced) -> Window | str:
    """Return the window of a node, or why it has none."""
    key = traced.key(node)
    if node.op == "call_module":
        module = traced.modules[str(node.target)]
        for kinds, rule in _MODULES:
            if isinstance(module, kinds):
                return rule(module)
    elif key in ELEMENTWISE:
        return POINT
    elif key in CAT:
        dim = arguments(node, ["tensors", "dim"]).get("dim", 0)
        return POINT if dim in (1, -3) else f"it joins maps along dimension {dim}, not 1 (channels)"
    elif key in SOFTMAX:
        return _softmax(arguments(node, ["input", "dim"]).get("dim"))
    elif key in _FUNCTIONS:
        names, window = _FUNCTIONS[key]
        given = arguments(node, names)
        if "weight" in given:
            given["kernel_size"] = traced.shapes[given["weight"]][2:]
        return window(given)
    if key in RESHAPE:
        shapes = [traced.shapes[n] for n in (*traced.tensor_inputs(node), node)]
        return (
            f"it makes {shapes[-1]} of {shapes[0]}, and then no output has a window. A flatten of "
            "(B, C, h, w) to (B, C * h * w), and no other change of shape, can be replaced: "
            "convolutionalize the network first, at the input size that it was trained at"
        )
    return _NOT_LOCAL.get(key, "it is not known to be local: an output may see the whole input")


def pair(value: int | Sequence[int]) -> Pair:
    """Read the sizes of torch's layers: `3`, `(3,)` and `(3, 3)` are the same."""
    sizes = (value,) if isinstance(value, int) else tuple(value)
    return sizes[0], sizes[-1]


def _sliding(given: Mapping[str, Any]) -> Window:
    kernel, dilation = pair(given["kernel_size"]), pair(given.get("dilation", 1))
    padding = given.get("padding", 0)
    if padding == "same":  # torch pads one less at the start if the total is odd
        rows, columns = (d * (k - 1) // 2 for d, k in zip(dilation, kernel, strict=True))
        padding = (rows, columns)
    return Window(
        kernel, pair(given["stride"]), pair(0 if padding == "valid" else padding), dilation
    )


def _pool(given: Mapping[str, Any]) -> Window | str:
    if given.get("return_indices"):
        return "it returns indices into its input, which differ at every size"
    return _sliding({**given, "stride": given.get("stride") or given["kernel_size"]})


def _convolution(given: Mapping[str, Any]) -> Window | str:
    window = _sliding({"stride": 1, **given})
    if given.get("padding_mode") == "circular" and window.padding != (0, 0):
        return "circular padding shows the other side of the input, which is no window"
    return window


def _softmax(dim: int | None) -> Window | str:
    if dim in (None, 1, -3):  # None is 1 for a map
        return POINT
    return f"it normalizes over dimension {dim}, a sum over positions, and not over channels (1)"


def batch_norm(norm: nn.modules.batchnorm._BatchNorm) -> Window | str:
    """Return the window of a norm: one position if it uses running statistics."""
    if norm.running_mean is None:
        return "without running statistics it normalizes over all positions, so none is on its own"
    return POINT


_MODULES: tuple[tuple[Any, Callable[[Any], Window | str]], ...] = (
    (nn.Conv2d, lambda module: _convolution(vars(module))),
    ((nn.MaxPool2d, nn.AvgPool2d, nn.LPPool2d), lambda module: _pool(vars(module))),
    (FlattenWindows, lambda module: Window(module.window)),
    ((nn.BatchNorm2d, nn.SyncBatchNorm), batch_norm),
    ((nn.Softmax, nn.LogSoftmax), lambda module: _softmax(module.dim)),
    (
        (*ELEMENTWISE_MODULES, nn.PReLU, nn.Dropout2d, nn.Softmax2d, nn.LocalResponseNorm),
        lambda module: POINT,
    ),
)
_CONV_NAMES = ["input", "weight", "bias", "stride", "padding", "dilation", "groups"]
_MAX_NAMES = ["input", "kernel_size", "stride", "padding", "dilation", "ceil_mode"]
_AVG_NAMES = ["input", "kernel_size", "stride", "padding", "ceil_mode"]
_FUNCTIONS: dict[Any, tuple[list[str], Callable[[Mapping[str, Any]], Window | str]]] = {
    torch.conv2d: (_CONV_NAMES, _convolution),
    F.max_pool2d: ([*_MAX_NAMES, "return_indices"], _pool),
    torch.max_pool2d: (_MAX_NAMES, _pool),
    F.avg_pool2d: (_AVG_NAMES, _pool),
    F.dropout2d: (["input"], lambda given: POINT),
    F.local_response_norm: (["input"], lambda given: POINT),
}
_SIZED = "its window depends on the size of its input: convolutionalize the network first"
_POSITIONS = "its statistics are taken over all positions, so no output is a position's own"
_NOT_LOCAL: dict[Any, str] = {
    **dict.fromkeys((nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d), _SIZED),
    **dict.fromkeys((F.adaptive_avg_pool2d, F.adaptive_max_pool2d), _SIZED),
    **dict.fromkeys((torch.mean, torch.amax, "mean", "amax"), _SIZED),
    **dict.fromkeys((nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm2d), _POSITIONS),
    **dict.fromkeys((F.group_norm, F.layer_norm, F.instance_norm), _POSITIONS),
    nn.Linear: (
        "it works along the last axis, which is no axis of channels here: convolutionalize makes a "
        "convolution of a Linear that comes after a flatten to (B, C * h * w)"
    ),
    nn.MultiheadAttention: "in attention every position sees every other",
    F.scaled_dot_product_attention: "in attention every position sees every other",
    F.linear: "its weight is no module's own: make it an nn.Linear",
}
