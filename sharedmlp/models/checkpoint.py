"""From a checkpoint of a training to a network for use elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sharedmlp.models.options import import_network, option_names
from sharedmlp.models.protocol import PointCloudModel
from sharedmlp.models.registry import create_model
from sharedmlp.models.saved import trained_metadata

_EXPECTED = (
    "expected one that `sharedmlp fit` wrote, such as "
    "runs/quickstart/version_0/checkpoints/best.ckpt"
)
# The task's arguments that are the network's as well; older checkpoints have fewer.
_NETWORK_OPTIONS = ("in_channels", "backend", "search_precision", "norm", "dropout")
# The task keeps its network under this name.
_PREFIX = "model."


def load_trained(path: str | Path, **options: Any) -> PointCloudModel:
    """Make the network of a checkpoint that `sharedmlp fit` wrote, in evaluation mode.

    It is a classifier or a segmenter, as it was trained. Its `metadata` has `class_names`, of a
    segmenter of shapes also `category_names` and `parts_of_category`, and, as far as the checkpoint
    knows them, `num_points`, `up_axis`, `center` and `scale` of the clouds, what the network was
    `trained_on`, the `temperature` of its probabilities, and its `validation`.

    Args:
        path: The checkpoint.
        **options: Arguments of `create_model` that replace the checkpoint's, such as
            `backend="conv1d"`; `model` for its `name`, which is needed for a network that was
            trained by its class path: a file does not decide which modules are imported.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a checkpoint of a task of this package, or its weights are not
            those of the network that it names.
    """
    checkpoint = _read(path)
    saved: dict[str, Any] = checkpoint["hyper_parameters"]
    class_names = list(saved["class_names"])
    network = {name: saved[name] for name in _NETWORK_OPTIONS if name in saved}
    if network.get("dropout", 0.0) is None:  # that of the network's paper
        del network["dropout"]
    network["fused"] = saved.get("fused", True)
    network |= saved.get("options") or {}
    # What the task knows besides its arguments; of a classification that is nothing.
    described: dict[str, Any] = dict(checkpoint.get("network", {}))
    task = described.pop("task", "classification")
    network |= described
    name = options.pop("model", None)
    if name is not None and "." in name:  # of one's own, which may take fewer options
        known = option_names(import_network(name))
        network = {key: value for key, value in network.items() if key in known}
    network |= options
    # A task must not fail for a layer that cannot be fused.
    if "fused" in network:
        network["fused"] = "auto" if network["fused"] else False
    if name is None:
        name = saved.get("model", "pointnet")
        if "." in name:
            raise ValueError(
                f"{path} names a network by its class path, {name}, and a file does not decide "
                f"which modules are imported: give model={name!r} (--model.model {name})"
            )
    model = create_model(name, len(class_names), task=task, **network)
    state = {
        key.removeprefix(_PREFIX): value
        for key, value in checkpoint["state_dict"].items()
        if key.startswith(_PREFIX)
    }
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        first = " ".join(str(error).split())
        raise ValueError(f"{path} has other weights than those of {name!r}: {first}") from error
    model.metadata = trained_metadata(checkpoint)
    return model.eval()


def _read(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of a task of this package."""
    try:
        # Plain values and tensors only.
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no checkpoint {path}: {_EXPECTED}") from error
    except Exception as error:  # of many types, and the file is what is wrong in all of them
        raise ValueError(f"{path} cannot be read as a checkpoint: {_EXPECTED}") from error
    if not isinstance(checkpoint, dict) or "class_names" not in checkpoint.get(
        "hyper_parameters", {}
    ):
        raise ValueError(f"{path} is no checkpoint of a training with this package: {_EXPECTED}")
    return checkpoint
