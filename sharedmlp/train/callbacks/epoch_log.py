"""What a person reads while a network trains."""

from __future__ import annotations

import time

import pytorch_lightning as pl

# The field's abbreviations and the number of digits; other metrics appear under their names.
_ABBREVIATIONS = {
    "loss": ("loss", ".3f"),
    "overall_accuracy": ("OA", ".1%"),
    "mean_class_accuracy": ("mAcc", ".1%"),
}
# Of training, on augmented clouds by a network that changes meanwhile, the rest says little.
_TRAIN_METRICS = ("loss", "overall_accuracy")


class EpochLog(pl.Callback):
    """Print one line an epoch, above the progress bar if there is one.

    The training accuracy is that of the network as it changed over the epoch, on augmented clouds.
    """

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the line; validation has run by then."""
        parts = [f"epoch {trainer.current_epoch + 1:2d}/{trainer.max_epochs}:"]
        # By all processes: to read a metric is to add it up over them.
        for stage in ("train", "val"):
            shown = [
                _format(name, float(value))
                for key, value in trainer.callback_metrics.items()
                for metric_stage, _, name in [key.partition("/")]
                if metric_stage == stage and (stage == "val" or name in _TRAIN_METRICS)
            ]
            if shown:
                parts.append(" ".join([stage, *shown]) + ",")
        if not trainer.is_global_zero:
            return
        parts.append(f"{time.perf_counter() - self._start:.0f} s")
        bar = trainer.progress_bar_callback
        (print if bar is None else bar.print)(" ".join(parts), flush=True)


def _format(name: str, value: float) -> str:
    label, style = _ABBREVIATIONS.get(name, (name, ".3f"))
    return f"{label} {value:{style}}"
