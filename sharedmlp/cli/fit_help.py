"""`sharedmlp fit --help`: the options that matter, with the values of the configuration in use.

Read from the source of the classes, so that help does not wait for Lightning to be imported.
"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from sharedmlp.cli.class_source import find_source, known_sources
from sharedmlp.cli.errors import exit_usage
from sharedmlp.cli.recipes import resolve_recipes
from sharedmlp.utils.suggest import did_you_mean

_BASES = {"model": "BaseTask", "data": "PointCloudDataModule"}
_DEFAULTS = {"model": "ClassificationTask", "data": "PointCloudDataModule"}
# Arguments of a task that the data gives.
_FROM_DATA = ("class_names", "in_channels")
_ABOUT = {
    "fit": "Train a network on point clouds, or resume a training.",
    "validate": "Measure a checkpoint on the validation clouds.",
    "test": "Measure a checkpoint on the test split.",
    "predict": "Write the answer of a checkpoint for each cloud of the test split.",
}
_RUN = {
    "--config FILE": "a recipe by its name, or a YAML file; several are merged, the last one wins",
    "--ckpt_path FILE": "the checkpoint: what `fit` resumes from, and the others measure, which "
    "take a safetensors file or folder, too, or nothing: the network of this package",
    "--print_config": "print all settings as YAML, and stop",
    "--seed_everything N": "the seed of a run; 0 by default",
}
_FIT = {"--test_after_fit true": "end with a test of the best checkpoint"}
_PREDICT = {
    "--output FILE": "the CSV file; predictions.csv in the folder of the run by default",
    "--rotations N": "answer with the most confident of N turns about the up axis",
}
_TRAINER = {
    "max_epochs": "how often training sees all clouds",
    "accelerator": "cpu, gpu, or auto for what there is",
    "devices": "how many processes or GPUs",
    "precision": "32-true, bf16-mixed, 16-mixed, ...",
    "logger": "CSVLogger, TensorBoardLogger, ..., or false",
    "callbacks": "a class to add, by --trainer.callbacks+=CLASS",
    "fast_dev_run": "run so many batches, and write nothing",
}
_WIDTH = 96  # at most


def run(args: Sequence[str]) -> None:
    """Print the help of `fit`, `validate`, `test` or `predict`.

    Args:
        args: The arguments, with the command.
    """
    command = args[0] if args[0] in _ABOUT else "fit"
    rest = [arg for arg in resolve_recipes(args[1:]) if arg not in ("-h", "--help")]
    settings = _read_settings(rest)
    more = _FIT if command == "fit" else _PREDICT if command == "predict" else {}
    lines = [
        f"usage: sharedmlp {command} --config FILE [--{{data,model,trainer}}.NAME VALUE] ...",
        "",
        _ABOUT[command],
        "",
        *_table([(name, "", text) for name, text in (_RUN | more).items()]),
    ]
    for group in ("data", "model"):
        lines += ["", *_describe_class(group, settings.get(group, {}))]
    trainer = settings.get("trainer", {})
    lines += ["", "trainer, of which these are some:"]
    lines += _table(
        [(f"--trainer.{n}", _format(trainer.get(n), ""), text) for n, text in _TRAINER.items()]
    )
    lines += ["", f"`sharedmlp {command} --help all` lists every option, the trainer's included."]
    print("\n".join(lines))


def _read_settings(args: Sequence[str]) -> dict[str, Any]:
    """Return what configurations and typed options say: of each group its values."""
    settings: dict[str, Any] = {}
    pairs = [arg.partition("=")[::2] if "=" in arg else (arg, None) for arg in args]
    following = [*args[1:], ""][: len(args)]
    for (option, value), after in zip(pairs, following, strict=True):
        given = after if value is None else value
        if option in ("-c", "--config"):
            for group, values in _load(given).items():
                _update(settings, group, values)
        elif option in ("--data", "--model"):
            _update(settings, option[2:], {"class_path": given})
        elif option.startswith(("--data.", "--model.", "--trainer.")):
            group, _, name = option[2:].partition(".")
            _update(settings, group, {name.removeprefix("init_args."): given})
    return settings


def _load(path: str) -> dict[str, Any]:
    try:
        text = Path(path).read_text(encoding="utf-8") if Path(path).is_file() else path
        settings = yaml.safe_load(text)
    except yaml.YAMLError as error:
        exit_usage(f"--config {path}: no valid YAML: {error}")
    if not isinstance(settings, dict):
        exit_usage(f"--config {path}: expected settings (YAML), got {settings!r:.60}")
    return settings


def _update(settings: dict[str, Any], group: str, values: Any) -> None:
    if not isinstance(values, Mapping):
        settings[group] = values
        return
    values = {**values, **values.get("init_args", {})}
    values.pop("init_args", None)
    settings[group] = {**settings.get(group, {}), **values}


def _describe_class(group: str, values: Mapping[str, Any]) -> list[str]:
    """Return the options of a task or of data, each with its value and what it means."""
    name = values.get("class_path") or _DEFAULTS[group]
    source = find_source(name)
    known = known_sources(_BASES[group])
    if source is None:
        exit_usage(
            f"unknown class {name} for --{group}"
            + (did_you_mean(name, known) or f": choose one of {', '.join(known)}")
        )
    chosen = "" if values.get("class_path") or group == "model" else " (choose by --data CLASS)"
    options = [option for option in source.options() if option.name not in _FROM_DATA]
    rows = [
        (f"--{group}.{o.name}", _format(values.get(o.name), o.default), o.description)
        for o in options
    ]
    classes = f"--{group} CLASS", "", f"{', '.join(known)}, or a class path of your own"
    return [f"{group}, {source.name}{chosen}:", *_table([classes, *rows])]


def _format(value: Any, default: str) -> str:
    """Return a value as it is typed, that of the class if the configuration has none."""
    if value is None:
        return default
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return str(value.get("class_path", "..."))
    if isinstance(value, list):
        names = [
            item.get("class_path", "...") if isinstance(item, Mapping) else item for item in value
        ]
        return ",".join(map(str, names))
    return str(value)


def _table(rows: Sequence[tuple[str, str, str]]) -> list[str]:
    """Lay out options, their values and what they mean."""
    name_width = max(len(name) for name, _, _ in rows) + 2
    value_width = max(len(value) for _, value, _ in rows)
    value_width += 2 if value_width else 0
    width = max(60, min(_WIDTH, shutil.get_terminal_size().columns))
    lines = []
    for name, value, text in rows:
        head = f"  {name:<{name_width}}{value:<{value_width}}"
        indent = " " * len(f"  {'':<{name_width}}{'':<{value_width}}")
        lines += textwrap.wrap(text, width, initial_indent=head, subsequent_indent=indent) or [
            head.rstrip()
        ]
    return lines
