"""Networks that come with their weights: one file each in ``weights/``, with its card beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sharedmlp.models.pointnet import PointNet
from sharedmlp.models.safetensors_file import load_safetensors

_WEIGHTS = Path(__file__).parent / "weights"


def load_pretrained(
    name: str,
    data: str,
    num_classes: int,
    in_channels: int,
    backend: str,
    **options: Any,
) -> PointNet:
    """Makes a network of :func:`sharedmlp.models.create_model` with weights, in evaluation mode.

    Args:
        name: The network.
        data: What it was trained on.
        num_classes: Of other than the network's own, the last layer is new, and the ``metadata``
            have no ``class_names``.
        in_channels: Channels of a point, which have to be those that it was trained on.
        backend: Backend of every shared MLP.
        **options: Arguments of :class:`PointNet` that replace those that it was trained with.

    Raises:
        ImportError: If safetensors is not installed.
        ValueError: If there are no weights of this network on this data, or for such points.
    """
    path = _WEIGHTS / f"{name}_{data}.safetensors"
    if not path.is_file():
        there = ", ".join(sorted(file.stem for file in _WEIGHTS.glob("*.safetensors")))
        raise ValueError(f"there are no weights {path.stem}: there are {there}")
    # However it was trained, it is exact unless something else is asked for.
    options = {"search_precision": "float32", **options}
    model = load_safetensors(path, backend=backend, **options)
    if in_channels != model.in_channels:
        raise ValueError(
            f"the weights {path.stem} are for points of {model.in_channels} channels, got "
            f"in_channels={in_channels}"
        )
    if num_classes == model.architecture["num_classes"]:
        return model
    other = PointNet(**{**model.options, "num_classes": num_classes})
    model.head.layers[-1] = other.head.layers[-1]
    other.load_state_dict(model.state_dict())
    other.metadata = {k: v for k, v in model.metadata.items() if k != "class_names"}
    return other.eval()
