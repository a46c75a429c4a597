"""How a training takes up the state of the one that wrote a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor
from torch.optim import Optimizer

from sharedmlp.convert import adapt_optimizer_state


def adapt_checkpoint(checkpoint: dict[str, Any], optimizer: Optimizer) -> None:
    """Makes a Lightning checkpoint's one optimizer state loadable by an optimizer, in place.

    The state takes the shapes of the optimizer's backend. Of the hyperparameters, learning rate
    included, those of the optimizer stay: they are the checkpoint's own where nobody asked for
    others.

    Raises:
        ValueError: If the state is that of another optimizer, or of another network.
    """
    if not checkpoint.get("optimizer_states"):  # as ``trainer.save_checkpoint(weights_only=True)``
        return
    (state,) = checkpoint["optimizer_states"]
    saved, own = state["param_groups"], optimizer.param_groups
    if {key for group in saved for key in group} - {"initial_lr"} != set(own[0]):
        raise ValueError(
            f"the checkpoint's optimizer is not {type(optimizer).__name__}, and its state means "
            "nothing to another one: resume with the optimizer that the checkpoint was trained "
            "with (--model.optimizer)"
        )
    parameters: list[Tensor] = [p for group in own for p in group["params"]]
    state = adapt_optimizer_state(state, parameters)
    state["param_groups"] = [
        {**group, "params": old["params"], "initial_lr": group["lr"]}
        for old, group in zip(saved, own, strict=True)
    ]
    checkpoint["optimizer_states"] = [state]
    for schedule in checkpoint.get("lr_schedulers", []):
        schedule["base_lrs"] = [group["lr"] for group in own]


def close_epoch(checkpoint: dict[str, Any]) -> None:
    """Counts the epoch of a checkpoint written behind the epoch's last step as processed, in place.

    Lightning itself takes it for an interrupted one, goes on with the next one without counting
    that, and a checkpoint of the resumed run then starts its epoch all over again.
    """
    loop = checkpoint.get("loops", {}).get("fit_loop")
    if loop is None or not loop["epoch_loop.batch_progress"]["is_last_batch"]:
        return
    batches, epochs = loop["epoch_loop.batch_progress"], loop["epoch_progress"]
    batches["total"]["completed"] = batches["total"]["ready"]
    batches["current"] = dict.fromkeys(batches["current"], 0)
    for part in ("total", "current"):
        epochs[part] = dict.fromkeys(epochs[part], epochs[part]["ready"])


def keep_best(checkpoint: dict[str, Any], trainer: pl.Trainer) -> None:
    """Lets what a resumed run writes compete with the best checkpoint of before, in place.

    Lightning itself forgets it where the run writes to another folder, which it does unless told
    otherwise, and would take for the best the first one after the interruption.
    """
    for callback in trainer.checkpoint_callbacks:
        state = checkpoint.get("callbacks", {}).get(callback.state_key)
        if (
            isinstance(callback, ModelCheckpoint)
            and state is not None
            and Path(state["best_model_path"]).is_file()
        ):
            state["dirpath"] = callback.dirpath
