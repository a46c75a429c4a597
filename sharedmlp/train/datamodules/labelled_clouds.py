"""The data module of labelled clouds of one's own, whole or in blocks."""

from __future__ import annotations

from typing import Any

from sharedmlp.data import (
    LabelledCloudOptions,
    PointCloudStore,
    find_labelled_clouds,
    prepare_labelled_clouds,
    read_point_class_names,
)
from sharedmlp.train.datamodules.base import Split
from sharedmlp.train.datamodules.segmentation import SegmentationDataModule


class LabelledCloudsDataModule(SegmentationDataModule):
    """Files of points with a label column, in `<root>/{train,val,test}/` with `class_names.txt`.

    A whole cloud is centered and scaled into the unit sphere; a block is not: it is centered on
    itself in the plane, its height is above the lowest point of the scene, and `jitter` and
    `translate` are in the units of the files.

    Args:
        root: The folder with `class_names.txt` and the folders of the splits.
        pool_size: The number of points kept of a cloud or a block.
        features: What a point has besides its coordinates: "normals", "colors", "intensity", and
            "position", that within the scene from 0 to 1, of blocks alone; or a list of these. The
            9 channels of the literature on S3DIS are `[colors, position]`.
        columns: The names of the columns of files without names, such as `[x, y, z, label]`.
        ignored_label: The label, in the files, of points without one.
        classes: The classes to tell apart; all others become one, "other". All if left out.
        block_size: The edge of the blocks that scenes are cut into, in the files' units (meters);
            None for whole clouds.
        block_stride: How far the next block is; None for `block_size`.
        min_block_points: Blocks of fewer points are left out.
        **options: Arguments of `SegmentationDataModule` and `PointCloudDataModule`.
    """

    def __init__(
        self,
        root: str,
        pool_size: int = 4096,
        features: str | list[str] | None = None,
        columns: list[str] | None = None,
        ignored_label: int = -1,
        classes: list[str] | None = None,
        block_size: float | None = None,
        block_stride: float | None = None,
        min_block_points: int = 100,
        **options: Any,
    ) -> None:
        super().__init__(root, pool_size, **options)
        self._features = tuple([features] if isinstance(features, str) else features or ())
        self._reading: dict[str, Any] = {
            "columns": None if columns is None else tuple(columns),
            "ignored_label": ignored_label,
            "classes": tuple(classes or ()),
            "block_size": block_size,
            "block_stride": block_stride,
            "min_block_points": min_block_points,
        }

    @property
    def cloud_options(self) -> LabelledCloudOptions:
        """How the files are read.

        Raises:
            DataError: If the options do not fit each other.
        """
        return LabelledCloudOptions(
            self.pool_size, self._features, up_axis=self.up_axis, **self._reading
        )

    @property
    def features(self) -> tuple[str, ...]:
        """What a point has besides its coordinates, by name, of `POINT_CHANNELS`."""
        return self.cloud_options.features

    @property
    def class_names(self) -> list[str]:
        """The names of the classes in the order of their labels."""
        return list(read_point_class_names(self.root, self.cloud_options.classes))

    def has_split(self, split: Split) -> bool:
        """Return whether a file belongs to the split."""
        return bool(find_labelled_clouds(self.root, split))

    def setup(self, stage: str) -> None:
        """Open the split that `stage` needs, as `PointCloudDataModule` does."""
        super().setup(stage)
        options = self.cloud_options
        if options.block_size is not None:
            self.preprocessing |= {"block_size": options.block_size, "block_stride": options.stride}

    def open_split(self, split: Split) -> PointCloudStore:
        """Open the cache of a split, reading the files first if it is missing or stale."""
        return prepare_labelled_clouds(
            self.root, split, self.cloud_options, seed=self.seed, cache_dir=self.cache_dir
        )
