"""Augmentations of the colors of whole batches, called as those of `transforms.py` are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sharedmlp.data.io.cloud import feature_columns


class RandomColorJitter:
    """Add Gaussian noise to the color of every point; colors stay in 0 to 1.

    Args:
        std: The standard deviation.
        features: What the columns after the coordinates are (`read_cloud`), "colors" among them.

    Raises:
        ValueError: If there are no colors, or `std` is negative.
    """

    def __init__(self, std: float = 0.05, features: Sequence[str] = ("colors",)) -> None:
        if not 0 <= std < float("inf"):
            raise ValueError(f"expected std to be 0 or more, got {std}")
        self.std, self.columns = std, _color_columns(features)

    def __call__(self, points: Tensor, generator: torch.Generator) -> Tensor:
        """Return transformed points (B, N, C) of points (B, N, C)."""
        noise = torch.randn(
            *points.shape[:2], 3, generator=generator, device=generator.device, dtype=points.dtype
        ).to(points.device)
        jittered = points.clone()
        jittered[..., self.columns] = (points[..., self.columns] + self.std * noise).clamp(0, 1)
        return jittered


class RandomColorDrop:
    """Set all colors of some clouds to 0, so that the shape has to tell the classes apart as well.

    Source: Pointcept's and PointNeXt's "color drop".

    Args:
        probability: Of a cloud to lose its colors.
        features: What the columns after the coordinates are (`read_cloud`), "colors" among them.

    Raises:
        ValueError: If there are no colors, or the probability is none.
    """

    def __init__(self, probability: float = 0.2, features: Sequence[str] = ("colors",)) -> None:
        if not 0 <= probability <= 1:
            raise ValueError(f"expected a probability from 0 to 1, got {probability}")
        self.probability, self.columns = probability, _color_columns(features)

    def __call__(self, points: Tensor, generator: torch.Generator) -> Tensor:
        """Return transformed points (B, N, C) of points (B, N, C)."""
        drawn = torch.rand(len(points), generator=generator, device=generator.device)
        kept = points.clone()
        kept[(drawn < self.probability).to(points.device), :, self.columns] = 0
        return kept


def _color_columns(features: Sequence[str]) -> slice:
    if "colors" not in features:
        given = ", ".join(features) if features else "none"
        raise ValueError(
            f"colors can be jittered and dropped if the points have some: the features are {given}"
        )
    return feature_columns("colors", tuple(features))
