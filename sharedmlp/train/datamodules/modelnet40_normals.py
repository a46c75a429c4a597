"""The data module of `modelnet40_normal_resampled`."""

from __future__ import annotations

from typing import Any, Literal

from sharedmlp.data import (
    DataError,
    PointCloudStore,
    prepare_modelnet40_normals,
    read_modelnet40_normals_class_names,
)
from sharedmlp.train.datamodules.base import Split
from sharedmlp.train.datamodules.meshes import MeshTreeDataModule


class ModelNet40NormalsDataModule(MeshTreeDataModule):
    """Clouds with normals in the text layout of `modelnet40_normal_resampled`.

    The first run parses the text into a cache, as meshes are sampled into one. That set has y up:
    say so with `up_axis`.

    Args:
        root: The folder with `modelnet40_train.txt`, `modelnet40_test.txt`,
            `modelnet40_shape_names.txt` and the class folders.
        subset: Which of its two lists to use.
        pool_size: The number of points kept of a cloud, of the 10,000 that it has.
        **options: Arguments of `MeshTreeDataModule` and `PointCloudDataModule`.
    """

    def __init__(
        self,
        root: str,
        subset: Literal["modelnet40", "modelnet10"] = "modelnet40",
        pool_size: int = 10_000,
        **options: Any,
    ) -> None:
        super().__init__(root, pool_size, **options)
        self.subset = subset

    @property
    def class_names(self) -> list[str]:
        """The lines of the file of names."""
        return list(read_modelnet40_normals_class_names(self.root, self.subset))

    def has_split(self, split: Split) -> bool:
        """Return whether there is a list of the split's clouds."""
        return (self.root / f"{self.subset}_{split}.txt").is_file()

    def open_split(self, split: Split) -> PointCloudStore:
        """Open the cache of a split, parsing the text first if it is missing or stale."""
        if set(self.features) - {"normals"}:
            raise DataError(f"these clouds have normals alone, got the features {self.features}")
        assert split != "val"  # there is none
        return prepare_modelnet40_normals(
            self.root,
            split,
            subset=self.subset,
            pool_size=self.pool_size,
            normals=bool(self.features),
            seed=self.seed,
            cache_dir=self.cache_dir,
        )
