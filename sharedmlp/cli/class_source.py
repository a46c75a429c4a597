"""The options of tasks and data modules, read from their source without importing them."""

from __future__ import annotations

import ast
import inspect
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

# Where the classes are that the command line knows by their names alone.
_FOLDERS = ("tasks", "datamodules")


class Option(NamedTuple):
    """An argument of a class.

    Attributes:
        name: Its name.
        default: Its default as it is typed on the command line; empty if it is required.
        description: What the docstring says of it.
    """

    name: str
    default: str
    description: str


class ClassSource(NamedTuple):
    """A class as its source describes it.

    Attributes:
        name: Its name.
        bases: The names of its base classes.
        node: Its definition.
    """

    name: str
    bases: tuple[str, ...]
    node: ast.ClassDef

    def options(self) -> list[Option]:
        """Return its arguments and, if it passes others on, those of its base classes."""
        init = next(
            (n for n in self.node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"),
            None,
        )
        own: dict[str, Option] = {}
        if init is not None:
            arguments = [*init.args.args[1:], *init.args.kwonlyargs]
            missing = len(init.args.args) - 1 - len(init.args.defaults)
            defaults = [None] * missing + [*init.args.defaults, *init.args.kw_defaults]
            texts = _argument_texts(ast.get_docstring(self.node) or "")
            for argument, default in zip(arguments, defaults, strict=True):
                value = "" if default is None else _typed(default)
                own[argument.arg] = Option(argument.arg, value, texts.get(argument.arg, ""))
        if init is None or init.args.kwarg is not None:
            for base in self.bases:
                source = find_source(base)
                for option in source.options() if source else []:
                    own.setdefault(option.name, option)
        return list(own.values())


def find_source(name: str) -> ClassSource | None:
    """Find a class of this package by its name, or any class by its path; None if there is none."""
    module, _, short = name.rpartition(".")
    if not module or module.split(".")[0] == "sharedmlp":
        return _own_sources().get(short)
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return _read(Path(spec.origin)).get(short)


def known_sources(base: str) -> list[str]:
    """Return the names of the classes of this package that have a class as a base."""
    sources = _own_sources()

    def descends(name: str) -> bool:
        source = sources.get(name)
        return source is not None and (base in source.bases or any(map(descends, source.bases)))

    return sorted(filter(descends, sources))


@cache
def _own_sources() -> dict[str, ClassSource]:
    package = Path(__file__).parent.parent / "train"
    files = [path for folder in _FOLDERS for path in sorted((package / folder).glob("*.py"))]
    return {name: source for path in files for name, source in _read(path).items()}


def _read(path: Path) -> dict[str, ClassSource]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        node.name: ClassSource(node.name, tuple(map(_last_name, node.bases)), node)
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    }


def _last_name(node: ast.expr) -> str:
    return ast.unparse(node).rpartition(".")[2]


def _typed(node: ast.expr) -> str:
    """Return a default as YAML has it."""
    text = str(ast.literal_eval(node)) if isinstance(node, ast.Constant) else ast.unparse(node)
    return {"True": "true", "False": "false", "None": "null"}.get(text, text)


def _argument_texts(docstring: str) -> dict[str, str]:
    """Return what the section "Args" of a Google-style docstring says of each argument."""
    section = re.search(
        r"^Args:\n(.*?)(?=^\S|\Z)", inspect.cleandoc(docstring), re.MULTILINE | re.DOTALL
    )
    if section is None:
        return {}
    entries = re.findall(r"^    (\w+): (.*?)(?=^    \S|\Z)", section[1], re.MULTILINE | re.DOTALL)
    return {name: " ".join(text.split()) for name, text in entries}
