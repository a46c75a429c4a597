"""Losses, accuracies and intersections over unions over whole epochs, as torchmetrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassConfusionMatrix

from sharedmlp.reports.accuracies import accuracies
from sharedmlp.reports.iou import IGNORED, mean_iou, shape_iou


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


class PointConfusion(MulticlassConfusionMatrix):
    """Counts of points (num_classes, num_classes), a row a true class, a column a predicted one.

    Points with the label -1 do not count.

    Args:
        num_classes: The number of classes.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, ignore_index=IGNORED, validate_args=False)

    def update(self, predictions: Tensor, labels: Tensor, categories: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            predictions: The predicted classes (B, N).
            labels: The true ones (B, N).
            categories: What other metrics of shapes are updated with; not used.
        """
        super().update(predictions.flatten(), labels.flatten())


class PointScore(PointConfusion):
    """A number that the confusion matrix of all points of an epoch implies.

    Args:
        num_classes: The number of classes.
        score: "overall_accuracy", the share of the points that are classified correctly;
            "mean_class_accuracy", the mean of that over the classes that have points; or
            "mean_iou", the mean of the intersection over union over the classes that are true or
            predicted.
    """

    def __init__(
        self,
        num_classes: int,
        score: Literal["overall_accuracy", "mean_class_accuracy", "mean_iou"],
    ) -> None:
        super().__init__(num_classes)
        self.score = score

    def compute(self) -> Tensor:
        """Return the score of everything since the last reset, a scalar."""
        confusion = torch.as_tensor(super().compute())
        if self.score == "mean_iou":
            return mean_iou(confusion)
        result = accuracies(confusion)
        return result.overall if self.score == "overall_accuracy" else result.mean_class


class ShapeMeanIoU(Metric):
    """Mean intersection over union of the parts of shapes, over an epoch.

    That of a shape is `sharedmlp.reports.iou.shape_iou`. Shapes of which every point is ignored do
    not count.

    Args:
        parts_of_category: The classes of the parts of each category.
        average: "instance" for the mean over all shapes, "class" for the mean over the categories
            that have shapes of the mean over their shapes, or "none" for the latter, one for each
            category `(num_categories,)`, NaN if it has no shape.
    """

    total: Tensor
    shapes: Tensor

    def __init__(
        self,
        parts_of_category: Sequence[Sequence[int]],
        average: Literal["instance", "class", "none"],
    ) -> None:
        super().__init__()
        self.parts_of_category = [list(parts) for parts in parts_of_category]
        self.average = average
        count = len(self.parts_of_category)
        zeros = torch.zeros(count, dtype=torch.float64)
        self.add_state("total", zeros, dist_reduce_fx="sum")
        self.add_state("shapes", torch.zeros(count, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predictions: Tensor, labels: Tensor, categories: Tensor) -> None:
        """Add a batch of predicted and true classes (B, N), and categories (B,)."""
        iou = shape_iou(predictions, labels, categories, self.parts_of_category)
        counted = iou.isfinite()
        self.total = self.total.index_add(0, categories[counted], iou[counted])
        self.shapes = self.shapes.index_add(
            0, categories[counted], torch.ones_like(categories[counted])
        )

    def compute(self) -> Tensor:
        """Return the mean of everything since the last reset, a scalar unless it is of each."""
        if self.average == "instance":
            return (self.total.sum() / self.shapes.sum()).float()
        of_category = self.total / self.shapes
        return (of_category.nanmean() if self.average == "class" else of_category).float()
