"""A network as one safetensors file: weights, the options that make the network, and metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from sharedmlp.models.pointnet import PointNet
from sharedmlp.utils.files import atomic_write
from sharedmlp.utils.optional_imports import require_modules


def save_safetensors(model: PointNet, path: Path) -> None:
    """Writes a network as :func:`load_safetensors` reads it.

    Raises:
        ImportError: If safetensors is not installed.
    """
    safetensors = _import_safetensors()
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    described = {"options": json.dumps(model.options), "metadata": json.dumps(model.metadata)}
    # Not save_file, which makes a file that nobody but its owner may read.
    content = safetensors.torch.save(weights, metadata={"format": "pt", **described})
    atomic_write(Path(path), content)


def load_safetensors(path: str | Path, **options: Any) -> PointNet:
    """Makes the network that ``sharedmlp export`` wrote as safetensors, in evaluation mode.

    Args:
        path: The file.
        **options: Arguments of :class:`~sharedmlp.models.PointNet` that replace the saved ones,
            such as ``backend="conv2d"``.

    Raises:
        ImportError: If safetensors is not installed.
        ValueError: If it is no such file, or does not say which network its weights are of.
    """
    safetensors = _import_safetensors()
    try:
        opened = safetensors.safe_open(path, framework="pt")
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file ({error})") from error
    with opened as file:
        saved = file.metadata() or {}
        if "options" not in saved:
            raise ValueError(
                f"{path} does not say which network its weights are of: write it with "
                "`sharedmlp export --format safetensors`, or make the network and load the weights "
                "into it"
            )
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    with torch.device("meta"):
        model = PointNet(**{**json.loads(saved["options"]), **options})
    model.load_state_dict(weights, assign=True)
    model.metadata = json.loads(saved["metadata"])
    return model.eval()


def _import_safetensors() -> Any:
    require_modules("safetensors.torch", extra="export", purpose="A safetensors file")
    import safetensors.torch

    return safetensors
