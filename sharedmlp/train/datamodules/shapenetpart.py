"""The data module of ShapeNetPart."""

from __future__ import annotations

from typing import Any, Literal

from sharedmlp.data import (
    SHAPENETPART,
    PointCloudStore,
    has_shapenetpart_split,
    prepare_shapenetpart,
)
from sharedmlp.train.datamodules.base import Split
from sharedmlp.train.datamodules.segmentation import SegmentationDataModule


class ShapeNetPartDataModule(SegmentationDataModule):
    """ShapeNetPart as people have it: v0, v0_normal or `hdf5_data`, by the official splits.

    Args:
        root: The folder with `synsetoffset2category.txt` and `train_test_split`, or with the HDF5
            files.
        pool_size: The number of points kept of a shape; HDF5 files have 2,048.
        normals: Whether a point has its normal; of v0_normal alone.
        up_axis: The axis that points up: y in all three.
        **options: Arguments of `SegmentationDataModule` and `PointCloudDataModule`.
    """

    def __init__(
        self,
        root: str,
        pool_size: int = 2048,
        normals: bool = False,
        up_axis: Literal["x", "y", "z"] = "y",
        **options: Any,
    ) -> None:
        super().__init__(root, pool_size, up_axis=up_axis, **options)
        self._features = ("normals",) if normals else ()

    @property
    def class_names(self) -> list[str]:
        """The parts of all categories by number: "Airplane 1"."""
        return list(SHAPENETPART.class_names)

    @property
    def category_names(self) -> list[str]:
        """The names of the 16 categories."""
        return list(SHAPENETPART.categories)

    @property
    def parts_of_category(self) -> list[list[int]]:
        """The labels that the points of each category can have."""
        return SHAPENETPART.parts_of_category

    def has_split(self, split: Split) -> bool:
        """Return whether there is a list, or HDF5 files, of the split."""
        return has_shapenetpart_split(self.root, split)

    def open_split(self, split: Split) -> PointCloudStore:
        """Open the cache of a split, reading the shapes first if it is missing or stale."""
        return prepare_shapenetpart(
            self.root,
            split,
            pool_size=self.pool_size,
            normals=bool(self.features),
            seed=self.seed,
            cache_dir=self.cache_dir,
        )
