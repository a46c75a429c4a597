"""What the data modules of labelled points share, and that of the generated shapes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharedmlp.data import (
    IGNORED_LABEL,
    DataError,
    PartClasses,
    PointCloudStore,
    find_part_meshes,
    generated_part_classes,
    grouped_split,
    prepare_part_meshes,
    read_part_classes,
    stratified_split,
    write_shapes,
)
from sharedmlp.train.datamodules.base import PointCloudDataModule, Split


class SegmentationDataModule(PointCloudDataModule):
    """The base of the data modules whose points have labels.

    A batch has "points" (B, N, C), "label" (B, N) int64, with `ignore_index` for a point without
    one, "index" (B,) and, if the clouds have categories, "category" (B,). The copies that a test
    votes on are of the same points.

    If validation clouds are carved out of the training split, they are whole files of it, the same
    share of each category: blocks of one scene stay together.

    Args:
        color_jitter: The standard deviation of the noise added to each color in training.
        color_drop: The probability that training sets all colors of a cloud to 0.
        **options: Arguments of `PointCloudDataModule`.
    """

    ignore_index = IGNORED_LABEL

    def __init__(
        self, *, color_jitter: float = 0.0, color_drop: float = 0.0, **options: Any
    ) -> None:
        super().__init__(**options)
        if not (color_jitter >= 0 and 0 <= color_drop <= 1):
            raise ValueError(
                "expected color_jitter of at least 0 and color_drop from 0 to 1, got "
                f"{color_jitter} and {color_drop}"
            )
        self._augmentation = replace(
            self._augmentation, color_jitter=color_jitter, color_drop=color_drop
        )

    @property
    def categories(self) -> list[str]:
        """The names of the categories of the clouds in the order of their numbers; [] if none."""
        return []

    @property
    def parts_of_category(self) -> list[list[int]]:
        """The labels that the points of each category can have; [] without categories."""
        return []

    def split_training(self, pool: PointCloudStore) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return which clouds of the training split are trained on, and which validate."""
        if pool.categories is not None:
            return stratified_split(pool.categories, self.val_fraction, self.seed)
        files = [name.rpartition("#")[0] or name for name in pool.names]
        return grouped_split(files, self.val_fraction, self.seed)


class PartMeshDataModule(SegmentationDataModule):
    """Meshes with the part of each face beside them, sampled into a cache on first use.

    Args:
        root: The folder with `parts.json` and `<category>/{train,val,test}/<name>.off` and `.seg`.
        pool_size: The number of points sampled from a mesh.
        normals: Whether a point has the normal of its face.
        cache_dir: The folder of the cache; `<root>/.sharedmlp_cache` by default.
        **options: Arguments of `SegmentationDataModule` and `PointCloudDataModule`.
    """

    def __init__(
        self,
        root: str,
        pool_size: int = 2048,
        normals: bool = False,
        cache_dir: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.root, self.pool_size = Path(root), pool_size
        self._features = ("normals",) if normals else ()
        self.cache_dir = None if cache_dir is None else Path(cache_dir)

    @property
    def part_classes(self) -> PartClasses:
        """The categories and their parts."""
        return read_part_classes(self.root)

    @property
    def class_names(self) -> list[str]:
        """The names of the parts of all categories: "mug handle"."""
        return list(self.part_classes.class_names)

    @property
    def categories(self) -> list[str]:
        """The names of the categories in the order of their numbers."""
        return list(self.part_classes.categories)

    @property
    def parts_of_category(self) -> list[list[int]]:
        """The labels that the points of each category can have."""
        return self.part_classes.parts_of_category

    def has_split(self, split: Split) -> bool:
        """Return whether a mesh belongs to the split."""
        return bool(find_part_meshes(self.root, split))

    def prepare_data(self) -> None:
        """Sample the splits that are about to be used, by one process of each machine."""
        if self.num_points > self.pool_size:
            raise DataError(
                f"expected num_points from 1 to {self.pool_size}, the points that are sampled from "
                f"a mesh (pool_size), got {self.num_points}"
            )
        assert self.trainer is not None
        testing = self.trainer.testing or self.trainer.predicting
        self.check_splits("test" if testing else "train")
        self.open_split("test" if testing else "train")
        if not testing and self.has_split("val"):
            self.open_split("val")

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
