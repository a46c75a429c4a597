"""What a person reads while a network trains."""

from __future__ import annotations

import time

import pytorch_lightning as pl


class EpochLog(pl.Callback):
    """Prints one line an epoch, above the progress bar where there is one.

    The training accuracy is that of the network as it changed over the epoch, on augmented clouds.
    """

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock."""
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prints the line; validation has run by then."""
        if not trainer.is_global_zero:
            return
        parts = [f"epoch {trainer.current_epoch + 1:3d}/{trainer.max_epochs}"]
        for stage in ("train", "val"):
            values = [
                (f"{label} {float(trainer.callback_metrics[key]):{style}}")
                for label, name, style in (
                    ("loss", "loss", ".4f"),
                    ("OA", "overall_accuracy", "6.2%"),
                    ("mAcc", "mean_class_accuracy", "6.2%"),
                )
                if (key := f"{stage}/{name}") in trainer.callback_metrics
            ]
            if values:
                parts.append(f"{stage} " + " ".join(values))
        parts.append(f"{time.perf_counter() - self._start:.1f} s")
        bar = trainer.progress_bar_callback
        (print if bar is None else bar.print)(" | ".join(parts), flush=True)
