"""Carve a validation set out of the training set."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sharedmlp.data.errors import DataError


def stratified_split(
    labels: ArrayLike, fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split the items into two parts in which every class has the same share.

    Args:
        labels: (n,) the class of every item.
        fraction: The share of the second part, at least 0 and below 1. A class of two items or
            more gives at least one to each part (unless the fraction is 0); a class of one item
            stays in the first.
        seed: Seeds the choice.

    Returns:
        The positions of the first part (train) and of the second (validation), each ascending.

    Raises:
        DataError: If the fraction is outside [0, 1).
        ValueError: If the labels are not one-dimensional.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1:
        raise ValueError(f"expected labels of shape (n,), got {labels.shape}")
    if not 0 <= fraction < 1:
        raise DataError(f"expected a fraction of at least 0 and below 1, got {fraction}")
    rng = np.random.default_rng(seed)
    held_out = np.zeros(len(labels), dtype=bool)
    for value in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == value))
        if fraction > 0 and len(members) > 1:
            count = min(max(round(fraction * len(members)), 1), len(members) - 1)
            held_out[members[:count]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def grouped_split(
    groups: Sequence[str], fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split the items into two parts that share no group, such as blocks by their scene.

    Args:
        groups: The group of every item.
        fraction: The share of the groups in the second part, at least 0 and below 1; two groups or
            more give at least one to each part (unless the fraction is 0).
        seed: Seeds the choice.

    Returns:
        The positions of the first part (train) and of the second (validation), each ascending.

    Raises:
        DataError: If the fraction is outside [0, 1).
    """
    names, members = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    _, held_out = stratified_split(np.zeros(len(names), dtype=np.int64), fraction, seed)
    chosen = np.isin(members, held_out)
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)
