"""The data module of S3DIS."""

from __future__ import annotations

from typing import Any

from sharedmlp.data import S3DIS_CLASSES, PointCloudStore, find_areas, prepare_s3dis
from sharedmlp.train.datamodules.base import Split
from sharedmlp.train.datamodules.segmentation import SegmentationDataModule


class S3DISDataModule(SegmentationDataModule):
    """S3DIS as published, in blocks of 1 m with 9 channels; one area is the test split.

    A point has x, y, z centered on its block in the plane and above the floor, red, green, blue in
    0 to 1, and x, y, z within its room in 0 to 1. Validation rooms are carved out of the others.

    Args:
        root: The folder with `Area_1` to `Area_6`.
        pool_size: The number of points kept of a block.
        test_area: The area that is tested on; the others are trained on.
        block_stride: How far the next block is, in meters: less than 1 for blocks that overlap.
        **options: Arguments of `SegmentationDataModule` and `PointCloudDataModule`.
    """

    def __init__(
        self,
        root: str,
        pool_size: int = 4096,
        test_area: int = 5,
        block_stride: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(root, pool_size, **options)
        self.test_area, self.block_stride = test_area, block_stride

    @property
    def features(self) -> tuple[str, ...]:
        """Colors, and the position within the room."""
        return ("colors", "position")

    @property
    def class_names(self) -> list[str]:
        """The 13 classes."""
        return list(S3DIS_CLASSES)

    def has_split(self, split: Split) -> bool:
        """Return whether there is an area for the split."""
        return bool(self._areas(split))

    def setup(self, stage: str) -> None:
        """Open the split that `stage` needs, as `PointCloudDataModule` does."""
        super().setup(stage)
        self.preprocessing |= {"block_size": 1.0, "block_stride": self.block_stride}

    def open_split(self, split: Split) -> PointCloudStore:
        """Open the cache of a split, reading the rooms first if it is missing or stale."""
        return prepare_s3dis(
            self.root,
            split,
            self._areas(split),
            pool_size=self.pool_size,
            block_stride=self.block_stride,
            seed=self.seed,
            cache_dir=self.cache_dir,
        )

    def _areas(self, split: Split) -> list[int]:
        areas = find_areas(self.root)
        if split == "val":
            return []
        return [area for area in areas if (area == self.test_area) == (split == "test")]
