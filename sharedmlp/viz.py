"""Pictures. Nothing else imports matplotlib, and no display is needed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike


def plot_confusion(confusion: ArrayLike, class_names: Sequence[str]) -> Figure:
    """Draws a confusion matrix, coloured by the share of each true class.

    Args:
        confusion: ``(num_classes, num_classes)`` counts, a row a true class, a column a predicted
            one.
        class_names: Names of the classes, in the order of the rows.

    Raises:
        ValueError: If the matrix is not square with one row a name.
    """
    counts = np.asarray(confusion)
    num_classes = len(class_names)
    if counts.shape != (num_classes, num_classes):
        raise ValueError(
            f"expected a confusion matrix of shape ({num_classes}, {num_classes}) for "
            f"{num_classes} class names, got shape {counts.shape}"
        )
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = max(4.0, 1.5 + 0.4 * num_classes)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shares, vmin=0.0, vmax=1.0, cmap="Blues")
    axes.set_xticks(range(num_classes), class_names, rotation=90)
    axes.set_yticks(range(num_classes), class_names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    for row, column in np.argwhere(counts > 0):
        axes.text(
            column,
            row,
            str(int(counts[row, column])),
            ha="center",
            va="center",
            fontsize=8,
            color="white" if shares[row, column] > 0.5 else "black",
        )
    return figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """Writes a figure as a PNG file, whole or not at all.

    Args:
        figure: What to write.
        path: The file to write or replace.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    figure.savefig(partial, format="png", dpi=150)
    os.replace(partial, path)  # noqa: PTH105
