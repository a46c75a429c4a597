"""What a task checks before it takes a checkpoint: classes, channels, and what clouds are like."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl

from sharedmlp.data import DataError
from sharedmlp.train.datamodules.base import PointCloudDataModule
from sharedmlp.train.datamodules.matching import match_clouds
from sharedmlp.train.lightning_internals import attached_datamodule, is_fitting


def check_classes(checkpoint: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Check that a checkpoint was trained on the classes of the data.

    Args:
        checkpoint: As Lightning writes it.
        own: The hyperparameters of the task.

    Raises:
        DataError: If it was trained on others: labels would silently mean something else.
    """
    trained = checkpoint.get("hyper_parameters", {}).get("class_names")
    names = own.get("class_names")
    if trained is None or names is None or list(trained) == list(names):
        return
    by_name = "or, to match classes by their names, --model.pretrained in place of --ckpt_path"
    if sorted(trained) == sorted(names):
        label = next(n for n, (a, b) in enumerate(zip(trained, names, strict=True)) if a != b)
        raise DataError(
            f"the checkpoint was trained on the {len(names)} classes in another order: the label "
            f"{label} was {trained[label]!r} and is {names[label]!r} in the data; give the data "
            f"the order of the checkpoint, {by_name}"
        )
    raise DataError(
        f"the checkpoint was trained on the {len(trained)} classes {list(trained)}, but the data "
        f"has the {len(names)} classes {list(names)}: point --data.root at data with the same "
        f"classes, train on this data, {by_name}"
    )


def check_channels(checkpoint: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Check that a checkpoint takes points as the data gives them.

    Raises:
        DataError: If it takes points of other channels.
    """
    trained = checkpoint.get("hyper_parameters", {}).get("in_channels")
    in_channels = own.get("in_channels")
    if trained is not None and in_channels is not None and trained != in_channels:
        raise DataError(
            f"the checkpoint takes points of {trained} channels, and the data gives "
            f"{in_channels}: choose what a point has by --data.features, such as normals"
        )


def match_preprocessing(trainer: pl.Trainer, trained: Mapping[str, Any]) -> None:
    """Make the clouds of an evaluation like those that the network was trained on.

    Args:
        trainer: The trainer, with its data set up.
        trained: The `preprocessing` of the network's data.

    Raises:
        DataError: If a training would go on with other data.
    """
    datamodule = attached_datamodule(trainer)
    if not isinstance(datamodule, PointCloudDataModule):
        return
    if is_fitting(trainer):
        for name, before, now in find_differences(trained, datamodule.preprocessing):
            if name != "num_points":
                raise DataError(
                    f"a training goes on with data like before: {name} was {before} and is {now}"
                )
        return
    told = match_clouds(datamodule, trained)
    if trainer.is_global_zero:
        for sentence in told:
            print(sentence, file=sys.stderr)


def find_differences(
    trained: Mapping[str, Any], own: Mapping[str, Any]
) -> list[tuple[str, Any, Any]]:
    """Return what differs in how clouds are preprocessed: its name, then trained and own value.

    Args:
        trained: The preprocessing of the network's data. Of what it does not say nothing differs;
            if it knows the number of points, though, it would also say that clouds are scaled, and
            which features they have.
        own: That of the data.
    """
    return [
        (name, trained.get(name), own.get(name))
        for name in ("up_axis", "scale", "features", "num_points")
        if (name in trained or "num_points" in trained) and trained.get(name) != own.get(name)
    ]
