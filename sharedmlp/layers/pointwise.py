"""One layer of a shared MLP."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sharedmlp.layers.backend import BACKENDS, BATCH_NORMS, Backend, pointwise_linear
from sharedmlp.layers.sync_norm import is_distributed, sharing_group
from sharedmlp.ops.gate import module_reasons, visible_reasons
from sharedmlp.ops.layer import Activation, BatchNorm, PointwiseTensors

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}

_NAMES: dict[type[nn.Module], str] = {
    nn.Identity: "identity",
    nn.ReLU: "relu",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
    nn.SiLU: "silu",
}


class PointwiseLayer(nn.Module):
    """Pointwise linear map, norm, activation, dropout; works in its backend's native layout.

    Attributes:
        linear: `nn.Linear`, `nn.Conv1d` or `nn.Conv2d`; one name, so that the state-dict keys are
            the same in every backend.
        norm: The norm, or None.
        activation: The activation, or None.
        dropout: The dropout, or None.
    """

    def __init__(
        self,
        backend: Backend,
        in_channels: int,
        out_channels: int,
        *,
        norm: str | None,
        activation: str | None,
        dropout: float,
        dropout_before_norm: bool = False,
        bias: bool,
        norm_kwargs: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.linear = pointwise_linear(backend, in_channels, out_channels, bias)
        self.norm = backend.norms[norm](out_channels, **norm_kwargs) if norm else None
        self.activation = ACTIVATIONS[activation]() if activation else None
        self.dropout = nn.Dropout(dropout) if dropout else None
        self.dropout_before_norm = dropout_before_norm

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to a tensor in the native layout."""
        return self.forward_after_linear(self.linear(x))

    def forward_after_linear(self, x: Tensor) -> Tensor:
        """Apply all but the linear map."""
        early, late = (self.dropout, None) if self.dropout_before_norm else (None, self.dropout)
        for module in (early, self.norm, self.activation, late):
            if module is not None:
                x = module(x)
        return x


def set_negative_slope(mlp: nn.Module, negative_slope: float) -> None:
    """Set the slope of every leaky ReLU in a module; torch's own is 0.01."""
    for module in mlp.modules():
        if isinstance(module, nn.LeakyReLU):
            module.negative_slope = negative_slope


def empty_input(module: nn.Module, in_channels: int) -> Tensor:
    """Return no points `(0, C)` on the device and of the dtype of a module."""
    like = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))
    return torch.empty(0, in_channels, dtype=like.dtype, device=like.device)


def unknown_linear(layer: nn.Module) -> list[str]:
    """Say why a layer's linear map is not what `PointwiseLayer` put there; empty if it is."""
    if type(layer) is not PointwiseLayer:
        return [f"a {type(layer).__name__} stands in place of a layer"]
    if type(layer.linear) in [backend.torch_class for backend in BACKENDS.values()]:
        return []
    return [f"its linear map is a {type(layer.linear).__name__}, not a plain torch module"]


def unknown_parts(layer: nn.Module) -> list[str]:
    """Say which parts of a layer are not what `PointwiseLayer` put there; empty if all are."""
    reasons = unknown_linear(layer)
    if type(layer) is not PointwiseLayer:
        return reasons
    backends = BACKENDS.values()
    batch_norms = [backend.norms.get(name) for backend in backends for name in BATCH_NORMS]
    if layer.norm is not None and type(layer.norm) not in (*batch_norms, nn.SyncBatchNorm):
        reasons.append(
            f"its norm is a {type(layer.norm).__name__}: only batch norm, which is one affine map "
            "a channel for all points, lets the max move before it"
        )
    elif layer.norm is not None and (layer.norm.weight is None) != (layer.norm.bias is None):
        reasons.append("its norm has one of weight and bias without the other")
    if _activation(layer.activation) is None:
        reasons.append(f"its activation {layer.activation} is not a known one")
    if layer.dropout is not None and type(layer.dropout) is not nn.Dropout:
        reasons.append(f"its dropout is a {type(layer.dropout).__name__}")
    return reasons


def share_statistics(layers: Iterable[nn.Module]) -> bool:
    """Whether a batch norm of the layers shares its statistics with other processes right now."""
    if not is_distributed():  # asked for every input: it takes a microsecond
        return False
    norms = [getattr(layer, "norm", None) for layer in layers]
    return any(isinstance(n, _BatchNorm) and sharing_group(n) is not None for n in norms)


def layer_tensors(layer: PointwiseLayer) -> PointwiseTensors:
    """Return a layer without `unknown_parts` as tensors and settings, as it is at this moment."""
    linear, norm = cast(nn.Linear, layer.linear), cast("_BatchNorm | None", layer.norm)
    activation = _activation(layer.activation)
    assert activation is not None
    dropout = layer.dropout
    return PointwiseTensors(
        linear.weight.flatten(1),
        linear.bias,
        None if norm is None else _batch_norm(norm),
        activation,
        dropout is not None and dropout.training and dropout.p > 0,
    )


def _batch_norm(norm: _BatchNorm) -> BatchNorm:
    return BatchNorm(
        norm.weight,
        norm.bias,
        norm.running_mean,
        norm.running_var,
        norm.num_batches_tracked,
        norm.training,
        norm.momentum,
        norm.eps,
        sharing_group(norm),
    )


def _activation(module: nn.Module | None) -> Activation | None:
    """Return what a module applies; None if it is not known."""
    if module is None:
        return Activation()
    if type(module) is nn.LeakyReLU:
        return Activation("leaky_relu", module.negative_slope)
    if type(module) is nn.GELU:
        return Activation("gelu", float(module.approximate == "tanh"))
    name = _NAMES.get(type(module))
    return None if name is None else Activation(name)


def fusable_layers(
    x: Tensor, layers: Sequence[PointwiseLayer], *, must: bool
) -> tuple[list[PointwiseTensors], list[str]]:
    """Return what of a shared MLP before a pool may run fused: all layers, or the last alone.

    Args:
        x: The input.
        layers: The layers.
        must: As in `visible_reasons`.

    Returns:
        The layers, and why even the last one cannot: then there are none.
    """
    *hidden, last = layers
    reasons = visible_reasons(x, [last], must=must) + unknown_parts(last)
    if reasons:
        return [], list(dict.fromkeys(reasons))
    seen = [reason for layer in hidden for reason in module_reasons(layer)]
    for layer in hidden:
        seen += unknown_parts(layer)
    return [layer_tensors(layer) for layer in ([last] if seen else layers)], []
