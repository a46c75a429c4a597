"""The networks by name and task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TypeVar

from sharedmlp.models.options import check_options, import_network, option_names
from sharedmlp.models.protocol import PointCloudModel
from sharedmlp.utils.suggestions import did_you_mean

ClassT = TypeVar("ClassT", bound=type[PointCloudModel])

# Networks with this tag are made for the weights of others: only who asks for them sees them.
THIRD_PARTY = "third_party"

_WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class RegisteredModel:
    """A network that `create_model` makes.

    Attributes:
        name: Its name.
        task: What it is for, such as `"classification"`.
        builder: Its class.
        options: The arguments in which it differs from the defaults of its class.
        tags: Words to find it by.
        pretrained: What there are weights for, and the safetensors file of each.
    """

    name: str
    task: str
    builder: type[PointCloudModel]
    options: Mapping[str, Any]
    tags: tuple[str, ...]
    pretrained: Mapping[str, Path]


_MODELS: dict[tuple[str, str], RegisteredModel] = {}


def register_model(
    name: str,
    *,
    task: str = "classification",
    tags: tuple[str, ...] = (),
    pretrained: Mapping[str, str | Path] | None = None,
    **options: Any,
) -> Callable[[ClassT], ClassT]:
    """Make the decorator that registers a class of networks under a name.

    A class may have several names that differ in their options. Files name a network by the one
    nearest to the class, beside all of its options.

    Args:
        name: The name; together with the task it has to be a new one.
        task: What the network is for.
        tags: Words to find it by with `list_models`.
        pretrained: What there are weights for, and the safetensors file of each: a path, or the
            name of a file in `models/weights`.
        **options: Arguments in which the network differs from the defaults of its class.

    Raises:
        ValueError: If the name is taken.
    """

    def register(cls: ClassT) -> ClassT:
        if (task, name) in _MODELS:
            raise ValueError(
                f"there is a model {name!r} for {task} already, a "
                f"{_MODELS[task, name].builder.__name__}: choose another name"
            )
        files = {data: _WEIGHTS / file for data, file in (pretrained or {}).items()}
        _MODELS[task, name] = RegisteredModel(name, task, cls, options, tags, files)
        return cls

    return register


def list_models(
    filter: str = "",
    *,
    task: str | None = None,
    tag: str | None = None,
    pretrained: bool = False,
) -> list[str]:
    """Return the names that `create_model` knows.

    Those made for the weights of others are listed only if `tag="third_party"` asks for them.

    Args:
        filter: Only names like this, with wildcards, such as `"pointnet2*"`; empty means any.
        task: Only networks for this task; None means any.
        tag: Only networks with this tag; None means any.
        pretrained: Only networks that there are weights for, which `create_model(name,
            pretrained=True)` takes.
    """
    return sorted(
        {
            model.name
            for model in _MODELS.values()
            if task in (None, model.task)
            and (tag in model.tags if tag else THIRD_PARTY not in model.tags)
            and (model.pretrained or not pretrained)
            and fnmatch(model.name, filter or "*")
        }
    )


def get_model(name: str, task: str = "classification") -> RegisteredModel:
    """Return what is registered under a name.

    Raises:
        ValueError: If there is no model of this name for this task.
    """
    if (task, name) not in _MODELS:
        known_names = list_models(task=task)
        names = ", ".join(known_names)
        tasks = ", ".join(sorted({known for known, _ in _MODELS}))
        raise ValueError(
            f"unknown model {name!r}{did_you_mean(name, known_names)}: choose one of {names}"
            if names
            else f"there is no model for the task {task!r}: choose one of {tasks}"
        )
    return _MODELS[task, name]


def registered_as(model: PointCloudModel) -> RegisteredModel:
    """Return what a network is registered as; together with its `options` that makes it again.

    Raises:
        ValueError: If neither its class nor a base class is registered.
    """
    for known in models_of(model):
        return known
    raise ValueError(
        f"a {type(model).__name__} is not registered, so that a file of it could not be loaded: "
        "decorate its class with sharedmlp.models.register_model"
    )


def models_of(model: PointCloudModel) -> list[RegisteredModel]:
    """Return all that the class of a network, or else its nearest base class, is registered as."""
    for cls in type(model).__mro__:
        known = [entry for entry in _MODELS.values() if entry.builder is cls]
        if known:
            return known
    return []


def create_model(
    name: str,
    num_classes: int | None = None,
    in_channels: int = 3,
    backend: str = "linear",
    *,
    task: str = "classification",
    pretrained: bool | str | None = None,
    **options: Any,
) -> PointCloudModel:
    """Make a network.

    Args:
        name: One of `list_models()`, such as `"pointnet"` (with both T-Nets) or
            `"pointnet_vanilla"` (without), or the path of a class of one's own, derived from
            `sharedmlp.models.PointCloudModel`, such as `"mypackage.MyNet"`.
        num_classes: Number of classes; 0 makes a network that returns features. 40 by default, or
            those of the weights.
        in_channels: Channels of a point: 3 for coordinates, more for further features after them.
        backend: Backend of every shared MLP.
        task: What the network is for.
        pretrained: What the weights were trained on; True takes the first that there are.
            `"modelnet40"` gives `"pointnet_vanilla"` with weights trained on that, in
            evaluation mode; its `metadata` say what its clouds were like, and the file
            `models/weights/pointnet_vanilla_modelnet40.md` how it was trained, how good it is and
            what for. With other than 40 classes the last layer is a new one, to be trained.
        **options: Further arguments of the network's class, such as `dropout`.

    Raises:
        ImportError: If `pretrained` is given and safetensors is not installed.
        ValueError: If there is no model of this name for this task, no such weights, or an argument
            is unknown or out of range.
    """
    if "." in name:
        model = RegisteredModel(name, task, import_network(name), {}, (), {})
    else:
        model = get_model(name, task)
    known = option_names(model.builder)
    if "backend" in known or backend != "linear":  # a network of one's own may have but one
        options["backend"] = backend
    check_options(name, known, options)
    if pretrained:
        return _load_pretrained(model, pretrained, num_classes, in_channels, **options)
    build: Callable[..., PointCloudModel] = model.builder
    num_classes = 40 if num_classes is None else num_classes
    return build(num_classes, in_channels, **{**model.options, **options})


def pretrained_weights(source: str) -> tuple[RegisteredModel, Path] | None:
    """Return the network and the file of weights that come with this package; None if none do.

    Args:
        source: What they were trained on, such as `"modelnet40"`, or after the network's name,
            `"pointnet_vanilla_modelnet40"`.

    Raises:
        ValueError: If several networks were trained on that.
    """
    found = {
        f"{model.name}_{data}": (model, file)
        for model in _MODELS.values()
        for data, file in model.pretrained.items()
        if source in (data, f"{model.name}_{data}")
    }
    if len(found) > 1:
        raise ValueError(f"there are several weights {source!r}: choose one of {', '.join(found)}")
    return next(iter(found.values()), None)


def known_weights() -> list[str]:
    """Return the names of the weights that come with this package."""
    return [f"{model.name}_{data}" for model in _MODELS.values() for data in model.pretrained]


def _load_pretrained(
    registered: RegisteredModel,
    data: bool | str,
    num_classes: int | None,
    in_channels: int,
    **options: Any,
) -> PointCloudModel:
    """Make a network with weights, in evaluation mode."""
    from sharedmlp.models.safetensors_file import load_safetensors

    if data is True:
        data = next(iter(registered.pretrained), "(any)")
    if data not in registered.pretrained:
        known = ", ".join(known_weights())
        raise ValueError(f"there are no weights {registered.name}_{data}: there are {known}")
    # However it was trained, it is exact unless something else is asked for.
    options = {"search_precision": "float32", **options}
    model = load_safetensors(registered.pretrained[data], **options)
    if in_channels != model.in_channels:
        raise ValueError(
            f"the weights {registered.name}_{data} are for points of {model.in_channels} channels, "
            f"got in_channels={in_channels}"
        )
    if num_classes not in (None, model.num_classes):
        model.reset_classifier(num_classes)
    return model
