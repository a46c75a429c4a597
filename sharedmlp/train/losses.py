"""Losses that torch has only in part."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from sharedmlp.reports.iou import IGNORED


class PointCrossEntropy(nn.Module):
    """Mean cross entropy of points, those with the label -1 left out.

    The numbers are those of `nn.CrossEntropyLoss(ignore_index=-1)`, but 0 and not NaN if every
    point of a batch is left out.

    Args:
        class_weights: The weight of each class; None for 1.
        label_smoothing: The share of the target spread evenly over all classes.
    """

    weight: Tensor | None

    def __init__(
        self, class_weights: Sequence[float] | None = None, label_smoothing: float = 0.0
    ) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        weight = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of points, a scalar.

        Args:
            logits: `(B, N, num_classes)`.
            labels: `(B, N)` int64.
        """
        total = functional.cross_entropy(
            logits.flatten(0, 1),
            labels.flatten(),
            weight=None if self.weight is None else self.weight.to(logits.dtype),
            ignore_index=IGNORED,
            reduction="sum",
            label_smoothing=self.label_smoothing,
        )
        count = self.count(labels)
        return total / count.masked_fill(count == 0, 1)

    def count(self, labels: Tensor) -> Tensor:
        """Return what the loss was divided by: the points that count, or the sum of their weights.

        Args:
            labels: `(B, N)` int64.
        """
        counted = labels != IGNORED
        if self.weight is None:
            return counted.sum()
        return self.weight[labels.clamp(min=0)].mul(counted).sum()
