"""Ctrl-C: a training ends behind a step, with a checkpoint to go on from."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint


class Interrupted(KeyboardInterrupt):
    """A training has ended because a signal asked for it.

    Attributes:
        signum: The signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class StopOnSignal(pl.Callback):
    """Makes SIGINT (Ctrl-C) and SIGTERM end a training where it can be resumed bit for bit.

    That is behind the step that runs, or behind the validation of the epoch if that has begun. The
    checkpoint of the last epoch is then written anew (the ``ModelCheckpoint`` that monitors
    nothing), and :class:`Interrupted` is raised. A second signal ends the training at once; the
    checkpoint is then the one of before.
    """

    def __init__(self) -> None:
        self._signum: int | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes the signals; when the fit ends, Lightning gives them back."""
        self._signum = None
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                signal.signal(signum, self._receive)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Ends the training, unless the gradient is half summed up or the epoch is about to end."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches or trainer.is_last_batch:
            return
        if self._is_asked(trainer):
            self._save(trainer)
            self._raise(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lets the epoch be the last one; its metrics are still to be logged."""
        if self._is_asked(trainer):
            self._save(trainer)
            trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Ends the training behind its last epoch."""
        if self._is_asked(trainer):
            self._raise(trainer)

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        if self._signum is not None:
            raise KeyboardInterrupt
        self._signum = signum
        # Not print: the signal may have come in the middle of another one.
        os.write(2, b"\nstopping behind this step; once more to stop at once\n")

    def _is_asked(self, trainer: pl.Trainer) -> bool:
        """Returns whether any process was asked, the same in all of them."""
        return trainer.strategy.reduce_boolean_decision(self._signum is not None, all=False)

    def _save(self, trainer: pl.Trainer) -> None:
        path = last_checkpoint(trainer)
        if path is not None:
            trainer.save_checkpoint(path, weights_only=False)

    def _raise(self, trainer: pl.Trainer) -> None:
        path = last_checkpoint(trainer)
        if trainer.is_global_zero and path is not None:
            print(
                f"\nstopped behind step {trainer.global_step}; to go on, run the same command with "
                f"--ckpt_path {path}",
                file=sys.stderr,
            )
        raise Interrupted(self._signum or signal.SIGINT)


def ignore_interrupts(worker_id: int) -> None:
    """Makes a process that loads batches live on at a Ctrl-C, until the main process ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def last_checkpoint(trainer: pl.Trainer) -> Path | None:
    """Returns where a training keeps its last state, None where it keeps none."""
    if getattr(trainer, "fast_dev_run", 0):  # writes nothing
        return None
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor is None:
            return Path(callback.format_checkpoint_name({}))
    return None
