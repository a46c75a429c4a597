"""Reading checkpoints of unknown origin: tensors, and nothing else, are unpickled."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sharedmlp.utils.optional_imports import require_modules

# Where training programs keep a model's state dict in what they save.
WRAPPERS = ("model_state_dict", "state_dict", "model")

_CONVERSION = """\
import torch
checkpoint = torch.load({path!r}, map_location="cpu", weights_only=False)
for key in {wrappers!r}:
    if isinstance(checkpoint, dict):
        checkpoint = checkpoint.get(key, checkpoint)
if isinstance(checkpoint, torch.nn.Module):
    checkpoint = checkpoint.state_dict()
tensors = {{key: value for key, value in checkpoint.items() if isinstance(value, torch.Tensor)}}
torch.save(tensors, {converted!r})
"""


def read_state_dict(source: str | os.PathLike[str] | Mapping[str, Any]) -> dict[str, Any]:
    """Read a checkpoint and takes the state dict out of its wrappers.

    Args:
        source: A checkpoint, or the path of one: `.safetensors`, or what `torch.save` writes.

    Raises:
        OSError: If the file cannot be opened.
        ImportError: If safetensors is needed and not installed.
        ValueError: If the file is not a checkpoint, or needs more than tensors.
    """
    checkpoint: Any = source if isinstance(source, Mapping) else _read(Path(source))
    for key in WRAPPERS:
        if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get(key), Mapping):
            checkpoint = checkpoint[key]
    if not isinstance(checkpoint, Mapping):
        raise ValueError(
            f"expected a state dict, or a dict with one under {' or '.join(map(repr, WRAPPERS))}, "
            f"got a {type(checkpoint).__name__}: save model.state_dict()"
        )
    # nn.DataParallel puts "module." before all keys.
    return {str(key).removeprefix("module."): value for key, value in checkpoint.items()}


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return _load_safetensors(path)
        return torch.load(  # noqa: TID251 - tensors only, as weights_only says
            path, map_location="cpu", weights_only=True
        )
    except (OSError, ImportError):
        raise
    except Exception as error:  # UnpicklingError, KeyError, EOFError, ...: as the file's bytes will
        raise ValueError(_explain(path, error)) from error


def _load_safetensors(path: Path) -> dict[str, torch.Tensor]:
    require_modules("safetensors.torch", extra="export", purpose=f"Reading {path}")
    from safetensors.torch import load_file

    return load_file(path)


def _explain(path: Path, error: Exception) -> str:
    wanted = re.search(r"GLOBAL (\S+)", str(error))
    if wanted is None:
        first = (str(error).splitlines() or [""])[0]
        return (
            f"{path} cannot be read as a checkpoint of tensors "
            f"({type(error).__name__}: {first}): expected a file that torch.save or safetensors "
            "wrote"
        )
    conversion = _CONVERSION.format(
        path=str(path), wrappers=WRAPPERS, converted=str(path.with_suffix(".tensors.pth"))
    )
    return (
        f"{path} holds more than tensors: it wants the object {wanted[1]}, and unpickling objects "
        "can run any code, so that only tensors are read here. If you trust where the file comes "
        "from, run this where the program that wrote it runs, and load what it writes:\n\n"
        f"{conversion}"
    )
