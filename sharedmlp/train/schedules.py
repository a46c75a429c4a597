"""How the learning rate and batch norm's momentum change while a network is trained."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

_HALVING_EPOCHS = 20


class Steps(NamedTuple):
    """How many steps of the optimizer a training has.

    Attributes:
        total: In all; infinite where nothing limits them.
        epoch: In an epoch; likewise.
    """

    total: float
    epoch: float


def learning_rate_factor(schedule: str, step: int, steps: Steps, warmup: float) -> float:
    """Returns what the learning rate is multiplied by.

    Source: ``step`` is of Qi et al. 2017, "PointNet", supplementary, section C: halved every 20
    epochs. ``cosine`` is of Loshchilov and Hutter 2017, "SGDR", without restarts.

    Args:
        schedule: ``constant``, ``cosine`` or ``step``.
        step: Steps that have been taken.
        steps: How many there are.
        warmup: Share of the steps in which it rises linearly to the schedule's own beginning.

    Raises:
        ValueError: If there is no schedule of this name.
    """
    rising = warmup * steps.total if warmup else 0.0
    if step < rising:
        return (step + 1) / (rising + 1)
    if schedule == "constant":
        return 1.0
    if schedule == "step":
        return math.pow(0.5, step // steps.epoch // _HALVING_EPOCHS)
    if schedule == "cosine":
        done = (step - rising) / (steps.total - rising)
        return 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
    raise ValueError(f"unknown schedule {schedule!r}: choose one of constant, cosine, step")


def norm_momentum(epoch: int) -> float:
    """Returns batch norm's momentum in an epoch of the ``step`` schedule.

    Source: Qi et al. 2017, supplementary, section C: "the decay rate of batch normalization starts
    with 0.5 and is gradually increased to 0.99"; the momentum is one less the decay rate. The paper
    does not say how gradually: here, as the learning rate is lowered.
    """
    return max(0.01, 0.5 * 0.5 ** (epoch // _HALVING_EPOCHS))


def set_norm_momentum(model: nn.Module, momentum: float) -> None:
    """Sets the momentum of every batch norm in a model."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = momentum
