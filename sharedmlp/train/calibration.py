"""What a training knows of its network's probabilities and data, for those who use it elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from sharedmlp.models.saved import trained_metadata
from sharedmlp.reports.calibration import CalibrationSums


class ValidationCalibration:
    """The temperature of the last validation, and which weights it is of.

    The validation epoch that decides whether a checkpoint is the best one sees the logits, so the
    checkpoint carries the temperature of its own weights from the start. Weights that were not
    validated, such as those of an interrupted epoch, have none.
    """

    def __init__(self) -> None:
        self._sums = CalibrationSums()
        self._found: dict[str, Any] = {}
        self._step: int | None = None

    def start(self, device: torch.device) -> None:
        """Begin a validation epoch; called in every process."""
        self._sums, self._step = CalibrationSums(device), None

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch, logits `(B, num_classes)` and labels `(B,)`."""
        self._sums.update(logits, labels)

    def finish(self, trainer: pl.Trainer) -> None:
        """End a validation epoch; called in every process, whose sums are added."""
        total = trainer.strategy.reduce(self._sums.values, reduce_op="sum")
        assert isinstance(total, Tensor)
        self._sums.values = total
        if not trainer.sanity_checking:
            self._found, self._step = self._sums.summary(), trainer.global_step

    def metadata(self, step: int) -> dict[str, Any]:
        """Return `CalibrationSums.summary` if the weights of this step are what was validated."""
        return self._found if step == self._step else {}


def describe_training_data(datamodule: Any) -> dict[str, Any]:
    """Return the metadata `trained_on`: the name of the data, and how many clouds were trained on.

    Args:
        datamodule: The data module, or None: then nothing is known.
    """
    known: dict[str, Any] = {}
    if hasattr(datamodule, "root"):
        known["data"] = Path(datamodule.root).resolve().name
    if "train" in getattr(datamodule, "datasets", {}):
        known["clouds"] = len(datamodule.datasets["train"])
    return {"trained_on": known} if known else {}


def describe_temperature(path: str | Path) -> dict[str, str]:
    """Return what to print of the temperature of a checkpoint; nothing if it has none."""
    # Plain values and tensors only.
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251
    metadata = trained_metadata(checkpoint)
    if "temperature" not in metadata:
        return {}
    seen = metadata["validation"]
    return {
        "temperature": f"{metadata['temperature']:.2f}, fitted on {seen['clouds']:,} validation "
        f"clouds: mean confidence {seen['confidence']:.1%}, accuracy {seen['accuracy']:.1%}"
    }
