"""Optimizers by their names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"adamw": AdamW, "adam": Adam, "sgd": SGD}


def make_optimizer(
    model: nn.Module,
    name: str,
    learning_rate: float,
    weight_decay: float,
    momentum: float,
    *,
    backbone_lr_factor: float = 1.0,
    head: nn.Module | None = None,
) -> Optimizer:
    """Make an optimizer that decays the weights but neither biases nor norms.

    Parameters without gradients are left out.

    Args:
        model: The module whose parameters to optimize.
        name: One of `OPTIMIZERS`.
        learning_rate: The learning rate of the first step.
        weight_decay: The decay of the weights; decoupled with "adamw", else added to the gradient.
        momentum: The momentum of "sgd"; the others ignore it.
        backbone_lr_factor: The factor of the learning rate of what is not in the head.
        head: The head of the model; needed with a factor other than 1.

    Raises:
        ValueError: If no optimizer has this name.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {name!r}: choose one of {', '.join(OPTIMIZERS)}")
    trained = [p for p in model.parameters() if p.requires_grad]
    rates = [(learning_rate, trained)]
    if head is not None and backbone_lr_factor != 1.0:
        own = set(head.parameters())
        rates = [
            (learning_rate * backbone_lr_factor, [p for p in trained if p not in own]),
            (learning_rate, [p for p in trained if p in own]),
        ]
    groups: list[dict[str, Any]] = []
    for rate, parameters in rates:
        groups += [
            {
                "params": [p for p in parameters if p.ndim > 1],
                "lr": rate,
                "weight_decay": weight_decay,
            },
            {"params": [p for p in parameters if p.ndim <= 1], "lr": rate, "weight_decay": 0.0},
        ]
    options: dict[str, Any] = {"lr": learning_rate, "fused": True}
    if name == "sgd":
        options["momentum"] = momentum
    return OPTIMIZERS[name](groups, **options)
