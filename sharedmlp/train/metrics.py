"""Losses and accuracies over whole epochs and whole test splits."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassConfusionMatrix


class Accuracies(NamedTuple):
    """What a confusion matrix says.

    Attributes:
        overall: Share of the clouds that are classified correctly (OA), a scalar.
        mean_class: Mean of the per-class accuracies over the classes that have clouds (mAcc).
        per_class: ``(num_classes,)``, NaN for a class without clouds.
    """

    overall: Tensor
    mean_class: Tensor
    per_class: Tensor


def accuracies(confusion: Tensor) -> Accuracies:
    """Reads the accuracies off a confusion matrix.

    Args:
        confusion: ``(num_classes, num_classes)`` counts, a row a true class, a column a predicted
            one.
    """
    counts = confusion.double()
    per_class = counts.diagonal() / counts.sum(dim=1)
    return Accuracies(
        overall=(counts.diagonal().sum() / counts.sum()).float(),
        mean_class=per_class.nanmean().float(),
        per_class=per_class.float(),
    )


class MeanLoss(Metric):
    """Mean loss of the clouds of an epoch, in all processes.

    Lightning's mean of a logged number is another one where processes have unequal numbers of
    clouds (on gloo it rounds their average down), and torchmetrics' leaves out NaN or the weights.
    """

    total: Tensor
    clouds: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("clouds", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, loss: Tensor, num_clouds: int) -> None:
        """Adds a batch of ``num_clouds`` clouds with the mean ``loss``, a scalar."""
        self.total = self.total + loss.detach() * num_clouds  # += would stay in float32
        self.clouds = self.clouds + num_clouds

    def compute(self) -> Tensor:
        """Returns the mean loss of everything since the last reset, a scalar."""
        return self.total / self.clouds


class MeanClassAccuracy(MulticlassConfusionMatrix):
    """Mean over the classes of the accuracy on the clouds of the class, over an epoch.

    torchmetrics' macro average would count a class without clouds as 0 as soon as one cloud is
    taken for it; such a class says nothing here.
    """

    def compute(self) -> Tensor:
        """Returns the mean class accuracy of everything since the last reset, a scalar."""
        return accuracies(torch.as_tensor(super().compute())).mean_class
