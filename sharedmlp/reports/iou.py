"""Intersections over unions of segmentations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# The label of points that do not count.
IGNORED = -1


def class_iou(confusion: Tensor) -> Tensor:
    """Return the intersection over union of each class, NaN if neither true nor predicted.

    Args:
        confusion: Counts `(num_classes, num_classes)` of points, a row a true class.

    Returns:
        `(num_classes,)`.
    """
    counts = confusion.double()
    intersection = counts.diagonal()
    return (intersection / (counts.sum(0) + counts.sum(1) - intersection)).float()


def mean_iou(confusion: Tensor) -> Tensor:
    """Return the mean over the classes that are true or predicted of `class_iou`, a scalar.

    Args:
        confusion: As of `class_iou`.
    """
    return class_iou(confusion).nanmean()


def cloud_iou(predictions: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the intersection over union of each class in each cloud.

    Points with the label -1 do not count.

    Args:
        predictions: `(B, N)` int64.
        labels: `(B, N)` int64.
        num_classes: The number of classes.

    Returns:
        `(B, num_classes)` float64, NaN for a class that is neither true nor predicted in a cloud.
    """
    counted = labels != IGNORED
    # Points and classes that do not count go into a column of their own.
    true, predicted, both = (
        torch.zeros(
            len(labels), num_classes + 1, dtype=torch.int64, device=labels.device
        ).scatter_add_(
            1,
            torch.where(counts, classes, num_classes).clamp(max=num_classes),
            torch.ones_like(labels),
        )
        for classes, counts in (
            (labels, counted),
            (predictions, counted),
            (labels, counted & (labels == predictions)),
        )
    )
    intersection = both[:, :num_classes].double()
    return intersection / ((true + predicted)[:, :num_classes] - intersection)


def shape_iou(
    predictions: Tensor,
    labels: Tensor,
    categories: Tensor,
    parts_of_category: Sequence[Sequence[int]],
) -> Tensor:
    """Return the mean over the parts of each shape's category of their intersection over union.

    Source: Yi et al. 2016, "A Scalable Active Framework for Region Annotation in 3D Shape
    Collections", as PointNet (Qi et al. 2017, section 5.2) and those after it measure: a part that
    is neither true nor predicted counts 1. Points with the label -1 do not count.

    Args:
        predictions: `(B, N)` int64.
        labels: `(B, N)` int64.
        categories: `(B,)` int64.
        parts_of_category: The classes of the parts of each category.

    Returns:
        `(B,)` float64, NaN for a shape without a point that counts.
    """
    num_classes = 1 + max(part for parts in parts_of_category for part in parts)
    mask = parts_mask(parts_of_category, num_classes, labels.device)[categories]
    iou = cloud_iou(predictions, labels, num_classes).nan_to_num(1.0) * mask
    mean = iou.sum(1) / mask.sum(1)
    return mean.masked_fill((labels == IGNORED).all(1), torch.nan)


def parts_mask(
    parts_of_category: Sequence[Sequence[int]], num_classes: int, device: torch.device
) -> Tensor:
    """Return which classes are parts of which category, `(num_categories, num_classes)` bool."""
    mask = torch.zeros(len(parts_of_category), num_classes, dtype=torch.bool)
    for category, parts in enumerate(parts_of_category):
        mask[category, list(parts)] = True
    return mask.to(device)


def predict_points(
    logits: Tensor,
    categories: Tensor | None = None,
    parts_of_category: Sequence[Sequence[int]] = (),
) -> Tensor:
    """Return the most probable class of each point, `(B, N)` int64.

    Args:
        logits: `(B, N, num_classes)`.
        categories: `(B,)` int64: only the parts of the category of a shape are chosen among; None
            chooses among all classes.
        parts_of_category: The classes of the parts of each category.
    """
    if categories is not None:
        mask = parts_mask(parts_of_category, logits.shape[-1], logits.device)
        logits = logits.masked_fill(~mask[categories][:, None], -torch.inf)
    return logits.argmax(-1)
