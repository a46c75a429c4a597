"""The weights of a classifier as the start of a segmenter."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch

from sharedmlp.models.protocol import PointCloudModel

_HEAD = "head."
# What does not decide the layers before the head.
_OTHER_OPTIONS = ("num_classes", "in_channels", "num_categories", "dropout")


def trunk_options(classifier: PointCloudModel, known: Collection[str]) -> dict[str, Any]:
    """Return the options of a segmenter with which its trunk has the layers of a classifier.

    Args:
        classifier: The classifier.
        known: The options that the segmenter takes.
    """
    options = {
        name: value
        for name, value in classifier.architecture.items()
        if name in known and name not in _OTHER_OPTIONS
    }
    if "edge_channels" in options:  # an edge convolution of a segmenter may have several layers
        options["edge_channels"] = tuple(
            (width,) if isinstance(width, int) else width for width in options["edge_channels"]
        )
    return options


def copy_trunk(classifier: PointCloudModel, segmenter: PointCloudModel) -> int:
    """Copy all that a classifier has before its head into the layers of a segmenter of these names.

    Args:
        classifier: The network with weights.
        segmenter: One of the same family, on the same backend; changed in place.

    Returns:
        The number of copied weights, biases and statistics, as single numbers.

    Raises:
        ValueError: If a layer of the classifier is missing in the segmenter or has another shape.
    """
    target = segmenter.state_dict()
    trunk = {k: v for k, v in classifier.state_dict().items() if not k.startswith(_HEAD)}
    for name, value in trunk.items():
        if name not in target or target[name].shape != value.shape:
            found = f"of shape {tuple(target[name].shape)}" if name in target else "missing"
            raise ValueError(
                f"expected a segmenter with the layers of the {type(classifier).__name__} before "
                f"its head, but {name}, of shape {tuple(value.shape)}, is {found} in the "
                f"{type(segmenter).__name__}: take the segmenter of the same family and widths"
            )
    with torch.no_grad():
        for name, value in trunk.items():
            target[name].copy_(value)
    return sum(value.numel() for value in trunk.values())
