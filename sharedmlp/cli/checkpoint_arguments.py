"""What a checkpoint says of the arguments of a task, below what was typed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sharedmlp.train.lightning_internals import ExtensibleCLI, read_hyperparameters

DEFAULT_CLASS_PATH = "sharedmlp.train.ClassificationTask"
# Properties of the data module that are arguments of a task.
FROM_DATA = ("class_names", "in_channels")


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


def merge_checkpoint(cli: ExtensibleCLI, typed: TypedModelArguments) -> None:
    """Put the hyperparameters of the checkpoint below those that were typed.

    Args:
        cli: The command line, parsed; its `config` is changed.
        typed: What was typed.
    """
    subcommand = cli.config.get("subcommand")
    if subcommand is None:
        return
    config = cli.config[subcommand]
    ckpt_path = config.get("ckpt_path")
    is_file = bool(ckpt_path) and Path(ckpt_path).is_file()
    if subcommand != "fit" and not is_file:
        cli.parser.error(
            f"`{subcommand}` needs --ckpt_path FILE, such as "
            "runs/quickstart/version_0/checkpoints/best.ckpt, got "
            f"{ckpt_path!r}, which is not a file"
        )
    if ckpt_path and typed.group:
        cli.parser.error("with --ckpt_path, type single values as --model.NAME VALUE")
    if not is_file:
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
    arguments = {k: v for k, v in values.items() if k not in FROM_DATA}
    model = {"class_path": class_path, "init_args": arguments}
    cli.config = cli.parser.parse_object({subcommand: {"model": model}}, cli.config)
    for key, value in typed_values.items():
        cli.config[subcommand].update(value, key)


def _config_key(option: str) -> str:
    """Return where the configuration keeps what was typed as `--model.NAME`."""
    name = option.removeprefix("model.")
    known = name.split(".")[0] in ("class_path", "init_args", "dict_kwargs")
    return option if known else f"model.init_args.{name}"
