"""What of a network is trained: all of it, or the head on a frozen backbone."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn


def get_head(model: nn.Module) -> nn.Module:
    """Return the head of a network; everything else is its backbone.

    Raises:
        ValueError: If it does not say which part that is.
    """
    get_classifier = getattr(model, "get_classifier", None)
    if get_classifier is None:
        raise ValueError(
            f"a {type(model).__name__} does not say what its head is, so that its backbone could "
            "be frozen or have another learning rate: give it a method get_classifier()"
        )
    return get_classifier()  # type: ignore[no-any-return]


def freeze_backbone(model: nn.Module) -> None:
    """Let only the parameters of the head have gradients."""
    # What Lightning warns of is what was asked for.
    warnings.filterwarnings("ignore", r".*module\(s\) in eval mode at the start of training.*")
    model.requires_grad_(False)
    get_head(model).requires_grad_(True)


def keep_backbone_statistics(model: nn.Module) -> None:
    """Put the backbone into evaluation mode: the statistics of its batch norms stay."""
    head = get_head(model)
    within = set(head.modules())
    for module in model.modules():
        # Not the network itself, which trains its head.
        if within.isdisjoint(module.modules()):
            module.training = False


def frozen_forward(model: Any, *inputs: Any) -> Tensor:
    """Return the logits of a network with a frozen backbone for the arguments of its `forward`.

    Without gradients, its layers run folded as in an evaluation. What the network adds to the loss
    is not computed: it could not change anything.
    """
    with torch.no_grad():
        features = model.forward_features(*inputs)
    return model.forward_head(features)  # type: ignore[no-any-return]
