"""Networks with weights, from whatever holds them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sharedmlp.models.checkpoint import load_trained
from sharedmlp.models.protocol import PointCloudModel
from sharedmlp.models.registry import known_weights, pretrained_weights
from sharedmlp.models.safetensors_file import HUB_WEIGHTS, load_folder, load_safetensors
from sharedmlp.models.saved import plain_value
from sharedmlp.utils.suggest import did_you_mean


def load_pretrained(
    source: str | Path, *, name: str | None = None, **options: Any
) -> PointCloudModel:
    """Make a network with the weights of a source, in evaluation mode.

    Args:
        source: What the weights of this package were trained on (`"modelnet40"`), a checkpoint of
            `sharedmlp fit`, a safetensors file of `sharedmlp export`, or a folder of
            `save_pretrained`.
        name: That of the network, which a checkpoint of a network by its class path needs; of
            other weights it is the saved one, whatever is given.
        **options: Arguments of the network that replace the saved ones, such as
            `backend="conv2d"`; those that decide the shapes of the weights cannot be replaced.

    Raises:
        ImportError: If what reads the source is not installed.
        ValueError: If there is no such source, it is something else, or an option is unknown or
            does not fit the weights.
    """
    try:
        return _load(source, name, options)
    except (RuntimeError, TypeError, ValueError) as error:
        saved = _load(source, name, {})  # raises again if the options are not the cause
        for option, value in options.items():
            old, new = plain_value(saved.architecture.get(option)), plain_value(value)
            if option in saved.architecture and option != "dropout" and old != new:
                raise ValueError(
                    f"the weights of {source} are those of a network with {option}={old}, and do "
                    f"not fit one with {option}={new}: leave {option} out"
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
    if (path / HUB_WEIGHTS).is_file():
        return path / HUB_WEIGHTS
    names = known_weights()
    raise ValueError(
        f"there are no weights {str(source)!r}: expected {' or '.join(names)}, a checkpoint of "
        "`sharedmlp fit` (.ckpt), a file of `sharedmlp export --format safetensors`, or a folder "
        f"with {HUB_WEIGHTS} and config.json, such as save_pretrained writes"
        + did_you_mean(str(source), [*names, *(name.rpartition("_")[2] for name in names)])
    )


def _load(source: str | Path, name: str | None, options: dict[str, Any]) -> PointCloudModel:
    path = weights_file(source)
    if path.suffix == ".safetensors":
        # However it was trained, it is exact unless something else is asked for.
        options = {"search_precision": "float32", **options}
        if path.parent == Path(source):
            return load_folder(path.parent, **options)
        return load_safetensors(path, **options)
    # A checkpoint knows its network, unless that is a class that a file may not name.
    return load_trained(path, **options, **({"model": name} if name and "." in name else {}))
