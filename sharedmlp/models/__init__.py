"""Models made of the layers, by name, and the weights of other people's."""

from __future__ import annotations

from typing import Any

from sharedmlp.models.foreign import export_weights, load_weights
from sharedmlp.models.pointnet import PointNet, PointNetOutput, orthogonality_penalty

__all__ = [
    "PointNet",
    "PointNetOutput",
    "create_model",
    "export_weights",
    "list_models",
    "load_weights",
    "orthogonality_penalty",
]

# The options in which a named model differs from the defaults of PointNet.
_MODELS: dict[str, dict[str, Any]] = {
    "pointnet": {"transforms": True},
    "pointnet_vanilla": {"transforms": False},
}


def list_models() -> list[str]:
    """Returns the names that :func:`create_model` knows."""
    return sorted(_MODELS)


def create_model(
    name: str,
    num_classes: int = 40,
    in_channels: int = 3,
    backend: str = "linear",
    **options: Any,  # noqa: ANN401
) -> PointNet:
    """Makes a model.

    Args:
        name: ``"pointnet"`` (with both T-Nets) or ``"pointnet_vanilla"`` (without).
        num_classes: Number of classes.
        in_channels: Channels of a point, see :class:`PointNet`.
        backend: Backend of every shared MLP.
        **options: Further arguments of :class:`PointNet`, such as ``dropout``.

    Raises:
        ValueError: If there is no model of this name, or an argument is out of range.
    """
    if name not in _MODELS:
        raise ValueError(f"unknown model {name!r}: choose one of {', '.join(list_models())}")
    return PointNet(num_classes, in_channels, backend=backend, **{**_MODELS[name], **options})
