"""A pointwise layer as tensors and settings: what every implementation of it reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, distributed
from torch.nn import functional


class Activation(NamedTuple):
    """An activation by its name in `ACTIVATIONS`, so that it can be passed to a custom op.

    Attributes:
        name: Which one.
        parameter: Its one setting: the slope of leaky ReLU, 1 for the tanh approximation of GELU.
    """

    name: str = "identity"
    parameter: float = 0.0

    def __call__(self, x: Tensor) -> Tensor:
        """Apply it out of place."""
        return _FUNCTIONS[self.name](x, self.parameter)

    @property
    def label(self) -> str:
        """The name of torch's module; empty for the identity."""
        return _LABELS[self.name]

    @property
    def slope(self) -> float | None:
        """Of the leaky ReLU that it is: 0 for ReLU, 1 for the identity; None if it is none."""
        slopes = {"identity": 1.0, "relu": 0.0, "leaky_relu": self.parameter}
        return slopes.get(self.name)

    @property
    def is_monotone(self) -> bool:
        """Whether it is known to be nondecreasing."""
        if self.name == "leaky_relu":
            return self.parameter >= 0
        return self.name in ("identity", "relu", "tanh", "sigmoid")


# name -> what takes a tensor and the activation's parameter.
_FUNCTIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "identity": lambda x, _: x,
    "relu": lambda x, _: torch.relu(x),
    "leaky_relu": lambda x, slope: functional.leaky_relu(x, slope),
    "tanh": lambda x, _: torch.tanh(x),
    "sigmoid": lambda x, _: torch.sigmoid(x),
    "silu": lambda x, _: functional.silu(x),
    "gelu": lambda x, tanh: functional.gelu(x, approximate="tanh" if tanh else "none"),
}


_LABELS = {
    "identity": "",
    "relu": "ReLU",
    "leaky_relu": "LeakyReLU",
    "tanh": "Tanh",
    "sigmoid": "Sigmoid",
    "silu": "SiLU",
    "gelu": "GELU",
}


class BatchNorm(NamedTuple):
    """The tensors and settings of a batch norm.

    Attributes:
        weight: `(D,)` or None.
        bias: `(D,)` or None.
        running_mean: `(D,)` or None.
        running_var: `(D,)` or None.
        num_batches_tracked: A counter to raise with each batch; None if nobody counts here.
        training: Whether the running statistics move.
        momentum: How far; None for a cumulative average by the counter.
        eps: Added to the variance.
        group: The processes that share statistics at this moment, or None.
    """

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None
    training: bool
    momentum: float | None
    eps: float
    group: distributed.ProcessGroup | None = None

    @property
    def uses_batch_statistics(self) -> bool:
        """Whether it normalizes by the batch's own statistics, else by the running ones."""
        return self.training or self.running_mean is None


class PointwiseTensors(NamedTuple):
    """One layer of a shared MLP: linear map, batch norm or none, activation, dropout.

    Attributes:
        weight: `(D, C)`.
        bias: `(D,)` or None.
        norm: Batch norm, or None.
        activation: The activation; the identity if there is none.
        dropout: Whether a dropout drops something at this moment.
    """

    weight: Tensor
    bias: Tensor | None
    norm: BatchNorm | None
    activation: Activation
    dropout: bool = False


def fold(layer: PointwiseTensors) -> tuple[Tensor, Tensor]:
    """Return the weight `(D, C)` and bias `(D,)` of a layer with constant batch norm folded in."""
    weight, norm = layer.weight, layer.norm
    shift = torch.zeros_like(weight[:, 0]) if layer.bias is None else layer.bias
    if norm is None:
        return weight, shift
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = (shift - norm.running_mean) * scale
    return weight * scale[:, None], shift if norm.bias is None else shift + norm.bias
