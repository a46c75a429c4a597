"""Accuracies from a confusion matrix."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Accuracies(NamedTuple):
    """The accuracies of a classifier on a data set.

    Attributes:
        overall: The share of the clouds that are classified correctly (OA), a scalar.
        mean_class: The mean of the per-class accuracies over the classes that have clouds (mAcc).
        per_class: The accuracy of each class (num_classes,), NaN for a class without clouds.
    """

    overall: Tensor
    mean_class: Tensor
    per_class: Tensor


def accuracies(confusion: Tensor) -> Accuracies:
    """Return the accuracies that a confusion matrix implies.

    Args:
        confusion: Counts (num_classes, num_classes), a row a true class, a column a predicted one.
    """
    counts = confusion.double()
    per_class = counts.diagonal() / counts.sum(dim=1)
    return Accuracies(
        overall=(counts.diagonal().sum() / counts.sum()).float(),
        mean_class=per_class.nanmean().float(),
        per_class=per_class.float(),
    )
