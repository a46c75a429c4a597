"""Where a command of Lightning's writes: the folder of its run, and its tables and pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from sharedmlp.reports.metrics import write_metrics
from sharedmlp.train.callbacks.run_folder import RunFolder, run_folder
from sharedmlp.train.epoch_table import EpochTable
from sharedmlp.train.logged_pictures import log_pictures
from sharedmlp.train.tasks.base import BaseTask

# Whatever has no other place is below it, and nothing in the working directory.
DEFAULT_ROOT = "runs"


def place_tracking_stores(trainer_config: Any) -> None:
    """Give an `MLFlowLogger` without a `tracking_uri` a store in its `save_dir`.

    Lightning's choice is a store of files, which MLflow refuses by now; and MLflow's own choice for
    the pictures beside a database is the working directory.

    Args:
        trainer_config: The arguments of the trainer, changed in place.
    """
    for arguments in _logger_arguments(trainer_config):
        if "tracking_uri" not in arguments or arguments["tracking_uri"]:
            continue
        if trainer_config.get("fast_dev_run"):
            arguments["tracking_uri"] = "sqlite://"  # in memory
            continue
        folder = Path(arguments.get("save_dir") or _default_root(trainer_config))
        folder.mkdir(parents=True, exist_ok=True)
        arguments["tracking_uri"] = f"sqlite:///{folder / 'mlflow.db'}"
        if not arguments.get("artifact_location"):
            arguments["artifact_location"] = str(folder / "mlruns")


def claim_run_folder(
    trainer: pl.Trainer, trainer_config: Any, ckpt_path: str | None = None, *, fits: bool = False
) -> None:
    """Make the folder of the run of a trainer, unless it is one that writes nothing.

    The folder is that of the first logger that numbers its folders, as `CSVLogger` and
    `TensorBoardLogger` do. Without such a logger it is `SAVE_DIR/NAME/version_N`, by the arguments
    `save_dir` and `name` of the first logger, if it takes them, or `default_root_dir`.

    Args:
        trainer: The trainer, with a `RunFolder` among its callbacks.
        trainer_config: The arguments that it was made with.
        ckpt_path: The checkpoint that the command begins with.
        fits: Whether the command trains, and metrics.csv is written.
    """
    if _is_dry(trainer):
        return
    claim = next(c for c in trainer.callbacks if isinstance(c, RunFolder))  # type: ignore[attr-defined]
    arguments: Any = next(_logger_arguments(trainer_config), {})
    root = Path(arguments.get("save_dir") or _default_root(trainer_config))
    claim.claim(trainer, root / (arguments.get("name") or ""), ckpt_path if fits else None)
    if not fits:
        return
    table = EpochTable(claim.path and claim.path / "metrics.csv")
    if ckpt_path is not None:
        table.resume_from(ckpt_path)
    trainer.loggers = [*trainer.loggers, table]


def list_fit_files(trainer: pl.Trainer) -> dict[str, Path]:
    """Return the files that a fit has written besides checkpoints, by their description."""
    folder = run_folder(trainer)
    files = {"metrics": folder / "metrics.csv", "learning curves": folder / "learning_curves.png"}
    return {name: path for name, path in files.items() if path.is_file()}


def report_test(trainer: pl.Trainer, task: BaseTask, ckpt_path: str | None) -> dict[str, Path]:
    """Report the test that has just run, give its pictures to the loggers, and return the files."""
    folder = None if _is_dry(trainer) else run_folder(trainer)
    written = task.report_test(folder, ckpt_path)
    log_pictures(trainer, [path for path in written.values() if path.suffix == ".png"])
    return written


def write_validation(trainer: pl.Trainer, ckpt_path: str | None) -> dict[str, Path]:
    """Write what a validation has measured, and return the file."""
    if _is_dry(trainer) or not trainer.is_global_zero:
        return {}
    path = run_folder(trainer) / "val_metrics.json"
    write_metrics(path, trainer.callback_metrics, ckpt_path)
    return {"validation metrics": path}


def print_paths(trainer: pl.Trainer, written: Mapping[str, Any]) -> None:
    """Print where files are, by their description; in a fast_dev_run nothing was written."""
    if _is_dry(trainer) or not trainer.is_global_zero:
        return
    width = max(map(len, written), default=0)
    for name, path in written.items():
        print(f"{name:<{width}}  {path}")


def _is_dry(trainer: pl.Trainer) -> bool:
    """Return whether a run writes nothing."""
    return bool(trainer.fast_dev_run or trainer.barebones)  # type: ignore[attr-defined]


def _default_root(trainer_config: Any) -> str:
    return trainer_config.get("default_root_dir") or DEFAULT_ROOT


def _logger_arguments(trainer_config: Any) -> Iterator[Any]:
    """Yield the arguments of each logger."""
    loggers = trainer_config.get("logger")
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        if isinstance(logger, Mapping) or hasattr(logger, "init_args"):
            yield logger["init_args"]
