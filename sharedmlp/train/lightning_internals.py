"""What relies on what Lightning does not document; of its loggers, logger_internals.py has it.

Tested with pytorch-lightning 2.6.6; pyproject.toml keeps the next minor version out. Before raising
that limit, run `tests/train/test_lightning_internals.py`, which names each attribute and what it
means here, then the tests of resuming and of the command line.
"""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, RichProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.overrides.distributed import UnrepeatedDistributedSampler
from pytorch_lightning.plugins.io import CheckpointIO, TorchCheckpointIO
from pytorch_lightning.trainer.states import TrainerFn
from torch.utils.data import Dataset, Sampler

# Warnings of Lightning that a user can do nothing about, or that are wrong for clouds in memory.
_IGNORED_WARNINGS = (
    r".*LeafSpec.*",
    r".*does not have many workers.*",
    r".*is smaller than the logging interval.*",  # everything is logged once an epoch
    r".*You are trying to `self.log\(\)` but `Trainer\(barebones=True\)`.*",
    # Averaged weights are what a checkpoint's state_dict holds, and what is tested.
    r".*callbacks used to create the checkpoint need to be provided.*",
    r".*WeightAveraging callback, but loading a checkpoint outside the 'fit' stage.*",
    r".*LightningCLI's args parameter is intended to run from within Python.*",
)

# --- The run ---


def run_seed() -> int:
    """Return the seed of the run: what `seed_everything` was called with, 0 without a call.

    Lightning keeps it in an environment variable, which its own samplers read too and the
    processes that it starts inherit.
    """
    return int(os.environ.get("PL_GLOBAL_SEED", "0"))


def attached_trainer(module: pl.LightningModule) -> pl.Trainer | None:
    """Return the trainer of a module, or None; `module.trainer` raises without one."""
    return module._trainer


def attached_datamodule(trainer: pl.Trainer) -> Any:
    """Return the data module that a trainer runs on, or None."""
    return getattr(trainer, "datamodule", None)


def is_fitting(trainer: pl.Trainer) -> bool:
    """Return whether `trainer.fit` runs, its validation and its setup included."""
    return trainer.state.fn == TrainerFn.FITTING


def was_interrupted(trainer: pl.Trainer) -> bool:
    """Return whether Ctrl-C ended the run."""
    return trainer.interrupted


def decide_together(trainer: pl.Trainer, value: bool) -> bool:
    """Return whether the value is true in any process, the same answer in all of them."""
    return trainer.strategy.reduce_boolean_decision(value, all=False)


def convert_to_precision(module: pl.LightningModule) -> None:
    """Convert the weights of a module to the precision of its trainer.

    Lightning does so after it has loaded a checkpoint, and a float64 training would resume with
    the digits of float32.
    """
    module.trainer.precision_plugin.convert_module(module)


# --- Callbacks and files of a trainer that exists already ---


def add_callback(trainer: pl.Trainer, callback: pl.Callback) -> None:
    """Add a callback to a trainer."""
    trainer.callbacks.append(callback)  # type: ignore[attr-defined]


def remove_callbacks(trainer: pl.Trainer, kind: type[pl.Callback]) -> None:
    """Remove all callbacks of a type from a trainer."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    trainer.callbacks = [c for c in callbacks if not isinstance(c, kind)]  # type: ignore[attr-defined]


def replace_checkpoint_io(trainer: pl.Trainer, checkpoint_io: CheckpointIO) -> None:
    """Write the checkpoints of a trainer in another way, unless the user chose one."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = checkpoint_io


def last_checkpoint(trainer: pl.Trainer) -> Path | None:
    """Return where a training keeps its last state, or None if it keeps none."""
    if getattr(trainer, "fast_dev_run", 0):  # writes nothing
        return None
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor is None:
            return Path(callback.format_checkpoint_name({}))
    return None


# --- Progress, running and saved ---


def next_epoch(trainer: pl.Trainer) -> int:
    """Return the epoch that training starts or resumes with.

    When the loaders of a resumed run are built, `trainer.current_epoch` is not that epoch yet.
    """
    progress: Any = trainer.fit_loop.epoch_progress.current
    return int(progress.processed)


def trained_batches(trainer: pl.Trainer) -> int:
    """Return how many batches of the current epoch have been trained on."""
    return trainer.fit_loop.epoch_loop.batch_progress.current.ready


def complete_epoch(checkpoint: dict[str, Any]) -> None:
    """Count the epoch of a checkpoint that was written after its last step as completed, in place.

    Lightning itself takes it for an interrupted one, resumes with the next one without counting
    that, and a checkpoint of the resumed run then repeats its epoch from the start.
    """
    loop = checkpoint.get("loops", {}).get("fit_loop")
    if loop is None or not loop["epoch_loop.batch_progress"]["is_last_batch"]:
        return
    batches, epochs = loop["epoch_loop.batch_progress"], loop["epoch_progress"]
    batches["total"]["completed"] = batches["total"]["ready"]
    batches["current"] = dict.fromkeys(batches["current"], 0)
    for part in ("total", "current"):
        epochs[part] = dict.fromkeys(epochs[part], epochs[part]["ready"])


def keep_best_checkpoint(checkpoint: dict[str, Any], trainer: pl.Trainer) -> None:
    """Let the checkpoints of a resumed run compete with the best one so far, in place.

    Lightning itself forgets the best one if the resumed run writes to another folder, which it does
    by default, and would take the first one after the interruption for the best.
    """
    for callback in trainer.checkpoint_callbacks:
        state = checkpoint.get("callbacks", {}).get(callback.state_key)
        if (
            isinstance(callback, ModelCheckpoint)
            and state is not None
            and (not state["best_model_path"] or Path(state["best_model_path"]).is_file())
        ):
            state["dirpath"] = callback.dirpath


class EpochProgressBar(RichProgressBar):
    """Lightning's bar, counting epochs from 1, without the number of the run."""

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Return what was logged for the bar."""
        metrics: dict[str, Any] = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics

    def _get_train_description(self, current_epoch: int) -> str:
        epoch = format_epoch(self.trainer, current_epoch)
        # As wide as the other description, so that nothing moves when validation begins.
        return f"{f'epoch {epoch}':<{len(self.validation_description)}}"


def format_epoch(trainer: pl.Trainer, epoch: int) -> str:
    """Return the number of an epoch, from 1, and how many there are if that is limited.

    Args:
        trainer: The trainer.
        epoch: The number of the epoch, from 0.
    """
    total = trainer.max_epochs
    if total is None or total < 0:
        return f"{epoch + 1}"
    return f"{epoch + 1:{max(2, len(str(total)))}}/{total}"


# --- Loaders ---


def unrepeated_sampler(dataset: Dataset[Any], num_replicas: int, rank: int) -> Sampler[int]:
    """Divide a data set among processes in order, each item to one process.

    The sampler that Lightning adds otherwise, or torch's, repeats items until all processes have
    equally many; this one Lightning leaves in place.
    """
    return UnrepeatedDistributedSampler(
        dataset, num_replicas=num_replicas, rank=rank, shuffle=False
    )


# --- The command line ---


def silence_lightning() -> None:
    """Silence the warnings of `_IGNORED_WARNINGS`, advertisements and what no device is."""
    for message in _IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", message)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(_is_of_use)


def _is_of_use(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(("💡 Tip:", "TPU available: False"))


class ExtensibleCLI(LightningCLI):
    """Lightning's command line with documented places to extend what it keeps to itself."""

    def add_subcommand_arguments(self, subcommand: str, parser: LightningArgumentParser) -> None:
        """Add arguments to the parser of one subcommand."""

    def merge_checkpoint(self) -> None:
        """Merge the hyperparameters of the checkpoint into the parsed configuration."""

    def configure_trainer(
        self, config: dict[str, Any], callbacks: list[Callback]
    ) -> tuple[dict[str, Any], list[Callback]]:
        """Return the arguments of the trainer and the callbacks that the command line adds."""
        return config, callbacks

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> pl.Trainer:
        return super()._instantiate_trainer(*self.configure_trainer(config, callbacks))

    def _prepare_subcommand_parser(
        self, klass: type, subcommand: str, **kwargs: Any
    ) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        self.add_subcommand_arguments(subcommand, parser)
        return parser

    def _parse_ckpt_path(self) -> None:
        # Lightning's own takes the class of the model from the checkpoint and imports its module:
        # a file would decide which code runs.
        self.merge_checkpoint()


def read_hyperparameters(path: str | Path) -> tuple[str | None, dict[str, Any]]:
    """Read the hyperparameters of a checkpoint.

    Args:
        path: The checkpoint; of plain values and tensors only.

    Returns:
        The class path of the task, None if it was not trained from the command line or before the
        command line took any task; and the arguments of the task.

    Raises:
        ValueError: If it is a file of torch, and no checkpoint of Lightning.
    """
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251
    if "pytorch-lightning_version" not in checkpoint:
        raise ValueError(f"{path} is no checkpoint of Lightning")
    hyperparameters = dict(checkpoint.get("hyper_parameters", {}))
    hyperparameters.pop("_instantiator", None)
    return hyperparameters.pop("_class_path", None), hyperparameters
