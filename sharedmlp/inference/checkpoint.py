"""From a checkpoint of a training to its network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sharedmlp.models import PointNet
from sharedmlp.train.tasks.classification import ClassificationTask


def load_trained(path: str | Path, **options: Any) -> PointNet:
    """Makes the network of a checkpoint that ``sharedmlp fit`` wrote, in evaluation mode.

    Its ``metadata`` has ``class_names`` and, as far as the checkpoint knows them, ``num_points``,
    ``up_axis``, ``centre`` and ``scale`` of the clouds.

    Args:
        path: The checkpoint.
        **options: Arguments of :class:`ClassificationTask` that replace the checkpoint's, such as
            ``backend="conv1d"``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no checkpoint of a :class:`ClassificationTask`.
    """
    expected = (
        "expected one that `sharedmlp fit` wrote, such as "
        "runs/quickstart/version_0/checkpoints/best.ckpt"
    )
    try:
        # Plain values and tensors only.
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no checkpoint {path}: {expected}") from error
    except Exception as error:  # of many types, and the file is what is wrong in all of them
        raise ValueError(f"{path} cannot be read as a checkpoint: {expected}") from error
    if "class_names" not in checkpoint.get("hyper_parameters", {}):
        raise ValueError(f"{path} is no checkpoint of a training with this package: {expected}")
    task = ClassificationTask.load_from_checkpoint(
        path, map_location="cpu", weights_only=True, **options
    )
    task.model.metadata = {"class_names": task.class_names, **checkpoint.get("preprocessing", {})}
    return task.model.eval()
