"""The classes that the command line knows by name, and their options."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

# The base class of what an option names, by option.
_BASES = {
    "data": "sharedmlp.train.PointCloudDataModule",
    "model": "sharedmlp.train.BaseTask",
    "trainer.callbacks": "pytorch_lightning.Callback",
    "trainer.logger": "pytorch_lightning.loggers.Logger",
}


def find_class(class_path: str) -> type | None:
    """Return the class of a path, None if it cannot be imported."""
    module, _, name = class_path.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        return None
    return found if isinstance(found, type) else None


def known_classes(option: str) -> list[type]:
    """Return the classes that an option takes by their names alone, empty if it takes none."""
    base = find_class(_BASES.get(option, ""))
    return [] if base is None else [cls for cls in _subclasses(base) if _is_public(cls)]


def option_names(cls: type) -> list[str]:
    """Return the arguments of a class, those that it passes to its base classes included."""
    names: dict[str, None] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base) or base is object:
            continue
        parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
        names |= {
            p.name: None for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        }
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    names.pop("self", None)
    return list(names)


def _subclasses(cls: type[Any]) -> list[type[Any]]:
    direct = cls.__subclasses__()
    return [*direct, *(deeper for sub in direct for deeper in _subclasses(sub))]


def _is_public(cls: type) -> bool:
    return not cls.__name__.startswith("_") and not inspect.isabstract(cls)
