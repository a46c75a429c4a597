"""The network that a task starts from: a new one, or one with weights and the head it needs."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl

from sharedmlp.data import DataError
from sharedmlp.models import PointCloudModel, create_model, load_pretrained
from sharedmlp.models.class_head import match_class_names, select_classes
from sharedmlp.models.options import check_options, import_network, option_names
from sharedmlp.models.saved import network_name, plain_value
from sharedmlp.train.lightning_internals import attached_datamodule, is_fitting
from sharedmlp.train.tasks.checkpoint_checks import find_differences, match_preprocessing

# The arguments of a task that are the network's as well, and what a network may be without.
_SHARED = {
    "backend": "linear",
    "fused": "auto",
    "search_precision": "float32",
    "norm": "batch",
    "dropout": 0.3,
}


@dataclass
class StartingNetwork:
    """A network, and where its weights come from.

    Attributes:
        model: The network, for the classes of the data.
        hyperparameters: Those of the task with which a checkpoint makes it again.
        source: Where the weights come from; None for a new network.
        told: What was loaded and what is new, to follow the source in one line.
        unknown: The classes of the data that the weights do not know; then the last layer is new.
        is_trained: Whether a training has begun since.
    """

    model: PointCloudModel
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    source: str | None = None
    told: str = ""
    unknown: list[str] = field(default_factory=list)
    is_trained: bool = False

    def setup(self, trainer: pl.Trainer) -> None:
        """Say what was loaded, and match the clouds of an evaluation to the weights.

        Args:
            trainer: The trainer, with its data set up.

        Raises:
            DataError: If an evaluation has classes that the weights do not know.
        """
        if self.source is None or self.is_trained or trainer.ckpt_path is not None:
            return
        if not is_fitting(trainer):
            self.check_classes_known()
        if trainer.is_global_zero:
            does = "starting from" if is_fitting(trainer) else "evaluating"
            print(f"{does} {self.source}: {self.told}", file=sys.stderr)
        if not is_fitting(trainer):
            match_preprocessing(trainer, self.model.metadata)
            return
        own = getattr(attached_datamodule(trainer), "preprocessing", {})
        differences = ", ".join(
            f"{name} was {before} and is {now}"
            for name, before, now in find_differences(self.model.metadata, own)
        )
        if differences and trainer.is_global_zero:
            print(
                f"the clouds are not like those that {self.source} was trained on: {differences}",
                file=sys.stderr,
            )
        self.model.metadata = {}  # from here on it learns from other clouds

    def check_classes_known(self) -> None:
        """Check that the network can answer without a training.

        Raises:
            DataError: If its last layer is a new one.
        """
        if self.source is None or not self.unknown or self.is_trained:
            return
        some = ", ".join(map(repr, self.unknown[:3])) + ", ..." * (len(self.unknown) > 3)
        raise DataError(
            f"{self.source} does not know {len(self.unknown)} of the classes of the data ({some}): "
            f"train it on them first (`sharedmlp fit --model.pretrained {self.source}`), or name "
            "a checkpoint that was (--ckpt_path)"
        )


def make_network(hparams: Mapping[str, Any]) -> StartingNetwork:
    """Make the network of a classification task.

    Args:
        hparams: The arguments of the task.

    Raises:
        DataError: If the weights are of another network, or take points of other channels.
        ValueError: If there is no such network, option or weights.
    """
    name, options = hparams["model"], network_options(hparams)
    names = list(hparams["class_names"])
    if hparams["pretrained"] is None:
        model = create_model(name, len(names), hparams["in_channels"], **options)
        return StartingNetwork(model)
    return start_from_weights(hparams["pretrained"], name, names, hparams["in_channels"], options)


def network_options(hparams: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the network of a task, but for those that the data decides.

    Args:
        hparams: The arguments of the task. A dropout of None leaves the network its own.

    Raises:
        DataError: If the further options have one that is the task's or the data's.
        ValueError: If a network of one's own does not take an option.
    """
    name, options = hparams["model"], dict(hparams["options"] or {})
    for option in options:
        if option in hparams or option in ("num_classes", "num_categories"):
            raise DataError(
                f"{option} is no further option of a network: give it as --model.{option}"
                if option in _SHARED
                else f"{option} is the data's, and no option of a network: leave it out"
            )
    shared = {key: hparams[key] for key in _SHARED if hparams[key] is not None}
    # A task must not fail for a layer that cannot be fused.
    shared["fused"] = "auto" if shared["fused"] else False
    if "." in name:
        options |= _accepted(name, shared)
    else:
        options |= shared
    return options


def _accepted(name: str, shared: Mapping[str, Any]) -> dict[str, Any]:
    """Return those arguments that a network of one's own takes.

    Raises:
        ValueError: If it does not take one that was given another value than the default.
    """
    known = option_names(import_network(name))
    asked = [key for key, value in shared.items() if key not in known and value != _SHARED[key]]
    check_options(name, known, asked)
    return {key: value for key, value in shared.items() if key in known}


def start_from_weights(
    source: str,
    name: str,
    class_names: Sequence[str],
    in_channels: int,
    options: dict[str, Any],
) -> StartingNetwork:
    """Make a network with weights, and with the head that the classes of the data need.

    Args:
        source: The weights, as `load_pretrained` takes them.
        name: The name of the network that is asked for.
        class_names: The names of the classes of the data.
        in_channels: The channels of a point of the data.
        options: Arguments of the network that replace the saved ones.

    Raises:
        DataError: If the weights are of another network, or take points of other channels.
        ValueError: If there are no such weights or options.
    """
    model = load_pretrained(source, name=name, **options)
    if network_name(model) != name:
        raise DataError(
            f"the weights of {source} are those of a {network_name(model)}, and the network is to "
            f"be a {name}: give --model.model {network_name(model)}, or leave --model.model out"
        )
    if model.in_channels != in_channels:
        raise DataError(
            f"the weights of {source} are for points of {model.in_channels} channels, and the data "
            f"gives {in_channels}: choose what a point has by --data.features, such as normals"
        )
    architecture = {
        key: value
        for key, value in plain_value(model.architecture).items()
        if key not in (*_SHARED, "num_classes", "in_channels", "num_categories")
    }
    told = f"a {name}, "
    known: list[str] = model.metadata.get("class_names", [])
    labels = match_class_names(known, class_names)
    unknown = [n for n, label in zip(class_names, labels, strict=True) if label is None]
    if unknown:
        model.reset_classifier(len(class_names))
        told += f"all but its last layer, which is new, for {len(class_names)} classes"
    elif labels == list(range(len(known))):
        told += f"with its head for the same {len(class_names)} classes"
    else:
        select_classes(model, [label for label in labels if label is not None])
        told += f"which chooses only among {len(class_names)} of its {len(known)} classes, by name"
    renamed = [
        f"{known[label]} = {own}"
        for label, own in zip(labels, class_names, strict=True)
        if label is not None and known[label] != own
    ]
    if renamed and not unknown:
        told += f" ({', '.join(renamed)})"
    model.metadata["class_names"] = list(class_names)
    hyperparameters = {"pretrained": None, "model": name, "options": architecture}
    return StartingNetwork(model, hyperparameters, source, told, unknown)
