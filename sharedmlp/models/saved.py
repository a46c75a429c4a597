"""How a file says which network its weights are of: the same words in every format."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sharedmlp.models.options import check_options, option_names
from sharedmlp.models.protocol import PointCloudModel
from sharedmlp.models.registry import (
    RegisteredModel,
    get_model,
    models_of,
    registered_as,
)
from sharedmlp.models.third_party.pointnet import network_of

# What a network says of its validation, and the largest value of each.
_VALIDATION = {"clouds": math.inf, "accuracy": 1.0, "confidence": 1.0}

# What the arguments of a task say of the data it was trained on.
_OF_THE_DATA = ("class_names", "category_names", "parts_of_category")


def describe_model(model: PointCloudModel) -> dict[str, str]:
    """Return the name and the task to write beside a network's options.

    Raises:
        ValueError: If the network is not registered.
    """
    known = registered_as(model)
    return {"model": known.name, "task": known.task}


def network_name(model: PointCloudModel) -> str:
    """Return the name by which `create_model` makes a network.

    That is the registered one whose options the network has, the one with most of them; of a class
    that is not registered, its path.
    """
    known = models_of(model)
    if not known:
        return f"{type(model).__module__}.{type(model).__qualname__}"
    architecture = plain_value(model.architecture)
    fitting = [
        entry
        for entry in known
        if all(architecture.get(k) == v for k, v in plain_value(entry.options).items())
    ]
    return max(fitting or known[:1], key=lambda entry: len(entry.options)).name


def plain_value(value: Any) -> Any:
    """Return a value as JSON and YAML keep it, with lists in place of tuples."""
    if isinstance(value, Mapping):
        return {name: plain_value(item) for name, item in value.items()}
    return [plain_value(item) for item in value] if isinstance(value, (list, tuple)) else value


def described_model(
    described: Mapping[str, Any], options: Mapping[str, Any]
) -> tuple[RegisteredModel, dict[str, Any]]:
    """Return the network that a file describes, and all of its options.

    Args:
        described: What `describe_model` returned; the file may say more. Files written before
            there was a name are PointNets.
        options: The options in the file.

    Raises:
        ValueError: If there is no such network, because its module was not imported, or it has no
            such option.
    """
    if "model" not in described:
        name, options = network_of(dict(options))
        return get_model(name), dict(options)
    known = get_model(described["model"], described["task"])
    check_options(known.name, option_names(known.builder), options)
    return known, dict(options)


def read_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of a file in today's words: `center` was written `centre` before.

    Raises:
        ValueError: If the temperature is not a positive number, or the validation not numbers.
    """
    temperature = metadata.get("temperature", 1.0)
    if not isinstance(temperature, int | float) or not 0 < temperature < math.inf:
        raise ValueError(
            f"the temperature of a network is a positive number, got {temperature!r}: correct or "
            "remove it in the metadata of the file"
        )
    seen = metadata.get("validation", _VALIDATION)
    if not isinstance(seen, Mapping) or not all(
        isinstance(seen.get(name), int | float) and 0 <= seen[name] <= most
        for name, most in _VALIDATION.items()
    ):
        raise ValueError(
            "the validation of a network is the number of clouds, and its accuracy and confidence "
            f"from 0 to 1, got {seen!r}: correct or remove it in the metadata of the file"
        )
    return {"center" if name == "centre" else name: value for name, value in metadata.items()}


def trained_metadata(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of the network in a checkpoint of a training.

    Args:
        checkpoint: As `sharedmlp fit` writes it: `class_names` and the categories of shapes among
            the `hyper_parameters`, what clouds have to be like under `preprocessing`, and what is
            known of the training and its validation under `metadata`. Older ones have less.

    Raises:
        ValueError: As `read_metadata`.
    """
    arguments = checkpoint.get("hyper_parameters", {})
    return {
        **{name: list(arguments[name]) for name in _OF_THE_DATA if arguments.get(name)},
        **read_metadata(checkpoint.get("preprocessing", {})),
        **read_metadata(checkpoint.get("metadata", {})),
    }
