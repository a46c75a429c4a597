"""What is checked of a run before anything is read or trained, or a folder of a run made."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.accelerators import CPUAccelerator

from sharedmlp.cli.errors import UsageError
from sharedmlp.train import BaseTask
from sharedmlp.train.optimizer_state import adapt_checkpoint
from sharedmlp.utils.cores import usable_cores

# The options of the trainer without which a command has nothing to work on.
_NEEDED = {
    "fit": ("max_epochs", "max_steps", "limit_train_batches"),
    "validate": ("limit_val_batches",),
    "test": ("limit_test_batches",),
    "predict": ("limit_predict_batches",),
}


def check_run(command: str, trainer: pl.Trainer, task: BaseTask, config: Any) -> None:
    """Check what the data, the task and the trainer cannot know by themselves.

    Args:
        command: "fit", "validate", "test" or "predict".
        trainer: The trainer, made from the configuration.
        task: The task, likewise.
        config: The configuration of the command.

    Raises:
        UsageError: If nothing would be worked on, if there are fewer cores than processes, or if
            the checkpoint is missing or cannot be resumed from.
    """
    for name in _NEEDED[command]:
        if config.trainer.get(name) == 0:
            raise UsageError(f"with --trainer.{name} 0 there is nothing to {command}")
    for name in ("accumulate_grad_batches", "check_val_every_n_epoch"):
        value = config.trainer.get(name)
        if value is not None and value < 1:
            raise UsageError(f"--trainer.{name} is at least 1, got {value}")
    _check_cores(trainer)
    path = config.get("ckpt_path")
    if command == "fit" and not path:
        _warn_of_random_backbone(task)
    if not path or path in ("best", "last", "hpc") or "://" in path:
        return
    if not Path(path).is_file():
        raise UsageError(f"--ckpt_path {path}: no such file")
    if command == "fit":
        _check_resumable(path, task)


def _warn_of_random_backbone(task: BaseTask) -> None:
    """Warn if a training would keep weights that were never trained."""
    start = getattr(task, "start", None)
    if task.hparams.get("freeze") == "backbone" and start is not None and start.source is None:
        warnings.warn(
            "--model.freeze backbone keeps the random weights of a new network: add "
            "--model.pretrained with what to start from",
            stacklevel=2,
        )


def _check_cores(trainer: pl.Trainer) -> None:
    """Check that there is a core for each process that the trainer starts on a CPU."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if environment is not None and environment.creates_processes_externally:
        return  # torchrun and SLURM may give each process cores of its own
    cores = usable_cores()
    if isinstance(trainer.accelerator, CPUAccelerator) and trainer.num_devices > cores:
        raise UsageError(
            f"--trainer.devices {trainer.num_devices} starts as many processes, and this machine "
            f"has {cores} cores for them: at most --trainer.devices {cores}"
        )


def _check_resumable(path: str, task: BaseTask) -> None:
    """Check that a training goes on from a checkpoint, by doing so with a copy of its state."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251
    except Exception:  # what cannot be read is explained where the checkpoint is merged
        return
    try:
        adapt_checkpoint(checkpoint, task.make_optimizer())
    except ValueError as error:
        raise UsageError(f"--ckpt_path {path}: {error}") from error
