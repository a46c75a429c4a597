"""The network that a segmentation starts from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sharedmlp.data import DataError
from sharedmlp.models import PointCloudModel, create_model, load_pretrained
from sharedmlp.models.options import option_names
from sharedmlp.models.registry import get_model, models_of
from sharedmlp.models.saved import network_name, plain_value
from sharedmlp.models.trunk import copy_trunk, trunk_options
from sharedmlp.train.tasks.starting_network import (
    StartingNetwork,
    network_options,
    start_from_weights,
)


def make_segmenter(hparams: Mapping[str, Any], num_categories: int) -> StartingNetwork:
    """Make the network of a segmentation task.

    Args:
        hparams: The arguments of the task. `pretrained` are the weights of a segmenter, or of a
            classifier of the same family, whose layers before the head it starts from.
        num_categories: The number of categories of shapes that the network is told; 0 for none.

    Raises:
        DataError: If an option of the network is the task's or the data's, or the weights do not
            fit the data.
        ValueError: If there is no such network, option or weights.
    """
    options, source = network_options(hparams), hparams["pretrained"]
    name, in_channels = hparams["model"], hparams["in_channels"]
    names = list(hparams["class_names"])
    if num_categories:
        options["num_categories"] = num_categories
    if source is None:
        model = create_model(name, len(names), in_channels, task="segmentation", **options)
        return StartingNetwork(model)
    saved = load_pretrained(source, name=name)
    if any(known.task == "classification" for known in models_of(saved)):
        return _start_from_classifier(hparams, options)
    trained = saved.metadata.get("category_names", [])
    own = list(hparams["category_names"] or [])
    if num_categories and trained and trained != own:
        raise DataError(
            f"the weights of {source} are told the categories {trained}, and the data has {own}: "
            "give the data the same categories in the same order, or add "
            "--model.tell_category false and weights that are told none"
        )
    return start_from_weights(source, name, names, in_channels, options)


def _start_from_classifier(hparams: Mapping[str, Any], options: dict[str, Any]) -> StartingNetwork:
    """Make a segmenter with the layers of a classifier before its head."""
    source, name, in_channels = hparams["pretrained"], hparams["model"], hparams["in_channels"]
    class_names = list(hparams["class_names"])
    classifier = load_pretrained(source, backend=options.get("backend", "linear"))
    if classifier.in_channels != in_channels:
        raise DataError(
            f"the weights of {source} are for points of {classifier.in_channels} channels, and the "
            f"data gives {in_channels}: choose what a point has by --data.features, such as normals"
        )
    known = option_names(get_model(name, task="segmentation").builder)
    architecture = trunk_options(classifier, known)
    model: PointCloudModel = create_model(
        name, len(class_names), in_channels, task="segmentation", **{**architecture, **options}
    )
    try:
        copied = copy_trunk(classifier, model)
    except ValueError as error:
        raise DataError(f"{source} cannot start a {name}: {error}") from error
    model.metadata = {**classifier.metadata, "class_names": list(class_names)}
    told = (
        f"starting from {source}: a {name}, with the layers of the {network_name(classifier)} "
        f"before its head, {copied:,} numbers; the rest is new, for {len(class_names)} classes"
    )
    hyperparameters = {
        "pretrained": None,
        "model": name,
        "options": plain_value({**architecture, **(hparams["options"] or {})}),
    }
    return StartingNetwork(model, hyperparameters, source, told, class_names)
