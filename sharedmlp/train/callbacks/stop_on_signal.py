"""Ctrl-C: a training ends after the current step, with a checkpoint to resume from."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

import pytorch_lightning as pl

from sharedmlp.train.lightning_internals import decide_together, last_checkpoint


class Interrupted(KeyboardInterrupt):
    """Raised when a training has ended because a signal asked for it.

    Attributes:
        signum: The number of the signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class StopOnSignal(pl.Callback):
    """Make SIGINT (Ctrl-C) and SIGTERM end a training where it can be resumed bit for bit.

    That is after the current step, or after the validation of the epoch if that has begun. The
    checkpoint of the last epoch is then replaced (that of the `ModelCheckpoint` that monitors
    nothing), and `Interrupted` is raised. A second signal ends the training at once; the checkpoint
    then stays the previous one.
    """

    def __init__(self) -> None:
        self._signum: int | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Handle the signals; when the fit ends, Lightning restores the previous handlers."""
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
        """End the training, unless a gradient is being accumulated or the epoch is about to end."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches or trainer.is_last_batch:
            return
        if self._is_asked(trainer):
            self._save(trainer)
            self._raise(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make the epoch the last one; its metrics are still to be logged."""
        if self._is_asked(trainer):
            self._save(trainer)
            trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End the training after its last epoch."""
        if self._is_asked(trainer):
            self._raise(trainer)

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        if self._signum is not None:
            raise KeyboardInterrupt
        self._signum = signum
        # Not print: the signal may have come in the middle of another one.
        os.write(2, b"\nstopping after this step; once more to stop at once\n")

    def _is_asked(self, trainer: pl.Trainer) -> bool:
        """Return whether any process was asked, the same in all of them."""
        return decide_together(trainer, self._signum is not None)

    def _save(self, trainer: pl.Trainer) -> None:
        path = last_checkpoint(trainer)
        if path is not None:
            trainer.save_checkpoint(path, weights_only=False)

    def _raise(self, trainer: pl.Trainer) -> None:
        path = last_checkpoint(trainer)
        if trainer.is_global_zero and path is not None:
            print(
                f"\nstopped after step {trainer.global_step}; to resume, run the same command with "
                f"--ckpt_path {path}",
                file=sys.stderr,
            )
        raise Interrupted(self._signum or signal.SIGINT)


def ignore_interrupts(worker_id: int) -> None:
    """Make a process that loads batches ignore Ctrl-C, until the main process ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
