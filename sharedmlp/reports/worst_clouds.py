"""Those clouds of a test whose points are classified worst."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from sharedmlp.reports.iou import IGNORED, cloud_iou

_COUNT = 12
_MOST_POINTS = 8192  # of a cloud that is kept


class LabelledCloud(NamedTuple):
    """A cloud with the true and the predicted classes of its points.

    Attributes:
        iou: The mean over the classes that are true or predicted in it of their intersection over
            union.
        position: Its index in the data.
        points: `(N, C)`.
        labels: `(N,)` int64, -1 for a point without one.
        predictions: `(N,)` int64.
    """

    iou: float
    position: int
    points: Tensor
    labels: Tensor
    predictions: Tensor


class WorstClouds:
    """The clouds with the lowest mean intersection over union, in memory of a fixed size.

    Args:
        num_classes: The number of classes.

    Attributes:
        clouds: The worst first.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.clouds: list[LabelledCloud] = []

    def update(self, points: Tensor, labels: Tensor, predictions: Tensor, index: Tensor) -> None:
        """Add a batch.

        Args:
            points: `(B, N, C)`.
            labels: `(B, N)`.
            predictions: `(B, N)`.
            index: `(B,)`.
        """
        iou = cloud_iou(predictions, labels, self.num_classes).nanmean(1)
        step = -(-points.shape[1] // _MOST_POINTS)
        found = []
        for row, (value, number) in enumerate(zip(iou.tolist(), index.tolist(), strict=True)):
            wrong = (predictions[row] != labels[row]) & (labels[row] != IGNORED)
            if value < self._limit() and bool(wrong.any()):
                arrays = (x[row, ::step].cpu().clone() for x in (points, labels, predictions))
                found.append(LabelledCloud(value, number, *arrays))
        self.merge(found)

    def merge(self, clouds: list[LabelledCloud]) -> None:
        """Add clouds, such as those of other processes, and keep the worst."""
        by_index = {cloud.position: cloud for cloud in [*self.clouds, *clouds]}
        self.clouds = sorted(by_index.values(), key=lambda cloud: cloud[:2])[:_COUNT]

    def _limit(self) -> float:
        return self.clouds[-1].iou if len(self.clouds) == _COUNT else 1.0
