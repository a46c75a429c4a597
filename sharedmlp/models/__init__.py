"""Models made of the layers, by name, and the weights of other people's."""

from __future__ import annotations

from typing import Any

from sharedmlp.models.pointnet import PointNet, PointNetOutput, orthogonality_penalty
from sharedmlp.models.pretrained import load_pretrained
from sharedmlp.models.safetensors_file import load_safetensors, save_safetensors
from sharedmlp.models.third_party import export_weights, load_weights

__all__ = [
    "PointNet",
    "PointNetOutput",
    "create_model",
    "export_weights",
    "list_models",
    "load_safetensors",
    "load_weights",
    "orthogonality_penalty",
    "save_safetensors",
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
    *,
    pretrained: str | None = None,
    **options: Any,
) -> PointNet:
    """Makes a model.

    Args:
        name: ``"pointnet"`` (with both T-Nets) or ``"pointnet_vanilla"`` (without).
        num_classes: Number of classes.
        in_channels: Channels of a point, see :class:`PointNet`.
        backend: Backend of every shared MLP.
        pretrained: ``"modelnet40"`` gives ``"pointnet_vanilla"`` with weights trained on that, in
            evaluation mode; its ``metadata`` say what its clouds were like, and the file
            ``models/weights/pointnet_vanilla_modelnet40.md`` how it was trained, how good it is and
            what for. With other than 40 classes the last layer is a new one, to be trained.
        **options: Further arguments of :class:`PointNet`, such as ``dropout``.

    Raises:
        ImportError: If ``pretrained`` is given and safetensors is not installed.
        ValueError: If there is no model of this name, or an argument is out of range.
    """
    if name not in _MODELS:
        raise ValueError(f"unknown model {name!r}: choose one of {', '.join(list_models())}")
    if pretrained is not None:
        return load_pretrained(name, pretrained, num_classes, in_channels, backend, **options)
    return PointNet(num_classes, in_channels, backend=backend, **{**_MODELS[name], **options})
