"""Check of the arguments of a shared MLP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from sharedmlp.layers.backend import Backend
from sharedmlp.layers.pointwise import ACTIVATIONS


def check_can_fuse(fused: Any, reasons: Sequence[str]) -> None:
    """Make the reasons against a fused path an error if it must be taken.

    Raises:
        ValueError: If `fused` is True and there are reasons.
    """
    if reasons and fused is True:
        raise ValueError(
            "fused=True, but this cannot run fused: "
            + "; ".join(reasons)
            + '. Pass fused="auto" to take the plain path then'
        )


def check_channels(channels: Sequence[int]) -> tuple[int, ...]:
    """Return the widths.

    Raises:
        ValueError: If they are not at least two positive integers.
    """
    widths = tuple(channels)
    if len(widths) < 2 or any(not isinstance(c, int) or c < 1 for c in widths):
        raise ValueError(
            "channels are at least two positive integers from input to output width, such as "
            f"[3, 64, 64], got {list(widths)}"
        )
    return widths


def check_activation(
    activation: str | Sequence[str | None] | None, num_layers: int
) -> tuple[str | None, ...]:
    """Return the name of each layer's activation.

    Raises:
        ValueError: If one is unknown, or their number is not that of the layers.
    """
    names: tuple[str | None, ...]
    if activation is None or isinstance(activation, str):
        names = (activation,) * num_layers
    else:
        names = tuple(activation)
    for name in names:
        if name is not None and name not in ACTIVATIONS:
            raise ValueError(
                f"unknown activation {name!r}: choose one of {', '.join(ACTIVATIONS)} or None"
            )
    if len(names) != num_layers:
        raise ValueError(
            f"activation is one name or None, or one for each of the {num_layers} layers, got "
            f"{activation!r}"
        )
    return names


def check_clouds(x: Tensor, positions: tuple[int, ...], channel_dim: int, name: str) -> None:
    """Check that there are clouds with points to pool over.

    Args:
        x: The input of a layer.
        positions: Its sizes without the channels.
        channel_dim: Where its channels are.
        name: What the layer is called.

    Raises:
        ValueError: If there is no cloud, or no point in them.
    """
    no_cloud = channel_dim == 1 and len(positions) == 1
    if 0 in positions or x.numel() == 0 or no_cloud:
        raise ValueError(
            f"{name} takes the max over the points of (..., N, C), or of (B, C, ..., N) with "
            "channel_dim=1, and needs at least one cloud and one point, got "
            f"{tuple(x.shape)}: leave empty clouds out of the batch"
        )


def check_dropout(dropout: float | Sequence[float], num_layers: int) -> tuple[float, ...]:
    """Return the dropout probability of each layer.

    Raises:
        ValueError: If one is not in [0, 1), or their number is not that of the layers.
    """
    rates = (dropout,) * num_layers if isinstance(dropout, (int, float)) else tuple(dropout)
    if len(rates) != num_layers or any(not 0 <= rate < 1 for rate in rates):
        raise ValueError(
            f"dropout is one probability in [0, 1) or one for each of the {num_layers} layers, "
            f"got {dropout!r}"
        )
    return rates


def check_fused(fused: Any) -> None:
    """Check the `fused` argument of a layer.

    Raises:
        ValueError: If it is none of its three values.
    """
    if fused not in ("auto", True, False):
        raise ValueError(f'fused is "auto", True or False, got {fused!r}')


def refuse_channel_dim(name: str, options: dict[str, Any]) -> None:
    """Take `channel_dim` out of the options of a layer whose channels are last.

    Args:
        name: What the layer is called.
        options: Further arguments of the shared MLP in it, changed in place.

    Raises:
        ValueError: If it is another.
    """
    if options.pop("channel_dim", -1) != -1:
        raise ValueError(
            f"{name} takes points and features (B, N, C), channel_dim=-1: move the channels of "
            "features (B, C, N) with features.transpose(1, 2)"
        )


def check_options(backend: Backend, norm: str | None, channel_dim: int, fused: Any) -> None:
    """Check what has one of a few values.

    Raises:
        ValueError: If it has another.
    """
    check_fused(fused)
    if norm is not None and norm not in backend.norms:
        raise ValueError(f"unknown norm {norm!r}: choose one of {', '.join(backend.norms)} or None")
    if channel_dim not in (-1, 1):
        raise ValueError(
            f"channel_dim is -1 for (..., C) or 1 for (B, C, ...), got {channel_dim!r}"
        )
