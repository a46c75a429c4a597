"""Predictions on a data set, written while they are made."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from sharedmlp.models.saved import network_name
from sharedmlp.reports.likeness import AnswerCheck, describe_network
from sharedmlp.reports.prediction_table import PredictionTable, answer_cells, answer_columns
from sharedmlp.train.lightning_internals import attached_datamodule


class PredictionWriter(pl.Callback):
    """Write the answer of a classifier for each cloud of the test split as soon as it is known.

    A context manager, which closes the table.

    Args:
        path: The CSV file, of a `PredictionTable`.
        source: What the rows depend on besides the names of the clouds and of the classes.
        class_names: The names of the classes, in the order of the labels.
        weights: Where the weights are from, for people.
    """

    def __init__(
        self, path: Path, source: Mapping[str, Any], class_names: list[str], weights: str
    ) -> None:
        self.path = path
        self.weights = weights
        self.source = source
        self.class_names = class_names
        self.table: PredictionTable | None = None
        self.check: AnswerCheck | None = None

    def __enter__(self) -> PredictionWriter:
        """Return the callback itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the table if one was opened."""
        if self.table:
            self.table.close()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Open the table and leave out the clouds that it has."""
        dataset = attached_datamodule(trainer).datasets["test"]
        task: Any = pl_module
        rotations: int = task.rotations
        columns = ["cloud", "label", *answer_columns(self.class_names, rotations)]
        self.table = PredictionTable(self.path, columns, dataset.pool.names, self.source)
        dataset.indices = dataset.indices[self.table.done :]

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print which network answers; its weights and metadata are there by now."""
        task: Any = pl_module
        metadata = {"class_names": self.class_names, **getattr(task.model, "metadata", {})}
        for line in describe_network(network_name(task.model), self.weights, metadata):
            print(line, file=sys.stderr)
        self.check = AnswerCheck(metadata, rotations=task.rotations)

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add the rows of a batch."""
        assert self.table is not None
        assert self.check is not None
        labels, probabilities = outputs["label"].tolist(), outputs["probabilities"].cpu()
        turned = outputs["rotation"].tolist()
        for label, answer, degrees in zip(labels, probabilities, turned, strict=True):
            name, shown = self.class_names[label], degrees if self.check.rotations > 1 else None
            self.table.append([name, *answer_cells(answer, self.class_names, shown)])
            self.check.add(answer, batch["points"].shape[1])

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print what makes the clouds unlike those of training."""
        assert self.check is not None
        for line in self.check.warnings():
            print(f"warning: {line}", file=sys.stderr)
