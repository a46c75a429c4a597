"""PointNet with huggingface_hub's mixin: folders and repositories of the Hugging Face Hub.

A module of its own, because the mixin has to be a base class, and importing it takes 0.2 s, four
times as long as `import sharedmlp` may: :meth:`PointNet.save_pretrained` and
:meth:`PointNet.from_pretrained` import this on their first call.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sharedmlp.models.pointnet import PointNet
from sharedmlp.utils.optional_imports import require_modules

# The mixin imports safetensors only when it writes a file.
require_modules("huggingface_hub", "safetensors.torch", extra="hub", purpose="The Hugging Face Hub")

from huggingface_hub import PyTorchModelHubMixin  # noqa: E402 - after the check for it


class HubPointNet(  # type: ignore[misc]  # the mixin takes more arguments than are of use here
    PyTorchModelHubMixin,
    PointNet,
    library_name="sharedmlp",
    tags=["point-cloud"],
    paper_url="https://arxiv.org/abs/1612.00593",
):
    """:class:`PointNet` as the Hub knows it; also has the mixin's ``push_to_hub``."""

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> Any:
        """See :meth:`PointNet.save_pretrained`."""
        # The mixin's own config has the arguments that were passed, and nothing of the data.
        config = {**self.options, "metadata": self.metadata}
        return super().save_pretrained(save_directory, **{**options, "config": config})

    @classmethod
    def _from_pretrained(cls, *, config: dict[str, Any] | None = None, **options: Any) -> Any:
        if config is None:
            raise ValueError(
                f"{options['model_id']} has no config.json, which says of what network the weights "
                "are: write the folder with save_pretrained"
            )
        # Not strict, as is the mixin's default, a network of other widths or with weights left out
        # would load and compute something.
        model = super()._from_pretrained(**{**options, "strict": True})
        model.metadata = config.get("metadata", {})
        return model


def as_hub_model(model: PointNet) -> HubPointNet:
    """Returns the same network with the mixin; both have the same parameters in memory."""
    if isinstance(model, HubPointNet):
        return model
    with torch.device("meta"):
        twin = HubPointNet(**model.options)
    twin.load_state_dict(model.state_dict(), assign=True)
    twin.metadata = model.metadata
    return twin
