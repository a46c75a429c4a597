"""A folder for each run, claimed in one step, whatever logs the run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint

from sharedmlp.train.logger_internals import (
    NumberedLogger,
    log_steps_alone,
    logger_folder,
    logger_version,
    numbered_loggers,
    set_logger_version,
)


class RunFolder(pl.Callback):
    """The folder in which a run keeps its checkpoints, its configuration, tables and pictures.

    It is that of the first logger that numbers its folders (`CSVLogger`, `TensorBoardLogger`), else
    `ROOT/version_N`. `claim` makes it, in the first process; the others learn of it in `setup`.

    Attributes:
        path: The folder; None before it is claimed, and in a run that writes nothing.
    """

    def __init__(self) -> None:
        self.path: Path | None = None

    def claim(self, trainer: pl.Trainer, root: Path, ckpt_path: str | None = None) -> None:
        """Make the folder, and let loggers and checkpoints of a trainer write into it.

        Args:
            trainer: The trainer, before it runs.
            root: The folder of the folders, if no logger numbers its own.
            ckpt_path: The checkpoint that a training goes on from. If it lies in the folder that a
                version was given for, the training goes on in that folder.

        Raises:
            FileExistsError: If a version was given to a logger and its folder is there already.
        """
        if self.path is not None or not trainer.is_global_zero:
            return
        claimed: list[Path] = []
        for logger in numbered_loggers(trainer):
            claimed.append(_claim_for(logger, claimed, ckpt_path))
            log_steps_alone(logger, trainer)
        self.path = claimed[0] if claimed else claim_version(root)
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                callback.dirpath = str(self.path / "checkpoints")

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Tell the other processes."""
        loggers = numbered_loggers(trainer)
        versions = [logger_version(logger) for logger in loggers]
        self.path, versions = trainer.strategy.broadcast((self.path, versions))
        for logger, version in zip(loggers, versions, strict=True):
            set_logger_version(logger, version)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Remove the folder if nothing has been written to it."""
        if self.path is not None and trainer.is_global_zero:
            with contextlib.suppress(OSError):
                self.path.rmdir()


def run_folder(trainer: pl.Trainer) -> Path:
    """Return the folder of the run: that of a `RunFolder`, else Lightning's own.

    To be called in every process: they may communicate about it.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, RunFolder) and callback.path is not None:
            return callback.path
    return Path(trainer.log_dir or trainer.default_root_dir)


def claim_version(root: Path) -> Path:
    """Make the next folder `version_N` of a folder, which no other process gets, and return it.

    Args:
        root: The folder of the folders; missing folders above it are made.
    """
    names = [path.name.removeprefix("version_") for path in root.glob("version_*")]
    start = max((int(name) + 1 for name in names if name.isdecimal()), default=0)
    return _claim_next(lambda version: root / f"version_{version}", start)


def _claim_next(folder_of: Callable[[int], Path], start: int) -> Path:
    """Make the first folder from a number on that is not there yet."""
    previous = None
    for version in count(start):
        folder = folder_of(version)
        if folder == previous:  # a layout without versions
            break
        folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            folder.mkdir()  # one step: of two processes, one fails
            return folder
        previous = folder
    raise FileExistsError(f"{previous} is there already, and the logger has no other one for a run")


def _claim_for(logger: NumberedLogger, claimed: Sequence[Path], ckpt_path: str | None) -> Path:
    """Make the folder of a logger, or return that of another logger if they share it."""
    if logger_version(logger) is None:
        return _claim_numbered(logger, claimed)
    folder = logger_folder(logger)
    if folder in claimed:
        return folder
    if ckpt_path is not None and folder.resolve() in Path(ckpt_path).resolve().parents:
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir()
    except FileExistsError:
        raise FileExistsError(
            f"{folder} is there already, of another run: --trainer.logger.version null takes the "
            "next free number, and with --ckpt_path "
            f"{folder / 'checkpoints' / 'last.ckpt'} a training goes on in that folder"
        ) from None
    return folder


def _claim_numbered(logger: NumberedLogger, claimed: Sequence[Path]) -> Path:
    def folder_of(version: int) -> Path:
        set_logger_version(logger, version)
        return logger_folder(logger)

    start = int(logger.version)  # the next one
    # Loggers in the same place share the number of the first.
    for version in range(start):
        if folder_of(version) in claimed:
            return folder_of(version)
    return _claim_next(folder_of, start)
