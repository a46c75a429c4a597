"""One layer of a shared MLP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from sharedmlp.layers.backend import Backend, pointwise_linear

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


class PointwiseLayer(nn.Module):
    """Pointwise linear map, norm, activation, dropout; works in its backend's native layout.

    Attributes:
        linear: ``nn.Linear``, ``nn.Conv1d`` or ``nn.Conv2d``; one name, so that the state-dict keys
            are the same in every backend.
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
        """Applies the layer to a tensor in the native layout."""
        x = self.linear(x)
        early, late = (self.dropout, None) if self.dropout_before_norm else (None, self.dropout)
        for module in (early, self.norm, self.activation, late):
            if module is not None:
                x = module(x)
        return x
