"""What the data modules of labelled points share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharedmlp.data import (
    IGNORED_LABEL,
    DataError,
    PointCloudStore,
    grouped_split,
    stratified_split,
)
from sharedmlp.train.datamodules.base import PointCloudDataModule


class SegmentationDataModule(PointCloudDataModule):
    """The base of the data modules whose points have labels.

    A batch has "points" (B, N, C), "label" (B, N) int64, with `ignore_index` for a point without
    one, "index" (B,) and, if the clouds have categories, "category" (B,). The copies that a test
    votes on are of the same points.

    If validation clouds are carved out of the training split, they are whole files of it, the same
    share of each category: blocks of one scene stay together.

    Args:
        root: The folder of the data.
        pool_size: The number of points kept of a cloud, of which every access draws `num_points`.
        cache_dir: The folder of the cache; `<root>/.sharedmlp_cache` by default.
        color_jitter: The standard deviation of the noise added to each color in training.
        color_drop: The probability that training sets all colors of a cloud to 0.
        **options: Arguments of `PointCloudDataModule`.
    """

    ignore_index = IGNORED_LABEL

    def __init__(
        self,
        root: str,
        pool_size: int,
        cache_dir: str | None = None,
        color_jitter: float = 0.0,
        color_drop: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.root, self.pool_size = Path(root), pool_size
        self.cache_dir = None if cache_dir is None else Path(cache_dir)
        if not (color_jitter >= 0 and 0 <= color_drop <= 1):
            raise ValueError(
                "expected color_jitter of at least 0 and color_drop from 0 to 1, got "
                f"{color_jitter} and {color_drop}"
            )
        self._augmentation = replace(
            self._augmentation, color_jitter=color_jitter, color_drop=color_drop
        )

    @property
    def category_names(self) -> list[str]:
        """The names of the categories of the clouds in the order of their numbers; [] if none."""
        return []

    @property
    def parts_of_category(self) -> list[list[int]]:
        """The labels that the points of each category can have; [] without categories."""
        return []

    def prepare_data(self) -> None:
        """Sample the splits that are about to be used, by one process of each machine."""
        if self.num_points > self.pool_size:
            raise DataError(
                f"expected num_points from 1 to {self.pool_size}, the points that are kept of a "
                f"cloud (pool_size), got {self.num_points}"
            )
        assert self.trainer is not None
        testing = self.trainer.testing or self.trainer.predicting
        self.check_splits("test" if testing else "train")
        self.open_split("test" if testing else "train")
        if not testing and self.has_split("val"):
            self.open_split("val")

    def split_training(self, pool: PointCloudStore) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return which clouds of the training split are trained on, and which validate."""
        if pool.categories is not None:
            return stratified_split(pool.categories, self.val_fraction, self.seed)
        files = [name.rpartition("#")[0] or name for name in pool.names]
        return grouped_split(files, self.val_fraction, self.seed)
