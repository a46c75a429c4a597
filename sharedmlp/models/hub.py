"""Networks with huggingface_hub's mixin: folders and repositories of the Hugging Face Hub.

A module of its own, because the mixin has to be a base class, and importing it takes 0.2 s, four
times as long as `import sharedmlp` may: `save_pretrained` and `from_pretrained` of a network import
this on their first call.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import new_class
from typing import Any

import torch

from sharedmlp.models.protocol import PointCloudModel
from sharedmlp.models.saved import describe_model, described_model, read_metadata
from sharedmlp.utils.optional_imports import require_modules

# The mixin imports safetensors only when it writes a file.
require_modules("huggingface_hub", "safetensors.torch", extra="hub", purpose="The Hugging Face Hub")

from huggingface_hub import PyTorchModelHubMixin  # noqa: E402 - after the check for it


class HubModel(  # type: ignore[misc]  # the mixin takes more arguments than are of use here
    PyTorchModelHubMixin, PointCloudModel, library_name="sharedmlp", tags=["point-cloud"]
):
    """Base class of a network as the Hub knows it; also has the mixin's `push_to_hub`."""

    def __init__(self, **options: Any) -> None:
        # The mixin passes what is in the config only to a constructor that takes anything.
        super().__init__(**options)

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> Any:
        """Write the folder; see `PointCloudModel.save_pretrained`."""
        # The mixin's own config has the arguments that were passed, and nothing of the data.
        config = {**self.options, **describe_model(self), "metadata": self.metadata}
        return super().save_pretrained(save_directory, **{**options, "config": config})

    @classmethod
    def _from_pretrained(cls, *, config: dict[str, Any] | None = None, **options: Any) -> Any:
        if config is None:
            raise ValueError(
                f"{options['model_id']} has no config.json, which says of what network the weights "
                "are: write the folder with save_pretrained"
            )
        # The options of the network are those that the mixin does not name; the caller's are there.
        described = {key: options.pop(key) for key in _NOT_OPTIONS if key in options}
        places = {key: options.pop(key) for key in _MIXIN_OPTIONS if key in options}
        known, made = described_model(described, options)
        # Not strict, as is the mixin's default, a network of other widths or with weights left out
        # would load and compute something.
        load = super(HubModel, hub_class(known.builder))._from_pretrained
        model = load(**{**made, **places, "strict": True})
        model.metadata = read_metadata(config.get("metadata", {}))
        return model


_NOT_OPTIONS = ("model", "task", "metadata")
_MIXIN_OPTIONS = (
    "model_id",
    "revision",
    "cache_dir",
    "force_download",
    "local_files_only",
    "token",
    "map_location",
    "strict",
)


@cache
def hub_class(network: Any) -> Any:
    """Return the subclass of a network that has the mixin."""
    if issubclass(network, HubModel):
        return network
    card = {"paper_url": network.paper_url}
    return new_class(f"Hub{network.__name__}", (HubModel, network), card)


def as_hub_model(model: PointCloudModel) -> PointCloudModel:
    """Return the same network with the mixin; both have the same parameters in memory."""
    if isinstance(model, HubModel):
        return model
    with torch.device("meta"):
        twin = hub_class(type(model))(**model.options)
    twin.load_state_dict(model.state_dict(), assign=True)
    twin.metadata = model.metadata
    return twin


def load_hub_model(name_or_path: str | Path, **options: Any) -> PointCloudModel:
    """Make the network of a folder or a repository; see `PointCloudModel.from_pretrained`."""
    model: PointCloudModel = HubModel.from_pretrained(name_or_path, **options)
    return model
