"""The fully connected head of a classifier, renewed for other classes."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from sharedmlp.layers import SharedMLP
from sharedmlp.models.protocol import PointCloudModel


def reset_head(
    model: PointCloudModel, num_classes: int, make_head: Callable[[], nn.Module]
) -> nn.Module:
    """Make a head with a new last layer and the hidden layers of the one before.

    The model's arguments then say so, and the `class_names` of its `metadata`, which name other
    classes, go.

    Args:
        model: A network with a `head`.
        num_classes: Number of classes; 0 means no head.
        make_head: Makes a head by the model's arguments.

    Raises:
        ValueError: If the number is negative.
    """
    if num_classes < 0:
        raise ValueError(f"expected num_classes >= 0 (0 for features), got {num_classes}")
    old = model.head
    model.architecture["num_classes"] = model.options["num_classes"] = num_classes
    model.metadata.pop("class_names", None)
    new = make_head().to(next(model.parameters())).train(model.training)
    if isinstance(old, SharedMLP) and isinstance(new, SharedMLP):
        for number, layer in enumerate(old.layers[:-1]):
            new.layers[number] = layer
    return new
