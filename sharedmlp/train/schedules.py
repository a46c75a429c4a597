"""How the learning rate and batch norm's momentum change while a network is trained."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.lr_scheduler import LambdaLR

_HALVING_EPOCHS = 20
_HALVING_BATCHES = 100


class Steps(NamedTuple):
    """The number of steps of the optimizer in a training.

    Attributes:
        total: In the whole training; infinite if nothing limits them.
        epoch: In an epoch; likewise.
    """

    total: float
    epoch: float


def learning_rate_factor(schedule: str, step: int, steps: Steps, warmup: float) -> float:
    """Return the factor of the learning rate at a step.

    Source: "step" is of Qi et al. 2017, "PointNet", supplementary, section C: halved every 20
    epochs. "cosine" is of Loshchilov and Hutter 2017, "SGDR", without restarts.

    Args:
        schedule: "constant", "cosine" or "step".
        step: The number of steps that have been taken.
        steps: The number of steps in the training.
        warmup: The share of the steps in which the factor rises linearly to the schedule's start.

    Raises:
        ValueError: If no schedule has this name.
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


def set_learning_rates(schedule: LambdaLR) -> None:
    """Set the learning rates of an optimizer to what its schedule says of the current step."""
    for group, rate, factor in zip(
        schedule.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True
    ):
        group["lr"] = rate * factor(schedule.last_epoch)


def norm_momentum(epoch: int) -> float:
    """Return batch norm's momentum in an epoch of the "step" schedule.

    Source: Qi et al. 2017, supplementary, section C: "the decay rate of batch normalization starts
    with 0.5 and is gradually increased to 0.99"; the momentum is one minus the decay rate. The
    paper does not say how gradually: here, whenever the learning rate is halved.
    """
    return max(0.01, 0.5 * 0.5 ** (epoch // _HALVING_EPOCHS))


class NormWarmup:
    """Raise batch norm's momentum in the first batches of a training.

    At first a network changes so fast that running statistics with torch's momentum of 0.1 belong
    to another one: validation then lags behind training by epochs, if these are short. So the
    momentum starts at 0.5 and is halved every 100 batches until it is a layer's own, like Qi et al.
    2017, supplementary, section C, do it by epochs.

    The batches are counted by the layers (`num_batches_tracked`), which checkpoints keep; layers of
    a trained network are past this.
    """

    def __init__(self) -> None:
        self._momenta: dict[_BatchNorm, float] = {}

    def start(self, model: nn.Module) -> None:
        """Begin with the batch norms of a model that have a momentum and count."""
        self.stop()
        self._momenta = {
            module: module.momentum
            for module in model.modules()
            if isinstance(module, _BatchNorm)
            and module.momentum is not None
            and module.num_batches_tracked is not None
        }

    def step(self) -> None:
        """Set the momentum for the next batch."""
        for norm, own in list(self._momenta.items()):
            if norm.momentum is None:  # measured anew by a cumulative average
                continue
            assert norm.num_batches_tracked is not None
            raised = 0.5 * 0.5 ** (int(norm.num_batches_tracked) // _HALVING_BATCHES)
            norm.momentum = max(own, raised)
            if raised <= own:
                del self._momenta[norm]

    def stop(self) -> None:
        """Give all layers their own momentum again."""
        for norm, own in self._momenta.items():
            norm.momentum = own
        self._momenta = {}


def set_norm_momentum(model: nn.Module, momentum: float) -> None:
    """Set the momentum of every batch norm in a model."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = momentum
