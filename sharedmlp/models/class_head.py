"""The head of a network with weights, for the classes of other data, by their names."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from sharedmlp.models.protocol import PointCloudModel


def match_class_names(known: Sequence[str], wanted: Sequence[str]) -> list[int | None]:
    """Return the label that each wanted class has among the known ones; None if it has none.

    Names are compared without regard to case, and to what stands between words.
    """
    labels = {_simplify(name): label for label, name in enumerate(known)}
    if len(labels) < len(known) or len({_simplify(name) for name in wanted}) < len(wanted):
        labels = {name: label for label, name in enumerate(known)}
        return [labels.get(name) for name in wanted]
    return [labels.get(_simplify(name)) for name in wanted]


def select_classes(model: PointCloudModel, labels: Sequence[int]) -> None:
    """Let a network choose among some of its classes only: those outputs of its last layer stay.

    The `class_names` of its `metadata` follow.

    Args:
        model: The network; changed in place.
        labels: The classes that stay, in their new order.
    """
    names = model.metadata.get("class_names")
    head = model.get_classifier()
    prefix = _last_layer(head, model.num_classes)
    saved = {name: value.clone() for name, value in head.state_dict().items()}
    rows = torch.tensor(list(labels))
    model.reset_classifier(len(labels))
    for name, value in model.get_classifier().state_dict().items():
        old = saved[name]
        value.copy_(old[rows.to(old.device)] if name.startswith(prefix) else old)
    if names is not None:
        model.metadata["class_names"] = [names[label] for label in labels]


def _last_layer(head: nn.Module, num_classes: int) -> str:
    """Return the prefix, in the head's state, of the layer that makes the logits."""
    for name, module in reversed(list(head.named_modules())):
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter):
            if len(weight) == num_classes:
                return f"{name}." if name else ""
            break
    raise ValueError(
        f"expected a head that ends with a layer of {num_classes} outputs, got a "
        f"{type(head).__name__} that does not: give the network a new one with reset_classifier"
    )


def _simplify(name: str) -> str:
    return name.casefold().replace("-", "_").replace(" ", "_")
