"""A network as one safetensors file: weights, the name and options of the network, and metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sharedmlp.models.protocol import PointCloudModel
from sharedmlp.models.saved import describe_model, described_model, read_metadata
from sharedmlp.utils.files import atomic_write
from sharedmlp.utils.optional_imports import require_modules

# The file of weights in a folder as the Hugging Face Hub has them.
HUB_WEIGHTS = "model.safetensors"


def save_safetensors(model: PointCloudModel, path: Path) -> None:
    """Write a network as `load_safetensors` reads it.

    Raises:
        ImportError: If safetensors is not installed.
        ValueError: If the network is not registered.
    """
    safetensors = _import_safetensors()
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    described = {
        **describe_model(model),
        "options": json.dumps(model.options),
        "metadata": json.dumps(model.metadata),
    }
    # Not save_file, which makes a file that nobody but its owner may read.
    content = safetensors.torch.save(weights, metadata={"format": "pt", **described})
    atomic_write(Path(path), content)


def load_safetensors(path: str | Path, **options: Any) -> PointCloudModel:
    """Make the network that `sharedmlp export` wrote as safetensors, in evaluation mode.

    Args:
        path: The file.
        **options: Arguments of the network's class that replace the saved ones, such as
            `backend="conv2d"`.

    Raises:
        ImportError: If safetensors is not installed.
        ValueError: If it is not such a file, does not say which network its weights are of, or
            names one that is not registered.
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
    made = {**json.loads(saved["options"]), **options}
    return _make(saved, made, weights, json.loads(saved["metadata"]))


def load_folder(path: Path, **options: Any) -> PointCloudModel:
    """Make the network of a folder that `save_pretrained` wrote, without huggingface_hub.

    Args:
        path: The folder.
        **options: As of `load_safetensors`.

    Raises:
        ImportError: If safetensors is not installed.
        ValueError: If the folder has no config, or names a network that is not registered.
    """
    safetensors = _import_safetensors()
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        weights = safetensors.torch.load_file(path / HUB_WEIGHTS)
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise ValueError(
            f"{path} is no folder of save_pretrained, with {HUB_WEIGHTS} and config.json ({error})"
        ) from error
    metadata = config.pop("metadata", {})
    described = {key: config.pop(key) for key in ("model", "task") if key in config}
    return _make(described, {**config, **options}, weights, metadata)


def _make(
    described: Mapping[str, Any],
    options: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    metadata: Mapping[str, Any],
) -> PointCloudModel:
    known, made = described_model(described, options)
    with torch.device("meta"):
        model = known.builder(**made)
    model.load_state_dict(weights, assign=True)
    model.metadata = read_metadata(metadata)
    return model.eval()


def _import_safetensors() -> Any:
    require_modules("safetensors.torch", extra="export", purpose="A safetensors file")
    import safetensors.torch

    return safetensors
