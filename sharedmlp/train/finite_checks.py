"""Checks that stop a training that has diverged before it spoils its checkpoints."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer


def check_optimizer_precision(optimizer: Optimizer) -> None:
    """Raise if an optimizer cannot train weights of their precision.

    Raises:
        FloatingPointError: If it is Adam or AdamW on float16: the squares of gradients are zero
            there, steps are divided by them, and the loss is NaN after a few.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if isinstance(optimizer, Adam) and any(p.dtype == torch.float16 for p in parameters):
        raise FloatingPointError(
            f"{type(optimizer).__name__} cannot train weights of precision 16-true, whose squared "
            "gradients are too small for float16: take --trainer.precision 16-mixed, bf16-mixed or "
            "bf16-true, or --model.optimizer sgd"
        )


def check_finite_loss(
    loss: Tensor, points: Tensor, index: Tensor, epoch: int, batch_idx: int
) -> None:
    """Raise if the loss of a batch is NaN or infinite, before the weights are changed by it.

    Args:
        loss: A scalar.
        points: The clouds of the batch (B, N, C).
        index: Their positions in the data (B,).
        epoch: The number of the epoch, from 0.
        batch_idx: The number of the batch in the epoch, from 0.

    Raises:
        FloatingPointError: If it is; the message says why and what to do.
    """
    if loss.isfinite():
        return
    bad = index[~points.isfinite().flatten(1).all(dim=1)].tolist()
    if bad:
        why = f"the points of the clouds {bad} of the data are not finite: correct or remove them"
    else:
        why = (
            "the clouds are finite, so the training has diverged: lower --model.learning_rate, or "
            "raise the precision if it is below 32 bits"
        )
    raise FloatingPointError(
        f"the loss is {float(loss.detach())} in epoch {epoch + 1}, step {batch_idx + 1}; {why}. "
        "The checkpoints so far are unaffected: resume from one of them (--ckpt_path)"
    )


def check_finite_weights(state: Mapping[str, Tensor]) -> None:
    """Raise if a weight or a statistic that is about to be saved is NaN or infinite.

    Raises:
        FloatingPointError: If one is; the message says what to do.
    """
    for name, value in state.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise FloatingPointError(
                f"{name} is not finite, so the training has diverged, and this is not saved: lower "
                "--model.learning_rate, and resume from an earlier checkpoint (--ckpt_path)"
            )
