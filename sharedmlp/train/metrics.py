"""Losses and accuracies over whole epochs, as torchmetrics."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassConfusionMatrix

from sharedmlp.reports.accuracies import accuracies


class MeanLoss(Metric):
    """Mean loss of the items of an epoch, such as clouds, over all processes.

    Lightning's mean of a logged number differs from it if processes have unequal numbers of items
    (on gloo it rounds their average down), and torchmetrics' ignores either NaN or the weights.
    """

    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, loss: Tensor, count: int | Tensor) -> None:
        """Add a batch of `count` items with the mean `loss`, a scalar."""
        self.total = self.total + loss.detach() * count  # += would stay in float32
        self.count = self.count + count

    def compute(self) -> Tensor:
        """Return the mean loss of everything since the last reset, a scalar."""
        return self.total / self.count


class MeanClassAccuracy(MulticlassConfusionMatrix):
    """Mean over the classes of the accuracy on the clouds of the class, over an epoch.

    torchmetrics' macro average counts a class without clouds as 0 as soon as one cloud is taken for
    it; here such a class does not count.
    """

    def compute(self) -> Tensor:
        """Return the mean class accuracy of everything since the last reset, a scalar."""
        return accuracies(torch.as_tensor(super().compute())).mean_class
