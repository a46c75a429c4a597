"""A training that has gone wrong stops, before it can spoil the checkpoints that it has written."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def check_loss(loss: Tensor, points: Tensor, index: Tensor, epoch: int, batch_idx: int) -> None:
    """Raises where the loss of a batch is NaN or infinite, before the weights are changed by it.

    Args:
        loss: A scalar.
        points: ``(B, N, C)``, the clouds of the batch.
        index: ``(B,)``, their positions in the data.
        epoch: Number of the epoch, from 0.
        batch_idx: Number of the batch in the epoch, from 0.

    Raises:
        FloatingPointError: With what to do about it.
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
        "The checkpoints are from before it and good to go on from (--ckpt_path)"
    )


def check_weights(state: Mapping[str, Tensor]) -> None:
    """Raises where a weight or a statistic that is about to be saved is NaN or infinite.

    Raises:
        FloatingPointError: With what to do about it.
    """
    for name, value in state.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise FloatingPointError(
                f"{name} is not finite, so the training has diverged, and this is not saved: lower "
                "--model.learning_rate, and go on from a checkpoint of before (--ckpt_path)"
            )
