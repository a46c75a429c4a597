"""What a person reads while a network trains."""

from __future__ import annotations

import time

import pytorch_lightning as pl

_METRICS = {
    "loss": ("loss", ".3f"),
    "OA": ("overall_accuracy", ".1%"),
    "mAcc": ("mean_class_accuracy", ".1%"),
}


class EpochLog(pl.Callback):
    """Prints one line an epoch, above the progress bar where there is one.

    The training accuracy is that of the network as it changed over the epoch, on augmented clouds.
    """

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock."""
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prints the line; validation has run by then."""
        parts = [f"epoch {trainer.current_epoch + 1:2d}/{trainer.max_epochs}:"]
        # By all processes: to read a metric is to add it up over them.
        for stage, names in (("train", ("loss", "OA")), ("val", ("loss", "OA", "mAcc"))):
            shown = [f"{name} {text}" for name in names if (text := _format(trainer, stage, name))]
            if shown:
                parts.append(" ".join([stage, *shown]) + ",")
        if not trainer.is_global_zero:
            return
        parts.append(f"{time.perf_counter() - self._start:.0f} s")
        bar = trainer.progress_bar_callback
        (print if bar is None else bar.print)(" ".join(parts), flush=True)


def _format(trainer: pl.Trainer, stage: str, name: str) -> str:
    """Returns a metric of the epoch as text, or nothing where it was not measured."""
    key, style = _METRICS[name]
    value = trainer.callback_metrics.get(f"{stage}/{key}")
    return "" if value is None else format(float(value), style)
