"""Pictures for the loggers that take some."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl


def log_pictures(trainer: pl.Trainer, paths: Iterable[Path]) -> None:
    """Give pictures to each logger of a trainer that takes some, in the first process.

    By what a logger offers: `log_image`, as `WandbLogger`; the `add_image` of TensorBoard's writer;
    or the `log_artifact` of MLflow's client.

    Args:
        trainer: The trainer; the step of its loggers is the last one.
        paths: PNG files; each is logged under its name without the suffix.
    """
    if not trainer.is_global_zero:
        return
    from sharedmlp.viz import read_picture  # matplotlib

    for logger in trainer.loggers:
        experiment: Any = getattr(logger, "experiment", None)
        for path in paths:
            if hasattr(logger, "log_image"):
                logger.log_image(path.stem, [str(path)], step=trainer.global_step)
            elif hasattr(experiment, "add_image"):
                pixels = read_picture(path)
                experiment.add_image(path.stem, pixels, trainer.global_step, dataformats="HWC")
            elif hasattr(experiment, "log_artifact"):
                experiment.log_artifact(logger.version, str(path), "pictures")
        logger.save()
