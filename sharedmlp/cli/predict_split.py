"""`sharedmlp predict --config`: the answers to the test split of a data module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from jsonargparse.typing import PositiveInt
from pytorch_lightning.cli import LightningArgumentParser

from sharedmlp.cli.errors import UsageError
from sharedmlp.cli.starting_weights import named_weights, named_weights_file
from sharedmlp.data import DataError
from sharedmlp.train import ClassificationTask
from sharedmlp.train.callbacks.prediction_writer import PredictionWriter
from sharedmlp.train.lightning_internals import add_callback, was_interrupted
from sharedmlp.utils.files import file_sha256


def add_predict_arguments(parser: LightningArgumentParser) -> None:
    """Add the arguments that only `predict` has."""
    parser.add_argument(
        "--output",
        type=str | None,
        help="The CSV file; predictions.csv in the folder of the run by default. If an "
        "interrupted prediction left FILE.part, it is continued.",
    )
    parser.add_argument(
        "--rotations",
        type=PositiveInt,
        default=1,
        help="Answer with the most confident of so many turns about the up axis.",
    )


def predict_test_split(
    trainer: pl.Trainer,
    model: pl.LightningModule,
    config: Any,
    path: Path,
    *,
    dry: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Write the answer to each cloud of the test split as soon as it is known.

    Args:
        trainer: The trainer.
        model: The task.
        config: What was parsed for `predict`.
        path: The CSV file to write, or to continue.
        dry: Whether nothing is to be written.
        **options: Further arguments of `trainer.predict`.

    Returns:
        What was written: for each file its description and path.

    Raises:
        DataError: If the task is not a classification.
        UsageError: If there is more than one process.
    """
    if not isinstance(model, ClassificationTask):
        raise DataError(
            "predict writes the probabilities of classes: expected a ClassificationTask, got "
            f"{type(model).__name__}; use trainer.predict in a script"
        )
    if trainer.world_size > 1:
        raise UsageError("predict writes one file from one process: add --trainer.devices 1")
    model.rotations = config.rotations
    weights = Path(named_weights(config) or "").name
    source = _describe_source(config)
    with PredictionWriter(path, source, model.class_names, weights) as writer:
        if not dry:
            add_callback(trainer, writer)
        try:
            trainer.predict(model, **options, weights_only=True, return_predictions=False)
        except SystemExit:  # Lightning's answer to an interrupt
            if was_interrupted(trainer) and writer.table:
                how = f"to continue, run the same command with --output {path}"
                writer.table.exit_interrupted(how)
            raise
        if not writer.table:
            return {}
        writer.table.finish()
        return {"checkpoint": named_weights(config), "predictions": path}


def _describe_source(config: Any) -> dict[str, Any]:
    """Return what predictions depend on: the checkpoint and the data, not how it is loaded."""
    data = config.data.as_dict()
    for name in ("batch_size", "num_workers"):
        data.get("init_args", {}).pop(name, None)
    return {
        "checkpoint": file_sha256(named_weights_file(config)),
        "data": data,
        "rotations": config.rotations,
    }
