"""Pooling over the whole input, as the pooling with a fixed window that it is at one size."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.fx.node import Node
from torch.nn import functional as F

from sharedmlp.convert.convolutionalize.receptive_field import RESHAPE, Window, pair
from sharedmlp.convert.convolutionalize.tracing import Traced, arguments

_ADAPTIVE: dict[Any, Any] = {
    nn.AdaptiveAvgPool2d: nn.AvgPool2d,
    nn.AdaptiveMaxPool2d: nn.MaxPool2d,
    F.adaptive_avg_pool2d: nn.AvgPool2d,
    F.adaptive_max_pool2d: nn.MaxPool2d,
}
_REDUCTIONS: dict[Any, Any] = {
    torch.mean: nn.AvgPool2d,
    "mean": nn.AvgPool2d,
    torch.amax: nn.MaxPool2d,
    "amax": nn.MaxPool2d,
}


def fixed_pool(node: Node, traced: Traced) -> tuple[nn.Module, Window] | None:
    """Return the pooling with a fixed window that equals a global or adaptive one at this size.

    Args:
        node: A node that reads one map `(B, C, h, w)`.
        traced: Its graph.

    Returns:
        The module and its window; None for every other node.

    Raises:
        ConversionError: If no one window gives the same numbers.
    """
    key = traced.key(node)
    if key not in _ADAPTIVE and key not in _REDUCTIONS:
        return None
    before = pair(traced.shapes[traced.tensor_inputs(node)[0]][2:])
    if key in _ADAPTIVE:
        make, after = _ADAPTIVE[key], _adaptive_size(node, traced, before)
    else:
        make, after = _REDUCTIONS[key], (1, 1)
        given = arguments(node, ["input", "dim", "keepdim"])
        dims = given.get("dim")
        if not isinstance(dims, (list, tuple)) or sorted(d % 4 for d in dims) != [2, 3]:
            raise traced.error(
                node, f"it reduces over {dims}, not over the positions, which are (2, 3)"
            )
        if given.get("dtype") is not None:
            raise traced.error(node, "it changes the dtype, which no pooling does")
    if any(b % a for b, a in zip(before, after, strict=True)):
        raise traced.error(
            node,
            f"it pools {before[0]} x {before[1]} to {after[0]} x {after[1]}: the windows of "
            "adaptive pooling are of one size only if the input is a multiple of the output",
        )
    kernel = (before[0] // after[0], before[1] // after[1])
    stride = (kernel[0] if after[0] > 1 else 1, kernel[1] if after[1] > 1 else 1)
    pool = nn.Identity() if kernel == (1, 1) else make(kernel, stride)
    return pool, Window(kernel, stride)


def _adaptive_size(node: Node, traced: Traced, before: tuple[int, int]) -> tuple[int, int]:
    if node.op == "call_module":
        given = vars(traced.modules[str(node.target)])
    else:
        given = arguments(node, ["input", "output_size", "return_indices"])
    if given.get("return_indices"):
        raise traced.error(node, "it returns indices into its input, which differ at every size")
    size = given["output_size"]
    sizes = (size, size) if size is None or isinstance(size, int) else size
    rows, columns = (b if s is None else s for b, s in zip(before, sizes, strict=True))
    return rows, columns


def is_flatten(node: Node, traced: Traced) -> bool:
    """Return whether a node makes (B, C * h * w) of (B, C, h, w), however it is written."""
    if traced.key(node) not in RESHAPE or len(traced.tensor_inputs(node)) != 1:
        return False
    batch, *sizes = traced.shapes[traced.tensor_inputs(node)[0]]
    return traced.shapes[node] == (batch, torch.Size(sizes).numel())
