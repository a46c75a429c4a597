"""From clouds as they are stored to clouds as a network was trained on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sharedmlp.data.io.cloud import turn_up_axis
from sharedmlp.data.io.formats import FORMATS
from sharedmlp.data.sampling import normalize_points


def file_up_axis(path: str | Path) -> str | None:
    """Return the axis that points up in a file by the specification of its format, if it says."""
    entry = FORMATS.get(Path(path).suffix.lower())
    return None if entry is None else entry.up_axis


def match_preprocessing(
    points: ArrayLike,
    *,
    source_up: str,
    target_up: str,
    features: Sequence[str] = (),
    normalize: bool = False,
) -> NDArray[np.float32]:
    """Turn clouds to another up axis, then center and scale them if asked for.

    Args:
        points: (..., N, C) with x, y, z first.
        source_up: The axis that points up in `points`: "x", "y" or "z".
        target_up: The axis that points up in the result.
        features: What follows x, y, z, as `read_cloud` takes it; normals are turned too.
        normalize: Whether to apply `normalize_points`.

    Returns:
        The same shape.
    """
    turned = turn_up_axis(points, source_up, target_up, features=features)
    return normalize_points(turned) if normalize else turned.astype(np.float32)
