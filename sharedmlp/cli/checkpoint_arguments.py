"""What a checkpoint says of the arguments of a task, below what was typed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pytorch_lightning.cli import LightningArgumentParser

from sharedmlp.cli.starting_weights import merge_weights
from sharedmlp.cli.typed_arguments import TypedModelArguments
from sharedmlp.train.lightning_internals import ExtensibleCLI, read_hyperparameters

DEFAULT_CLASS_PATH = "sharedmlp.train.ClassificationTask"
# Properties of the data module that are arguments of a task.
FROM_DATA = ("class_names", "in_channels")
# Likewise, of data whose shapes have categories.
_CATEGORIES = ("category_names", "parts_of_category")


def link_categories(parser: LightningArgumentParser) -> None:
    """Take the categories of shapes from the data, for tasks that take them and data that has them.

    Args:
        parser: That of a command.
    """
    for name in _CATEGORIES:
        parser.link_arguments(
            "data",
            f"model.init_args.{name}",
            partial(_read_property, name),
            apply_on="instantiate",
        )


def _read_property(name: str, data: object) -> Any:
    """Return a property of the data; None if it has none of this name."""
    return getattr(data, name, None)


def merge_checkpoint(cli: ExtensibleCLI, typed: TypedModelArguments) -> None:
    """Put the hyperparameters of the checkpoint below those that were typed.

    Args:
        cli: The command line, parsed; its `config` is changed.
        typed: What was typed.
    """
    subcommand = cli.config.get("subcommand")
    if subcommand is None:
        return
    merge_weights(cli, typed, subcommand)
    config = cli.config[subcommand]
    ckpt_path = config.get("ckpt_path")
    if ckpt_path and typed.group:
        cli.parser.error("with --ckpt_path, type single values as --model.NAME VALUE")
    if not ckpt_path or not Path(ckpt_path).is_file():
        return
    try:
        trained_class, values = read_hyperparameters(ckpt_path)
    except Exception as error:  # of many types, and the file is what is wrong in all of them
        cli.parser.error(
            f"{ckpt_path} cannot be read as a checkpoint of plain values, such as `sharedmlp "
            f"fit` writes ({type(error).__name__})"
        )
    if not values:
        return
    class_path = config.model.class_path
    trained_class = trained_class or DEFAULT_CLASS_PATH
    if trained_class.rpartition(".")[2] != class_path.rpartition(".")[2]:
        cli.parser.error(
            f"{ckpt_path} is a checkpoint of a {trained_class}, not of a {class_path}: add "
            f"--model {trained_class}"
        )
    typed_values = {key: config[key] for key in typed.keys if key in config}
    # Without what the data says, which a task does not need to take.
    arguments = {k: v for k, v in values.items() if k not in (*FROM_DATA, *_CATEGORIES)}
    _check_class_path(cli, ckpt_path, config.model.get("init_args", {}), arguments)
    model = {"class_path": class_path, "init_args": arguments}
    cli.config = cli.parser.parse_object({subcommand: {"model": model}}, cli.config)
    for key, value in typed_values.items():
        cli.config[subcommand].update(value, key)
    arguments = cli.config[subcommand].model.get("init_args", {})
    if arguments.get("pretrained"):
        # The same command goes on without the file that it started from.
        arguments["pretrained"] = None


def _check_class_path(
    cli: ExtensibleCLI, ckpt_path: str, own: Mapping[str, Any], saved: Mapping[str, Any]
) -> None:
    """Refuse a network of one's own that only the file names: it does not decide what runs."""
    name = saved.get("model")
    if isinstance(name, str) and "." in name and own.get("model") != name:
        cli.parser.error(f"{ckpt_path} is a checkpoint of a {name}: add --model.model {name}")
