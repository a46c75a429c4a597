"""The colors of classes, those of the page of point clouds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Okabe and Ito, "Color Universal Design", 2008: told apart with any kind of color vision; as in
# template/decode.js, with lighter ones after the first round, then darker.
_PALETTE = (
    (213, 94, 0),
    (0, 114, 178),
    (0, 150, 110),
    (204, 100, 160),
    (230, 155, 0),
    (86, 180, 233),
    (140, 120, 60),
    (120, 100, 200),
)
_ROUNDS = ((0, 0.0), (255, 0.45), (0, 0.35))  # what is mixed in, and its share
UNLABELLED = (0.75, 0.76, 0.78)


def class_colors(num_classes: int) -> NDArray[np.float64]:
    """Return a color for each class, `(num_classes, 3)`, RGB from 0 to 1; they repeat after 24."""
    numbers = np.arange(num_classes)
    base = np.array(_PALETTE, dtype=np.float64)[numbers % len(_PALETTE)]
    target, share = np.array(_ROUNDS)[numbers // len(_PALETTE) % len(_ROUNDS)].T[..., None]
    colors: NDArray[np.float64] = (base + share * (target - base)) / 255
    return colors
