"""What a person reads while a network trains."""

from __future__ import annotations

import sys
import time
from typing import Any

import pytorch_lightning as pl

from sharedmlp.train.lightning_internals import format_epoch

# The field's abbreviations and the number of digits; other metrics appear under their names.
_ABBREVIATIONS = {
    "loss": ("loss", ".3f"),
    "overall_accuracy": ("OA", ".1%"),
    "mean_class_accuracy": ("mAcc", ".1%"),
    "mean_iou": ("mIoU", ".1%"),
    "instance_mean_iou": ("instance mIoU", ".1%"),
    "class_mean_iou": ("class mIoU", ".1%"),
}
# Of training, on augmented clouds by a network that changes meanwhile, the rest says little.
_TRAIN_METRICS = ("loss", "overall_accuracy")


class EpochLog(pl.Callback):
    """Print one line an epoch, above the progress bar if there is one.

    The training accuracy is that of the network as it changed over the epoch, on augmented clouds.
    Validation is named in the epochs that have one.
    """

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._validated = False

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._start = time.perf_counter()
        self._validated = False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note that this epoch has a validation."""
        self._validated = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the line; validation has run by then."""
        parts = [f"epoch {format_epoch(trainer, trainer.current_epoch)}:"]
        # By all processes: to read a metric is to add it up over them. The trainer keeps those of
        # the validation of an earlier epoch.
        for stage in ("train", "val") if self._validated else ("train",):
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
        bar: Any = trainer.progress_bar_callback
        (print if bar is None or bar.is_disabled else bar.print)(" ".join(parts))
        sys.stdout.flush()


def _format(name: str, value: float) -> str:
    label, style = _ABBREVIATIONS.get(name, (name, ".3f"))
    # As short as the others, so that the line fits a terminal of 80 columns.
    return f"{label} 100%" if (style, value) == (".1%", 1.0) else f"{label} {value:{style}}"
