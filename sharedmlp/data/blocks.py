"""Scenes cut into blocks: square in the plane across the up axis, as high as the scene.

Source: Qi et al. 2017, "PointNet", section 5.1, which cuts rooms into blocks of 1 m. Deviation: the
last block along an axis ends where the scene ends, so that it is as large as the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_MOST_BLOCKS = 10_000  # along an axis


class Block(NamedTuple):
    """A block of a scene.

    Attributes:
        indices: (n,) which points of the scene are in it, ascending, with those on its border.
        center: (2,) its center along the two axes of the plane.
    """

    indices: NDArray[np.int64]
    center: NDArray[np.float64]


def plane_axes(up_axis: str) -> tuple[int, int]:
    """Return the two axes across the up axis, ascending."""
    first, second = (axis for axis in range(3) if axis != "xyz".index(up_axis))
    return first, second


def cut_blocks(
    points: NDArray[np.float64], *, size: float, stride: float, up_axis: str
) -> Iterator[Block]:
    """Yield the blocks of a scene that have points; every point is in at least one.

    Args:
        points: (N, 3).
        size: The edge of a block, in the units of the points.
        stride: How far the next block is, at most `size`: a smaller one lets blocks overlap.
        up_axis: "x", "y" or "z".

    Raises:
        ValueError: If the size is not above 0, or the stride not above 0 and at most the size, or
            if there would be too many blocks along an axis.
    """
    if not 0 < stride <= size < np.inf:
        raise ValueError(
            "expected a block size above 0 and a stride above 0 and at most the size, got "
            f"size={size} and stride={stride}"
        )
    plane = points[:, list(plane_axes(up_axis))]
    starts = [_starts(low, high, size, stride) for low, high in zip(*_bounds(plane), strict=True)]
    border = 1e-6 * size  # whatever rounding does, a point on it belongs to both sides
    order = np.argsort(plane[:, 0], kind="stable")
    first = plane[order, 0]
    for low in starts[0]:
        begin, end = np.searchsorted(first, (low - border, low + size + border))
        strip = order[begin:end]
        second = plane[strip, 1]
        for second_low in starts[1] if len(strip) else ():
            inside = (second >= second_low - border) & (second <= second_low + size + border)
            if inside.any():
                yield Block(np.sort(strip[inside]), np.array([low, second_low]) + size / 2)


def place_in_block(
    points: NDArray[np.float64], block: Block, floor: float, up_axis: str
) -> NDArray[np.float64]:
    """Return the points (n, 3) of a block, centered in the plane and above the scene's floor.

    Args:
        points: (N, 3) of the scene.
        block: One of its blocks.
        floor: The lowest coordinate of the scene along the up axis.
        up_axis: "x", "y" or "z".
    """
    placed = points[block.indices].copy()
    placed[:, list(plane_axes(up_axis))] -= block.center
    placed[:, "xyz".index(up_axis)] -= floor
    return placed


def relative_positions(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return where points (N, 3) are in their scene, each axis from 0 to 1."""
    low, high = _bounds(points)
    return (points - low) / np.where(high > low, high - low, 1)


def _bounds(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return points.min(axis=0), points.max(axis=0)


def _starts(low: float, high: float, size: float, stride: float) -> list[float]:
    if high - low <= size:  # one block about the middle
        return [(low + high - size) / 2]
    count = int(np.ceil((high - low - size) / stride - 1e-6))
    if count >= _MOST_BLOCKS:
        raise ValueError(
            f"an extent of {high - low:.3g} would be cut into {count + 1:,} blocks of {size:g} "
            f"along an axis, more than {_MOST_BLOCKS:,}: are block_size and the points in the same "
            "units, or are there outliers?"
        )
    return [low + number * stride for number in range(count)] + [high - size]
