"""Optimizers by their names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"adamw": AdamW, "adam": Adam, "sgd": SGD}


def make_optimizer(
    model: nn.Module, name: str, learning_rate: float, weight_decay: float, momentum: float
) -> Optimizer:
    """Make an optimizer that decays the weights but neither biases nor norms.

    Args:
        model: The module whose parameters to optimize.
        name: One of `OPTIMIZERS`.
        learning_rate: The learning rate of the first step.
        weight_decay: The decay of the weights; decoupled with "adamw", else added to the gradient.
        momentum: The momentum of "sgd"; the others ignore it.

    Raises:
        ValueError: If no optimizer has this name.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {name!r}: choose one of {', '.join(OPTIMIZERS)}")
    parameters = list(model.parameters())
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    options: dict[str, Any] = {"lr": learning_rate, "fused": True}
    if name == "sgd":
        options["momentum"] = momentum
    return OPTIMIZERS[name](groups, **options)
