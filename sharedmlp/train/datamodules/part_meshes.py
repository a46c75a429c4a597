"""Data modules of meshes whose parts are known, such as the generated shapes."""

from __future__ import annotations

from typing import Any

from sharedmlp.data import (
    PartClasses,
    PointCloudStore,
    find_part_meshes,
    generated_part_classes,
    prepare_part_meshes,
    read_part_classes,
    write_shapes,
)
from sharedmlp.train.datamodules.base import Split
from sharedmlp.train.datamodules.segmentation import SegmentationDataModule


class PartMeshDataModule(SegmentationDataModule):
    """Meshes with the part of each face beside them, sampled into a cache on first use.

    Args:
        root: The folder with `parts.json` and `<category>/{train,val,test}/<name>.off` and `.seg`.
        pool_size: The number of points sampled from a mesh.
        normals: Whether a point has the normal of its face.
        **options: Arguments of `SegmentationDataModule` and `PointCloudDataModule`.
    """

    def __init__(
        self,
        root: str,
        pool_size: int = 2048,
        normals: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(root, pool_size, **options)
        self._features = ("normals",) if normals else ()

    @property
    def part_classes(self) -> PartClasses:
        """The categories and their parts."""
        return read_part_classes(self.root)

    @property
    def class_names(self) -> list[str]:
        """The names of the parts of all categories: "mug handle"."""
        return list(self.part_classes.class_names)

    @property
    def category_names(self) -> list[str]:
        """The names of the categories in the order of their numbers."""
        return list(self.part_classes.categories)

    @property
    def parts_of_category(self) -> list[list[int]]:
        """The labels that the points of each category can have."""
        return self.part_classes.parts_of_category

    def has_split(self, split: Split) -> bool:
        """Return whether a mesh belongs to the split."""
        return bool(find_part_meshes(self.root, split))

    def open_split(self, split: Split) -> PointCloudStore:
        """Open the cache of a split, sampling the meshes first if it is missing or stale."""
        return prepare_part_meshes(
            self.root,
            split,
            pool_size=self.pool_size,
            normals=bool(self.features),
            seed=self.seed,
            cache_dir=self.cache_dir,
        )


class PartShapesDataModule(PartMeshDataModule):
    """Generated meshes whose parts are labelled, written on first use; needs no download.

    Args:
        root: The folder to write to.
        **options: Arguments of `PartMeshDataModule`, `SegmentationDataModule` and
            `PointCloudDataModule`.
    """

    def __init__(self, root: str = "data/part_shapes", **options: Any) -> None:
        super().__init__(root, **options)

    @property
    def part_classes(self) -> PartClasses:
        """The categories and their parts."""
        return generated_part_classes()

    def has_split(self, split: Split) -> bool:
        """Return whether it is one of those that are written."""
        return split != "val"

    def prepare_data(self) -> None:
        """Write missing meshes, then sample the split."""
        write_shapes(self.root, parts=True)
        super().prepare_data()
