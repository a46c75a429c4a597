"""Recipes: the configurations that travel with the package, found by name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import sharedmlp
from sharedmlp.cli.errors import exit_usage
from sharedmlp.utils.suggest import did_you_mean

_OPTIONS = ("--config", "-c")


def find_recipes() -> dict[str, Path]:
    """Return the files of the recipes by name: those of the wheel, or of the clone."""
    package = Path(sharedmlp.__file__).parent
    installed = package / "configs"
    folder = installed if installed.is_dir() else package.parent / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def resolve_recipes(args: Sequence[str]) -> list[str]:
    """Replace the names of recipes after `--config` by their files.

    A path that exists stays as it is, and so does what is no name: an address, or YAML itself.

    Args:
        args: The arguments of the command line.

    Raises:
        SystemExit: With status 2 and one line, if a file is missing and no recipe has its name.
    """
    resolved: list[str] = []
    is_value = False
    for arg in args:
        option, equals, value = arg.partition("=")
        if is_value:
            resolved.append(_resolve(arg))
        elif option in _OPTIONS and equals:
            resolved.append(f"{option}={_resolve(value)}")
        else:
            resolved.append(arg)
        is_value = arg in _OPTIONS and not is_value
    return resolved


def _resolve(value: str) -> str:
    path = Path(value)
    is_path = re.fullmatch(r"[^:{}\n]+", value) is not None  # neither an address nor YAML
    if not is_path or (path.exists() and not path.is_dir()):
        return value
    recipes = find_recipes()
    if path.parent == Path() and path.suffix in ("", ".yaml") and path.stem in recipes:
        return str(recipes[path.stem])
    exit_usage(
        f"--config {value}: no such file, nor a recipe; the recipes are {', '.join(recipes)}"
        + did_you_mean(path.stem, recipes)
    )
