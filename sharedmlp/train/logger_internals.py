"""What relies on what Lightning's loggers do not document.

Tested with pytorch-lightning 2.6.6, like `lightning_internals`, by
`tests/train/test_logger_internals.py`.
"""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter

NumberedLogger = CSVLogger | TensorBoardLogger


def numbered_loggers(trainer: pl.Trainer) -> list[NumberedLogger]:
    """Return the loggers of a trainer that give each run a numbered folder on this machine."""
    return [
        logger
        for logger in trainer.loggers
        if isinstance(logger, NumberedLogger) and "://" not in str(logger.save_dir)
    ]


def logger_version(logger: NumberedLogger) -> int | str | None:
    """Return the version that a logger was given; None if it is to take the next number.

    `logger.version` looks for the next number, and two processes may find the same one.
    """
    return logger._version


def set_logger_version(logger: NumberedLogger, version: int | str | None) -> None:
    """Give a logger a version, as its argument does."""
    logger._version = version


def logger_folder(logger: NumberedLogger) -> Path:
    """Return the folder that the version of a logger names, above its `sub_dir`."""
    folder = Path(logger.log_dir)
    sub_dir = getattr(logger, "sub_dir", None)
    return folder.parents[len(Path(sub_dir).parts) - 1] if sub_dir else folder


class _StepWriter(ExperimentWriter):
    """The writer of a `CSVLogger`, in another file and without what is logged once an epoch."""

    NAME_METRICS_FILE = "steps.csv"

    def __init__(self, log_dir: str, trainer: pl.Trainer) -> None:
        super().__init__(log_dir)
        self._trainer = trainer

    def log_metrics(self, metrics_dict: dict[str, float], step: int | None = None) -> None:
        if self._trainer._logger_connector._first_loop_iter is not None:  # within a batch
            super().log_metrics(metrics_dict, step)

    def _check_log_dir_exists(self) -> None:
        """Keep the files of a run that is resumed in its folder; Lightning deletes its table."""


def log_steps_alone(logger: Logger, trainer: pl.Trainer) -> None:
    """Let a `CSVLogger` write to steps.csv, and only what is logged within an epoch.

    Its metrics.csv would have several rows an epoch, of some of the columns each.
    """
    if isinstance(logger, CSVLogger):
        logger._experiment = _StepWriter(logger.log_dir, trainer)
