"""Everything that relies on what jsonargparse does not document: how its messages are worded.

Tested with jsonargparse 4.53.0. A message of another wording is printed as it is, in one line;
which ones are recognized is held by tests/cli/test_errors.py.

jsonargparse reports what is wrong inside an argument as an error with causes: the key of the
argument, the class that its value names, a key within that class, and last what is wrong.
"""

from __future__ import annotations

import ast
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import yaml
from pytorch_lightning.cli import LightningArgumentParser

from sharedmlp.cli.class_options import find_class, known_classes, option_names
from sharedmlp.cli.errors import exit_usage, one_line
from sharedmlp.utils.suggest import did_you_mean

_UNION = "Does not validate against any of the Union subtypes"


class OneLineParser(LightningArgumentParser):
    """The parser of Lightning's command line, with errors of one line and no abbreviations.

    Args:
        *args: Those of `LightningArgumentParser`.
        **options: Those of `LightningArgumentParser`.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **options})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line and exit with status 2."""
        if not self.exit_on_error:  # of the options of a class: the parser around it explains it
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self
        options = [option for action in parser._actions for option in action.option_strings]
        exit_usage(explain(message, ex, self.args or sys.argv[1:], options))


def root_cause(error: BaseException) -> BaseException:
    """Return the error that a constructor raised, out of jsonargparse's wrappers.

    Not what that was raised from: its own words are the ones that explain it.
    """
    if _UNION not in str(error):
        return error
    causes = list(_causes(error))
    return next((cause for cause in causes if not _is_of_the_parser(cause)), causes[-1])


def _is_of_the_parser(error: BaseException) -> bool:
    """Return whether jsonargparse itself raised an error."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and str(frames[-1].f_globals.get("__name__")).startswith("jsonargparse")


def explain(
    message: str, error: BaseException | None, args: Iterable[str], options: Iterable[str]
) -> str:
    """Return in one line what an error of parsing says.

    Args:
        message: The whole message.
        error: The error, with its causes.
        args: The command line.
        options: The options of the command, with their dashes.
    """
    args = list(args)
    texts = [message, *map(str, _causes(error))]
    last = texts[-1]
    keys = list(
        dict.fromkeys(
            match[1] for text in texts if (match := re.match(r'Parser key "(.+?)":', text))
        )
    )
    classes = re.findall(r"Problem with given class_path '(.+?)'", "\n".join(texts))
    owner = find_class(classes[-1]) if classes else None
    if match := re.match(r"unrecognized arguments: ([^\s=]+)", last):
        return _unknown_argument(match[1], options)
    if match := re.search(r"Option '(.+?)' is not accepted", last):
        option = ".".join([*keys, match[1].rpartition(".")[2]])
        return _unknown_option(option, owner, args)
    if match := re.search(r"does not accept option '(.+?)'", last):
        dashes, source = _source(match[1], args)
        similar = _similar_option(match[1], options, dashes)
        return f"unknown option {dashes}{match[1]}{source}{similar}"
    if match := re.search(r"Expected a dot import path string: (.+)", message):
        return _unknown_class(match[1], keys, args)
    if classes and owner is None:
        return _unknown_class(classes[-1], keys, args, f" ({one_line(last)})")
    if match := re.match(r"the following arguments are required: (.+)", last):
        return _missing(match[1], keys, owner)
    if match := re.match(r"argument (\S+): expected one argument", last):
        return f"{_without_value(match[1].split('/')[-1], args)} expects a value"
    if last.startswith("Unexpected config: ") or "Problems parsing config" in message:
        return _bad_config(last, args)
    if keys and (match := re.search(r"(\S+) does not conform to restriction v(\S+)$", last)):
        return f"--{'.'.join(keys)} expects a number {match[2]}, got {match[1]}"
    if (match := re.match(r"Expected an? .*Got value: (.*)", last, re.DOTALL)) and keys:
        unions = [text for text in texts if text.startswith(_UNION)]
        union = bool(unions) and "class_path" not in unions[-1]
        return _wrong_value(".".join(keys), match[1], unions[-1] if union else last, args)
    return one_line(last)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _unknown_argument(given: str, options: Iterable[str]) -> str:
    if not given.startswith("-"):
        return f"unexpected argument {given!r}: options are typed as --NAME VALUE"
    similar = _similar_option(given.lstrip("-"), options, "--")
    return f"unknown option {given}" + (similar or "; --help lists those that there are")


def _unknown_option(option: str, owner: type | None, args: list[str]) -> str:
    """Say that a class has no such option."""
    group, _, name = option.rpartition(".")
    dashes, source = _source(option, args)
    of = f" of {owner.__name__}" if owner else ""
    similar = did_you_mean(name, option_names(owner) if owner else [], f"{dashes}{group}.")
    return f"unknown option {dashes}{option}{of}{source}{similar}"


def _similar_option(name: str, options: Iterable[str], prefix: str) -> str:
    """Suggest an option: first one of the same group, then one of the same name in any group."""
    names = {option.lstrip("-") for option in options}
    for group in ("data", "model"):
        names |= {
            f"{group}.{option}" for cls in known_classes(group) for option in option_names(cls)
        }
    group, dot, leaf = name.rpartition(".")
    siblings = {other.rpartition(".")[2]: other for other in names if other.startswith(group + dot)}
    leaves = {other.rpartition(".")[2]: other for other in sorted(names)}
    for among in (siblings, leaves):
        found = did_you_mean(leaf, among)
        if found:
            meant = found.rpartition(" ")[2].rstrip("?")
            return f"; did you mean {prefix}{among[meant]}?"
    return did_you_mean(name, names, prefix)


def _unknown_class(name: str, keys: list[str], args: list[str], why: str = "") -> str:
    group = keys[0] if keys else "data" if "--data" in args or "--data.help" in args else "model"
    short = {cls.__name__ for cls in known_classes(group)}
    dashes, source = _source(".".join(keys or [group]), args, name)
    option = f"{dashes}{'.'.join(keys or [group])}"
    if re.fullmatch(r"[\w.]+", name) is None:
        return f"{option} expects a class, got {one_line(name)}{source}"
    similar = did_you_mean(name.rpartition(".")[2], short)
    choices = f": choose one of {', '.join(sorted(short))}" if 0 < len(short) < 10 else ""
    return f"unknown class {name} for {option}{source}{why}{similar or choices}"


def _missing(names: str, keys: list[str], owner: type | None) -> str:
    names = names.partition(".")[2] or names
    if names == "data" and not keys:
        return "nothing to work on: name a recipe or a file by --config, or data by --data CLASS"
    options = ", ".join(f"--{'.'.join([*keys, name])}" for name in names.split(", "))
    return f"{owner.__name__} needs {options}" if owner else f"missing: {options}"


def _wrong_value(option: str, value: str, types: str, args: list[str]) -> str:
    types = types.partition("Given value type")[0]
    literals: list[Any] = []
    for text in re.findall(r"Literal\[(.*?)\]", types):
        literals += ast.literal_eval(f"[{text}]")
    classes = re.findall(r"<class '(?:\w+\.)*(\w+)'>", types) + re.findall(
        r"Expected an? (list\b)", types
    )
    names = [name.replace("NoneType", "null") for name in classes]
    expected = [*dict.fromkeys([*map(str, literals), *names])] or ["another value"]
    dashes, source = _source(option, args, value)
    words = " or ".join([", ".join(expected[:-1]), expected[-1]] if expected[1:] else expected)
    similar = did_you_mean(value, map(str, literals))
    return f"{dashes}{option}{source} expects {words}, got {one_line(value)!r}{similar}"


def _bad_config(why: str, args: list[str]) -> str:
    """Name the file of settings that is none."""
    for path in _config_values(args):
        try:
            settings = yaml.safe_load(_read(path))
        except yaml.MarkedYAMLError as error:
            line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
            return f"--config {path}{line}: no valid YAML: {error.problem}"
        if not isinstance(settings, dict):
            return f"--config {path}: expected settings (YAML), got {settings!r:.60}"
    return one_line(why)


def _source(option: str, args: list[str], value: str = "") -> tuple[str, str]:
    """Return the dashes of an option that was typed, else the files of settings that have it."""
    configs = _config_values(args)
    words = [re.compile(rf"(?<!\w){re.escape(word)}(?!\w)") for word in (value, *option.split("."))]
    if any(words[-1].search(arg) for arg in args if arg not in configs):
        return "--", ""
    holders = [path for path in configs if all(word.search(_read(path)) for word in words)]
    return ("", f" in {' and '.join(holders)}") if holders else ("--", "")


def _config_values(args: list[str]) -> list[str]:
    values = [arg.partition("=")[2] for arg in args if arg.startswith("--config=")]
    pairs = pairwise(args)
    return values + [value for option, value in pairs if option in ("-c", "--config")]


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return path  # the settings themselves, as YAML


def _without_value(option: str, args: list[str]) -> str:
    """Return the option that was typed without a value: of --model.NAME argparse says --model."""
    for arg, following in zip(args, [*args[1:], "--"], strict=True):
        if arg.startswith(option) and "=" not in arg and following.startswith("--"):
            return arg
    return option
