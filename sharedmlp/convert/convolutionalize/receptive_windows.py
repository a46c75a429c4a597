"""Which window of the input each output of a fully convolutional network sees."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.fx.node import Node

from sharedmlp.convert.convolutionalize.receptive_field import (
    INPUT,
    ReceptiveField,
    ReceptiveFields,
    propagate,
)
from sharedmlp.convert.convolutionalize.tracing import trace


def receptive_windows(model: nn.Module, input_size: Sequence[int]) -> Tensor:
    """Tell for each output position which window of the input it sees.

    A window is the smallest rectangle that holds every pixel which the output depends on; if
    branches meet, that of all of them. It reaches beyond the input exactly if a convolution or
    pooling sees padding, or more rows than there are (`ceil_mode`); so an output whose window
    lies inside the input depends on nothing else.

    Source: Long et al. 2015, "Fully Convolutional Networks for Semantic Segmentation", section 3.

    Args:
        model: A network of local operations that returns a map, such as what
            `convolutionalize` makes. It is left alone; its eval mode is meant.
        input_size: (C, H, W) of the input.

    Returns:
        int64 of shape `(H', W', 4)`: top, left, bottom and right of the windows, the latter two
        exclusive, for an output of `(B, m, H', W')`. It is on the CPU.

    Raises:
        ConversionError: If an operation is not local, naming it and the reason; a classifier with
            a flatten has to be convolutionalized first.
        ValueError: If `input_size` is not three positive integers.
    """
    traced = trace(model, input_size)
    fields: dict[Node, ReceptiveFields] = {}
    *nodes, output = traced.graph.nodes
    for node in nodes:
        if node.op == "placeholder":
            fields[node] = INPUT
        elif node not in traced.numbers and any(n in fields for n in node.all_input_nodes):
            fields[node] = propagate(node, traced, fields)
    result = output.args[0]
    if not isinstance(result, Node) or result not in fields:
        raise traced.error(output, "one map (B, m, H, W) is expected: return one tensor")
    spans = [
        _spans(field, size)
        for field, size in zip(fields[result], traced.shapes[result][2:], strict=True)
    ]
    rows = spans[0][:, None].expand(-1, len(spans[1]), -1)
    columns = spans[1][None].expand(len(spans[0]), -1, -1)
    return torch.stack([rows[..., 0], columns[..., 0], rows[..., 1], columns[..., 1]], -1)


def _spans(field: ReceptiveField, size: int) -> Tensor:
    """Return the first and the last (exclusive) position that each of `size` outputs sees."""
    return torch.arange(size)[:, None] * field.jump + torch.tensor([field.low, field.high])
