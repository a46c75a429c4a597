"""Which augmentations training applies, in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from sharedmlp.data import (
    Compose,
    DataError,
    RandomColorDrop,
    RandomColorJitter,
    RandomFlip,
    RandomJitter,
    RandomPointDropout,
    RandomRotation,
    RandomScale,
    RandomTranslation,
)


@dataclass(frozen=True)
class AugmentationOptions:
    """What `PointCloudDataModule` and the data modules of labelled points take by these names."""

    rotate: bool
    up_axis: Literal["x", "y", "z"]
    jitter: float
    scale_low: float
    scale_high: float
    mirror: Literal["x", "y", "z"] | None
    translate: float
    point_dropout: float
    color_jitter: float = 0.0
    color_drop: float = 0.0

    def compose(self, features: Sequence[str]) -> Compose:
        """Return the augmentation of clouds whose points have these features.

        Raises:
            DataError: If colors are to be changed and there are none.
        """
        if (self.color_jitter or self.color_drop) and "colors" not in features:
            raise DataError(
                "color_jitter and color_drop need points with colors, got the features "
                f"{list(features)}: add --data.features colors, or set both to 0"
            )
        transforms: list[Any] = []
        if self.point_dropout:
            transforms.append(RandomPointDropout(self.point_dropout))
        if self.rotate:
            transforms.append(RandomRotation(self.up_axis, features))
        if self.mirror:
            transforms.append(RandomFlip(self.mirror, features))
        if (self.scale_low, self.scale_high) != (1.0, 1.0):
            transforms.append(
                RandomScale(self.scale_low, self.scale_high, anisotropic=True, features=features)
            )
        if self.translate:
            transforms.append(RandomTranslation(self.translate))
        if self.jitter:
            transforms.append(RandomJitter(self.jitter, clip=5 * self.jitter))
        if self.color_jitter:
            transforms.append(RandomColorJitter(self.color_jitter, features))
        if self.color_drop:
            transforms.append(RandomColorDrop(self.color_drop, features))
        return Compose(transforms)


def augment_batch(
    batch: dict[str, Any], augmentation: Compose, generator: torch.Generator
) -> dict[str, Any]:
    """Return a batch with its `points` augmented, and with their labels, if they have some.

    Where an augmentation puts one point into the place of another, its label goes with it.
    """
    points, labels = batch["points"], batch.get("label")
    if labels is None or labels.ndim == 1:
        return {**batch, "points": augmentation(points, generator)}
    # As one more column, which every augmentation leaves at its point; exact up to 2**24.
    columns = labels[..., None].to(torch.float32)
    augmented = augmentation(torch.cat([points.float(), columns], dim=-1), generator)
    return {
        **batch,
        "points": augmented[..., :-1].to(points.dtype).contiguous(),
        "label": augmented[..., -1].long(),
    }
