"""The arguments of a network's class, from files and command lines, and classes by their path."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from importlib import import_module

from sharedmlp.models.protocol import PointCloudModel
from sharedmlp.utils.suggestions import did_you_mean

_VARIABLE = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


def option_names(builder: type[PointCloudModel]) -> list[str]:
    """Return the names of the arguments of a network, those that it passes on included."""
    names: dict[str, None] = {}
    for cls in builder.__mro__:
        if "__init__" not in vars(cls):
            continue
        parameters = inspect.signature(cls.__init__).parameters.values()
        kinds = {parameter.kind for parameter in parameters}
        names |= {p.name: None for p in parameters if p.kind not in _VARIABLE and p.name != "self"}
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            break
    return list(names)


def check_options(name: str, known: Sequence[str], options: Iterable[str]) -> None:
    """Check that a network has options.

    Args:
        name: That of the network, for the message.
        known: What `option_names` returns of its class.
        options: The names of the options.

    Raises:
        ValueError: If one is unknown; the message says which there are.
    """
    for option in options:
        if option not in known:
            raise ValueError(
                f"{name} has no option {option!r}{did_you_mean(option, known)}: its options are "
                f"{', '.join(known)}"
            )


def import_network(path: str) -> type[PointCloudModel]:
    """Import the class of a network by its path, such as `mypackage.MyNet`.

    Raises:
        ValueError: If there is no such class, or it is not derived from `PointCloudModel`.
    """
    module_name, _, name = path.rpartition(".")
    try:
        cls = getattr(import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"there is no network {path}: {error}") from error
    if not (isinstance(cls, type) and issubclass(cls, PointCloudModel)):
        raise ValueError(
            f"{path} is no network: expected a class derived from sharedmlp.models.PointCloudModel"
        )
    return cls
