"""Loading and exporting the weights of other people's PointNets."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sharedmlp.models.pointnet import PointNet
from sharedmlp.models.third_party.checkpoint import read_state_dict
from sharedmlp.models.third_party.pointnet import DEFAULTS, ThirdPartyPointNet, network_of
from sharedmlp.models.third_party.sources import SOURCES, Source

_COUNTER = "num_batches_tracked"


class _Slot(NamedTuple):
    """Where a tensor of theirs is here, and its shape there."""

    ours: str
    shape: tuple[int, ...]


def load_weights(
    checkpoint: str | os.PathLike[str] | Mapping[str, Any],
    model: PointNet | None = None,
    *,
    source: str | None = None,
    **options: Any,
) -> PointNet:
    """Load the weights of another repository's PointNet classifier.

    The model gives the logits that the original code would, in evaluation and in training, on every
    backend; `sharedmlp.models.third_party` lists the repositories and what stays different, such as
    the log-probabilities that two of them return.

    Args:
        checkpoint: A state dict, a checkpoint that has one under `model_state_dict`, `state_dict`
            or `model`, or the path of either, also as `.safetensors`. `module.` before the keys is
            fine, and so are old files without `num_batches_tracked`.
        model: A model to load into. None makes one with the options that the weights need, in
            training mode and with the weights' dtype.
        source: `"yanx27"`, `"fxia22"`, `"learning3d"` or `"antao97"`. None recognizes it by the
            keys; those of fxia22 with a feature transform are also yanx27's, and are taken for
            them, which decides on the dropout rate alone.
        **options: Further arguments of a model to make, such as `backend` or `dropout`.

    Returns:
        The model.

    Raises:
        ValueError: If the weights are of no known kind; if keys are missing, unknown or of another
            shape (all of them are listed); if the model has other options than the weights need
            (they are listed, with the call that makes such a model); or if the file needs more than
            tensors (it says what, and how to convert it).
        ImportError: If a safetensors file is given and safetensors is not installed.
    """
    if model is not None and options:
        raise ValueError(f"options make a new model, but there is one: leave out {sorted(options)}")
    tensors = read_state_dict(checkpoint)
    candidates = [
        _Candidate(known, variant, tensors)
        for known in ([_get_source(source)] if source else SOURCES.values())
        for variant in known.variants
    ]
    best = max(candidates, key=lambda candidate: candidate.likeness)
    best.check_keys()
    if model is None:
        model = _make({**best.architecture, **options})
        model.to(next(value.dtype for value in tensors.values() if value.is_floating_point()))
    differences = _differences(_architecture_of(model), best.architecture)
    if differences:
        raise ValueError(
            f"the weights are {best.source.name}'s ({best.source.origin}), and the model is "
            f"another network: {'; '.join(differences)}. Load into a model made by "
            f"{_call(best.architecture)}, or leave out model and options"
        )
    state = {
        slot.ours: tensors[key] if key in tensors else torch.zeros((), dtype=torch.int64)
        for key, slot in best.slots.items()
    }
    model.load_state_dict(state)
    return model


def export_weights(model: PointNet, source: str) -> dict[str, Tensor]:
    """Return the weights as the code of another repository loads them, with `strict=True`.

    Args:
        model: A model of the same network as theirs.
        source: `"yanx27"`, `"fxia22"`, `"learning3d"` or `"antao97"`.

    Returns:
        Copies of the tensors with their keys and shapes, on the model's device.

    Raises:
        ValueError: If their code has no such network; the options that differ are listed, with the
            call that makes a model that it has.
    """
    theirs = _get_source(source)
    have = _architecture_of(model)
    allowed = []
    for variant in theirs.variants:
        wanted = {"num_classes": have["num_classes"], **theirs.architecture, **variant}
        if theirs.any_width:
            *widths, _ = wanted["global_channels"]
            wanted["global_channels"] = (*widths, have["global_channels"][-1])
        allowed.append((_differences(have, wanted), wanted))
    differences, wanted = min(allowed, key=lambda pair: len(pair[0]))
    if differences:
        raise ValueError(
            f"{theirs.origin}, has no such network: {'; '.join(differences)}. It has that of "
            f"{_call(wanted)}"
        )
    state = model.state_dict()
    return {
        key: state[slot.ours].detach().clone().reshape(slot.shape)
        for key, slot in _slots(theirs, model).items()
    }


class _Candidate:
    """A guess of what a state dict is: whose, and the network read off the shapes."""

    def __init__(self, source: Source, variant: dict[str, Any], tensors: Mapping[str, Any]) -> None:
        self.source = source
        self._tensors = tensors
        self.architecture = self._read_architecture({**source.architecture, **variant})
        with torch.device("meta"):
            self.slots = _slots(source, _make(self.architecture))
        self._missing = [
            key for key in self.slots if key not in tensors and not key.endswith(_COUNTER)
        ]
        self._unknown = [key for key in tensors if key not in self.slots]

    @property
    def likeness(self) -> tuple[int, int]:
        """Return what orders candidates: fewer unknown keys first, then fewer missing ones."""
        return -len(self._unknown), -len(self._missing)

    def check_keys(self) -> None:
        """Raise a ValueError that lists the keys that do not match."""
        if not any(key in self.slots for key in self._tensors):
            raise ValueError(
                f"the weights are of no known kind: expected those of {', '.join(SOURCES)}, got "
                f"the keys {_listed(self._tensors)}. Those of this library are loaded by "
                "model.load_state_dict"
            )
        wrong = [
            f"{key} is {_shape_of(self._tensors[key])}, expected {slot.shape}"
            for key, slot in self.slots.items()
            if key in self._tensors and _shape_of(self._tensors[key]) != slot.shape
        ]
        found = {"missing": self._missing, "unknown": self._unknown, "of another shape": wrong}
        if any(found.values()):
            raise ValueError(
                f"the weights are most like {self.source.name}'s ({self.source.origin}), but have "
                "keys that are "
                + "; ".join(f"{what}: {_listed(keys)}" for what, keys in found.items() if keys)
            )

    def _read_architecture(self, expected: dict[str, Any]) -> dict[str, Any]:
        """Replace the expected widths by those that the weights have."""
        architecture = {"num_classes": 1, **expected}
        for part, layers in (("local", "local_mlp"), ("global", "global_pool"), ("head", "head")):
            widths = expected[f"{part}_channels"]
            architecture[f"{part}_channels"] = tuple(
                self._width(f"{layers}.layers.{i}", 0, width) for i, width in enumerate(widths)
            )
        last = len(expected["head_channels"])
        architecture["num_classes"] = self._width(f"head.layers.{last}", 0, 1)
        architecture["in_channels"] = max(3, self._width("local_mlp.layers.0", 1, 3))
        if expected["transforms"]:
            seen = self._width("input_tnet.pool.layers.0", 1, 3)
            architecture["tnet_channels"] = max(3, min(seen, architecture["in_channels"]))
        return architecture

    def _width(self, layer: str, dim: int, default: int) -> int:
        shape = _shape_of(self._tensors.get(f"{self.source.layers[layer][0]}.weight"))
        return max(1, shape[dim]) if shape is not None and len(shape) > dim else default


def _slots(source: Source, model: PointNet) -> dict[str, _Slot]:
    """Return their keys of all tensors of a model of theirs."""
    slots = {}
    for ours, tensor in model.state_dict().items():
        layer, part, name = ours.rsplit(".", 2)
        theirs = source.layers.get(layer, (None, None))[0 if part == "linear" else 1]
        if theirs is None:
            raise ValueError(f"{source.origin}, has no place for {ours}: undo what added it")
        shape = tuple(tensor.shape)
        if len(shape) > 1 and "head" not in layer:  # over the points, theirs is an nn.Conv1d
            shape = (*shape[:2], 1)
        slots[f"{theirs}.{name}"] = _Slot(ours, shape)
    return slots


def _architecture_of(model: PointNet) -> dict[str, Any]:
    if not isinstance(model, PointNet):
        raise ValueError(
            f"expected a PointNet, got a {type(model).__name__}: pass the PointNet in it"
        )
    return {**DEFAULTS, **model.architecture}


def _differences(have: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Say in which options a network differs from the wanted one; empty if in none.

    Dropout rates are the training's choice; whether a layer has dropout is not.
    """
    drops = any(have["dropout"])
    found = []
    for name, want in wanted.items():
        if name == "dropout":
            differs = drops and [rate > 0 for rate in have[name]] != [rate > 0 for rate in want]
        elif name == "dropout_before_norm":
            differs = drops and have[name] != want
        else:
            differs = have[name] != want
        if differs:
            found.append(f"{name} is {have[name]}, expected {want}")
    return found


def _call(architecture: Mapping[str, Any]) -> str:
    """Write the call that makes a model, with the arguments that are not the defaults."""
    name, architecture = network_of(dict(architecture))
    parameters = {**signature(PointNet).parameters, **signature(ThirdPartyPointNet).parameters}
    listed = ", ".join(
        f"{option}={value!r}"
        for option, value in architecture.items()
        if value != parameters[option].default
    )
    return f"create_model({name!r}, {listed})"


def _make(options: dict[str, Any]) -> PointNet:
    name, options = network_of(options)
    return (PointNet if name == "pointnet" else ThirdPartyPointNet)(**options)


def _get_source(name: str) -> Source:
    if name not in SOURCES:
        raise ValueError(f"unknown source {name!r}: choose one of {', '.join(SOURCES)}")
    return SOURCES[name]


def _shape_of(value: object) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _listed(keys: Iterable[str]) -> str:
    return ", ".join(keys) or "none"
