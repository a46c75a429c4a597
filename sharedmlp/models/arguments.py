"""Checks of the arguments and inputs that the networks share."""

from __future__ import annotations

from torch import Tensor


def check_widths(num_classes: int, in_channels: int) -> None:
    """Refuse numbers of classes and channels that no network has.

    Raises:
        ValueError: If the number of classes is negative, or that of the channels is less than 3.
    """
    if num_classes < 0 or in_channels < 3:
        raise ValueError(
            "expected num_classes >= 0 (0 for features) and in_channels >= 3 (x, y, z and "
            f"further features), got num_classes={num_classes} and in_channels={in_channels}"
        )


def check_points(name: str, points: Tensor, in_channels: int) -> None:
    """Refuse points that are not `(B, N, in_channels)`.

    Args:
        name: That of the network, for the message.
        points: Its input.
        in_channels: Its channels of a point.

    Raises:
        ValueError: If the shape is another one.
    """
    shape = tuple(points.shape)
    if points.ndim == 3 and shape[2] == in_channels:
        return
    hint = f"make the model with in_channels={shape[-1] if shape else 3}"
    if points.ndim == 3 and shape[1] == in_channels:
        hint = "swap points and channels with points.transpose(1, 2)"
    elif points.ndim == 2:
        hint = "add a batch dimension with points.unsqueeze(0)"
    raise ValueError(f"{name} expected (B, N, {in_channels}), got {shape}: {hint}")


def check_several_clouds(name: str, points: Tensor, where: str) -> None:
    """Refuse a batch of one cloud, for a network that normalizes over the clouds in training.

    Args:
        name: That of the network, for the message.
        points: Its input.
        where: What normalizes.

    Raises:
        ValueError: If there are fewer than two clouds.
    """
    if points.shape[0] < 2:
        raise ValueError(
            f"{name} in training mode expected at least two clouds, because batch norm in {where} "
            f"is undefined for one, got {tuple(points.shape)}: drop or merge a last batch of one, "
            "or call eval()"
        )
