"""The network that a segmentation starts from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sharedmlp.models import create_model
from sharedmlp.train.tasks.starting_network import StartingNetwork, network_options


def make_segmenter(hparams: Mapping[str, Any], num_categories: int) -> StartingNetwork:
    """Make the network of a segmentation task.

    Args:
        hparams: The arguments of the task.
        num_categories: The number of categories of shapes that the network is told; 0 for none.

    Raises:
        DataError: If an option of the network is the task's or the data's.
        ValueError: If there is no such network or option.
    """
    options = network_options(hparams)
    if num_categories:
        options["num_categories"] = num_categories
    model = create_model(
        hparams["model"],
        len(hparams["class_names"]),
        hparams["in_channels"],
        task="segmentation",
        **options,
    )
    return StartingNetwork(model)
