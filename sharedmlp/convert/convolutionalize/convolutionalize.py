"""A whole classifier as a fully convolutional network with the same weights."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal

import torch
from torch import fx, nn

from sharedmlp.convert.convolutionalize.head import Rewriter
from sharedmlp.convert.convolutionalize.tracing import trace

Mode = Literal["spatial", "flatten"]


def convolutionalize(
    model: nn.Module, input_size: Sequence[int], mode: Mode = "spatial"
) -> fx.GraphModule:
    """Make a classifier of one input size a network for that size and every larger one.

    At `input_size` the output is the classifier's, of shape `(B, m, 1, 1)`. A larger input
    gives a map `(B, m, H', W')`. In eval mode, **without zero padding and ceil_mode** before the
    flatten, output (i, j) is the classifier on its own window of the input: the one of size
    `input_size` whose top left corner is `(i * S, j * S)`, S being the product of all strides
    (with an adaptive pooling to more than one position, its window counts). That holds for every
    size of the input, a multiple of S or not: the last rows that fill no window are not used. If
    the classifier itself leaves last rows unused, the last windows may lack just those;
    `receptive_windows` tells exactly what each output sees.

    Zero padding breaks the equality: the classifier pads the border of its window with zeros where
    the map has the neighboring pixels. So does `ceil_mode` if a pooling has a remainder. At
    `input_size` itself the two are equal all the same. On larger inputs only single features are:
    those of a window and those of the whole input agree wherever their own small windows
    (`receptive_windows` of the features) lie inside that window.

    How: the graph of the forward is taken by `torch.fx`. The flatten, whatever the code that
    says it, goes; the first `nn.Linear` after it becomes a convolution as large as its features
    (`mode="spatial"`), or each window of the features is laid out as channels and the linear
    layer becomes a 1x1 convolution (`mode="flatten"`: the same numbers in h * w times the memory
    for the features, and the way for norms right after the flatten). Later linear layers become 1x1
    convolutions, `nn.BatchNorm1d` becomes `nn.BatchNorm2d`, a softmax is over the channels, and
    a global or adaptive pooling gets the fixed window that it has at `input_size`.

    Kept: the model itself is left alone; names of modules and parameters, device, dtype,
    requires_grad, each module's train or eval mode, and hooks of modules that are called as a whole
    (all of `torch.nn` but containers), which then see maps. A warning lists the hooks of modules
    whose forward was taken apart, and parameters that the forward in eval mode never uses: both are
    not in the result. Choices that the forward makes by `self.training` are those of eval mode;
    `F.dropout` follows the mode of the result as a module does.

    Source: Long et al. 2015, "Fully Convolutional Networks for Semantic Segmentation", section 3.1;
    LeCun et al. 1998, "Gradient-Based Learning Applied to Document Recognition", section VII.B
    (space displacement networks); Lin et al. 2013, "Network in Network", for `mode="flatten"`.

    Args:
        model: A classifier `(B, C, H, W) -> (B, m)`: local operations (convolutions, pooling,
            batch norm, elementwise functions, sums and concatenations of maps of one size), then
            flatten or global pooling, then linear layers, norms, elementwise functions.
        input_size: (C, H, W), the size that the model was trained at.
        mode: `"spatial"` or `"flatten"`.

    Returns:
        The network, with parameters of its own.

    Raises:
        ConversionError: If something cannot be converted, naming the node and the reason.
        ValueError: If `mode` or `input_size` is not one of the above.
    """
    if mode not in ("spatial", "flatten"):
        raise ValueError(f'mode is "spatial" or "flatten", got {mode!r}')
    traced = trace(model, input_size)
    Rewriter(traced, spatial=mode == "spatial").run()
    network = fx.GraphModule(traced.root, traced.graph, type(model).__name__)
    modes = {name: module.training for name, module in model.named_modules()}
    for name, module in network.named_modules():
        module.training = modes.get(name, model.training)
    _warn(traced.silenced, model, network)
    return network


def _warn(silenced: list[str], model: nn.Module, network: nn.Module) -> None:
    """List what the network has lost; a state dict may be changed by hooks, so names are asked."""
    lost = []
    if silenced:
        names = ", ".join(name or "the model itself" for name in silenced)
        lost.append(f"hooks of modules whose forward was taken apart: {names}")
    unused = _names(model) - _names(network)
    if unused:
        lost.append(f"parameters and buffers that the forward never uses: {sorted(unused)}")
    if lost:
        warnings.warn(f"convolutionalize leaves out {'; '.join(lost)}", stacklevel=3)


def _names(module: nn.Module) -> set[str]:
    tensors: list[tuple[str, torch.Tensor]] = [*module.named_parameters(), *module.named_buffers()]
    return {name for name, _ in tensors}
