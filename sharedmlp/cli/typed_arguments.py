"""Which arguments of the model were typed, and not read from a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class TypedModelArguments(NamedTuple):
    """The arguments of the model that were typed.

    Attributes:
        keys: Where the configuration of a command keeps each that was typed as `--model.NAME`.
        group: Whether several were typed as `--model {...}`.
    """

    keys: list[str]
    group: bool

    @classmethod
    def of(cls, args: Sequence[str]) -> TypedModelArguments:
        """Find them on a command line."""
        typed = [arg.split("=")[0][2:] for arg in args if arg.startswith("--model.")]
        group = any(
            option == "--model" and "{" in (value if equals else following)
            for arg, following in zip(args, [*args[1:], ""], strict=True)
            for option, equals, value in [arg.partition("=")]
        )
        return cls(list(map(_config_key, typed)), group)


def _config_key(option: str) -> str:
    """Return where the configuration keeps what was typed as `--model.NAME`."""
    name = option.removeprefix("model.")
    known = name.split(".")[0] in ("class_path", "init_args", "dict_kwargs")
    return option if known else f"model.init_args.{name}"
