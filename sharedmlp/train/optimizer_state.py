"""How a training takes over the optimizer's state of a checkpoint."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from sharedmlp.convert import adapt_optimizer_state


def adapt_checkpoint(checkpoint: dict[str, Any], optimizer: Optimizer) -> None:
    """Make the optimizer state of a checkpoint loadable by an optimizer, in place.

    The state takes the shapes of the optimizer's backend. The hyperparameters, learning rate
    included, are the optimizer's: they are those of the checkpoint if nobody asked for others.

    Args:
        checkpoint: As Lightning writes it, with at most one optimizer.
        optimizer: The one that is to load it.

    Raises:
        ValueError: If the state is that of another optimizer, or of another network.
    """
    if not checkpoint.get("optimizer_states"):  # as `trainer.save_checkpoint(weights_only=True)`
        return
    (state,) = checkpoint["optimizer_states"]
    saved, own = state["param_groups"], optimizer.param_groups
    if {key for group in saved for key in group} - {"initial_lr"} != set(own[0]):
        raise ValueError(
            f"the checkpoint's optimizer is not {type(optimizer).__name__}, and its state means "
            "nothing to another one: resume with the optimizer that the checkpoint was trained "
            "with (--model.optimizer)"
        )
    if [len(group["params"]) for group in saved] != [len(group["params"]) for group in own]:
        raise ValueError(
            "the checkpoint's optimizer trains other parameters, or in other groups: resume with "
            "the --model.freeze and --model.backbone_lr_factor that the checkpoint was trained "
            "with, or start anew from its weights with --model.pretrained in place of --ckpt_path"
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
