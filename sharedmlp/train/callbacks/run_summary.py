"""What a person reads before a network trains."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelSummary

from sharedmlp.train.datamodules.base import PointCloudDataModule
from sharedmlp.train.lightning_internals import attached_datamodule


class RunSummary(ModelSummary):
    """Print a line about the data and a line about the network.

    Lightning's summary, which has a line for each child of the task, is had by naming it among the
    callbacks: `--trainer.callbacks+=ModelSummary`.
    """

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the lines, in the first process."""
        if not trainer.is_global_zero:
            return
        datamodule = attached_datamodule(trainer)
        if isinstance(datamodule, PointCloudDataModule):
            print(f"data     {describe_data(datamodule)}")
        print(f"network  {describe_network(pl_module)}", flush=True)


def describe_data(datamodule: PointCloudDataModule) -> str:
    """Return how many clouds of which kind a training has; called after `setup`."""
    train, val = (len(datamodule.datasets[split]) for split in ("train", "val"))
    features = "".join(f" with {name}" for name in datamodule.features)
    return (
        f"{train:,} clouds to train on, {val:,} to validate on; {len(datamodule.class_names)} "
        f"classes, {datamodule.num_points} points{features} each"
    )


def describe_network(task: pl.LightningModule) -> str:
    """Return the name of a network and the number of its parameters."""
    options: dict[str, Any] = dict(task.hparams)
    parameters = [*task.parameters()]
    total = sum(p.numel() for p in parameters)
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    frozen = f", {trained:,} of them trained" if trained < total else ""
    name = options.get("model") or type(getattr(task, "model", task)).__name__
    return f"{name}, {total:,} parameters{frozen}"
