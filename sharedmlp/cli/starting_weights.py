"""Weights on the command line that are no checkpoint: where they are named, of which network."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from sharedmlp.cli.typed_arguments import TypedModelArguments
from sharedmlp.models import load_pretrained
from sharedmlp.models.pretrained import weights_file
from sharedmlp.models.saved import network_name
from sharedmlp.train.lightning_internals import ExtensibleCLI

_MODEL, _PRETRAINED = "model.init_args.model", "model.init_args.pretrained"
# What is evaluated if nothing else is named.
_SHIPPED = "modelnet40"
_DEFAULT_MODEL = "pointnet"


def merge_weights(cli: ExtensibleCLI, typed: TypedModelArguments, subcommand: str) -> None:
    """Take what is named as weights for the `pretrained` of the task, with the network's name.

    An evaluation takes `--ckpt_path FILE` for that if it is no checkpoint, and without either the
    network that is part of the package.

    Args:
        cli: The command line, parsed; its `config` is changed.
        typed: What was typed.
        subcommand: The command.
    """
    config = cli.config[subcommand]
    arguments: Any = config.model.get("init_args", {})
    ckpt_path = config.get("ckpt_path")
    path = Path(ckpt_path) if ckpt_path else None
    if path is not None and (path.suffix == ".safetensors" or path.is_dir()):
        if subcommand == "fit":
            cli.parser.error(
                f"{ckpt_path} is no checkpoint to resume: to start from its weights, type "
                f"--model.pretrained {ckpt_path}"
            )
        _check_takes_weights(cli, arguments, ckpt_path)
        arguments["pretrained"], config["ckpt_path"] = str(ckpt_path), None
    elif path is not None and subcommand != "fit" and not path.is_file():
        cli.parser.error(
            f"`{subcommand}` needs --ckpt_path FILE, such as "
            f"runs/quickstart/version_0/checkpoints/best.ckpt, got {ckpt_path!r}, which is not a "
            "file"
        )
    elif path is None and subcommand != "fit":
        if "pretrained" not in arguments or (
            arguments["pretrained"] and _PRETRAINED not in typed.keys
        ):
            cli.parser.error(
                f"`{subcommand}` needs --ckpt_path FILE, such as "
                "runs/quickstart/version_0/checkpoints/best.ckpt"
            )
        is_segmentation = config.model.class_path.rpartition(".")[2] == "SegmentationTask"
        if not arguments["pretrained"] and is_segmentation:
            cli.parser.error(
                f"`{subcommand}` needs --ckpt_path FILE of a segmentation, such as "
                "runs/parts/version_0/checkpoints/best.ckpt: the network of this package is a "
                "classifier"
            )
        if not arguments["pretrained"]:
            arguments["pretrained"] = _SHIPPED
            print(
                f"no --ckpt_path: the network of this package answers ({_SHIPPED})", file=sys.stderr
            )
    elif path is not None:
        return  # a checkpoint
    if not arguments.get("pretrained"):
        return
    try:
        name = network_name(load_pretrained(arguments["pretrained"], name=arguments["model"]))
    except ValueError as error:
        cli.parser.error(str(error))
    # What nobody named is evaluated only as the network that a config describes.
    is_asked = path is not None or _PRETRAINED in typed.keys or subcommand == "fit"
    if _MODEL not in typed.keys and (is_asked or arguments["model"] == _DEFAULT_MODEL):
        arguments["model"] = name


def named_weights(config: Any) -> str | None:
    """Return the checkpoint or the weights that a command evaluates."""
    named = config.get("ckpt_path") or config.model.get("init_args", {}).get("pretrained")
    return None if named is None else str(named)


def named_weights_file(config: Any) -> Path:
    """Return the file of what `named_weights` returns."""
    return weights_file(named_weights(config) or "")


def _check_takes_weights(cli: ExtensibleCLI, arguments: Any, ckpt_path: str) -> None:
    if "pretrained" not in arguments:
        cli.parser.error(
            f"{ckpt_path} is no checkpoint, and the task takes no other weights: name one that "
            "`sharedmlp fit` wrote, such as best.ckpt"
        )
