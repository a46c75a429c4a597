"""The learning rate among the metrics of an epoch, and all of them as a picture after a fit."""

from __future__ import annotations

import contextlib
from typing import Any

import pytorch_lightning as pl

from sharedmlp.train.epoch_table import EpochTable
from sharedmlp.train.lightning_internals import is_fitting
from sharedmlp.train.logged_pictures import log_pictures

FILE_NAME = "learning_curves.png"


class LearningCurves(pl.Callback):
    """Log the learning rate once an epoch, and draw what the `EpochTable` of a trainer holds.

    The rate is that of the last step of the epoch, of the parameters with the highest one. The
    picture goes beside the table and to the loggers that take pictures, also after a
    training that was interrupted or failed.
    """

    def __init__(self) -> None:
        self._rate: float | None = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remember the rate, which the schedule changes after the step."""
        rates = [
            group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups
        ]
        self._rate = max(map(float, rates), default=None)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the rate."""
        if self._rate is not None:
            # The same in all processes; without `sync_dist` Lightning warns that it may not be.
            pl_module.log("learning_rate", self._rate, sync_dist=True)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw, before the loggers end their work."""
        self._draw(trainer)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Draw what there is; the reason of the end matters more than a full disk."""
        with contextlib.suppress(OSError):
            self._draw(trainer)

    def _draw(self, trainer: pl.Trainer) -> None:
        tables = [logger for logger in trainer.loggers if isinstance(logger, EpochTable)]
        if not (tables and trainer.is_global_zero and is_fitting(trainer)):
            return
        table = tables[0]
        if table.path is None or not table.has_logged:
            return
        from sharedmlp.viz import plot_learning_curves, save_figure  # matplotlib

        picture = table.path.with_name(FILE_NAME)
        save_figure(plot_learning_curves(table.rows), picture)
        log_pictures(trainer, [picture])
