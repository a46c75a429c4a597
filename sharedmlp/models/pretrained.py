"""Networks with weights, from whatever holds them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sharedmlp.models.checkpoint import load_trained
from sharedmlp.models.protocol import PointCloudModel
from sharedmlp.models.registry import known_weights, pretrained_weights
from sharedmlp.models.safetensors_file import load_safetensors

# The file of weights in a folder as the Hugging Face Hub has them.
_HUB_FILE = "model.safetensors"


def load_pretrained(source: str | Path, **options: Any) -> PointCloudModel:
    """Make a network with the weights of a source, in evaluation mode.

    Args:
        source: What the weights of this package were trained on (`"modelnet40"`), a checkpoint of
            `sharedmlp fit`, a safetensors file of `sharedmlp export`, or a folder of
            `save_pretrained`.
        **options: Arguments of the network that replace the saved ones, such as
            `backend="conv2d"`; those that decide the shapes of the weights cannot be replaced.

    Raises:
        ImportError: If what reads the source is not installed.
        ValueError: If there is no such source, it is something else, or an option is unknown or
            does not fit the weights.
    """
    try:
        return _load(source, options)
    except (RuntimeError, TypeError, ValueError) as error:
        saved = _load(source, {})  # raises again if the options are not the cause
        for name, value in options.items():
            old = saved.architecture.get(name)
            if name in saved.architecture and _as_lists(old) != _as_lists(value):
                raise ValueError(
                    f"the weights of {source} are those of a network with {name}={_as_lists(old)}, "
                    f"and do not fit one with {name}={_as_lists(value)}: leave {name} out"
                ) from error
        if isinstance(error, ValueError):
            raise
        raise ValueError(f"{source} cannot be loaded with {options}: {error}") from error


def weights_file(source: str | Path) -> Path:
    """Return the file that holds the weights of a source, as `load_pretrained` takes it.

    Raises:
        ValueError: If there is no such source.
    """
    known = None if isinstance(source, Path) else pretrained_weights(source)
    if known is not None:
        return known[1]
    path = Path(source)
    if path.is_file():
        return path
    if (path / _HUB_FILE).is_file():
        return path / _HUB_FILE
    raise ValueError(
        f"there are no weights {str(source)!r}: expected {' or '.join(known_weights())}, a "
        "checkpoint of `sharedmlp fit` (.ckpt), a file of `sharedmlp export --format safetensors`, "
        f"or a folder with {_HUB_FILE} and config.json, such as save_pretrained writes"
    )


def _load(source: str | Path, options: dict[str, Any]) -> PointCloudModel:
    path = weights_file(source)
    if Path(source).is_dir() and path.name == _HUB_FILE:
        return PointCloudModel.from_pretrained(path.parent, **options)
    if path.suffix == ".safetensors":
        # However it was trained, it is exact unless something else is asked for.
        return load_safetensors(path, **{"search_precision": "float32", **options})
    return load_trained(path, **options)


def _as_lists(value: Any) -> Any:
    """Return a value as JSON and YAML keep it, with lists in place of tuples."""
    if isinstance(value, dict):
        return {name: _as_lists(item) for name, item in value.items()}
    return [_as_lists(item) for item in value] if isinstance(value, (list, tuple)) else value
