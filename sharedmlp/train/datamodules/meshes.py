"""Data modules of the layouts that clouds come in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sharedmlp.data import (
    SHAPE_CLASSES,
    DataError,
    MissingDataError,
    PointCloudStore,
    check_classes,
    find_class_names,
    prepare_mesh_tree,
    read_hdf5,
    read_hdf5_class_names,
    recognize_layout,
    write_shapes,
)
from sharedmlp.train.datamodules.base import PointCloudDataModule, Split


class MeshTreeDataModule(PointCloudDataModule):
    """Files of meshes or point clouds, in folders or named by a list.

    `<class>/{train,val,test}`, `{train,val,test}/<class>`, `<class>` alone or a CSV file with the
    columns path, label and split (docs/data.md); every format that `sharedmlp.data.read_cloud`
    reads. If there are no splits, `seed` draws them, and they are written beside the cache.

    The first run samples a pool of points from each file into a cache; every access draws
    `num_points` of them.

    Args:
        root: The folder of the classes or of the splits, or the list.
        pool_size: The number of points sampled from a mesh, or drawn from a cloud.
        features: What a point has besides its coordinates: "normals" (of a mesh those of the
            faces), "colors", "intensity", or a list of these.
        normals: The same as `features` "normals".
        cache_dir: The folder of the cache; `<root>/.sharedmlp_cache` by default.
        **options: Arguments of `PointCloudDataModule`.
    """

    def __init__(
        self,
        root: str,
        pool_size: int = 2048,
        features: str | list[str] | None = None,
        normals: bool = False,
        cache_dir: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.root = Path(root)
        self.pool_size = pool_size
        self._features = _list_features(features, *(["normals"] if normals else []))
        self.cache_dir = None if cache_dir is None else Path(cache_dir)

    @property
    def class_names(self) -> list[str]:
        """The names of the classes that have files, sorted."""
        if not self.root.exists():
            raise MissingDataError(
                f"{self.root} is no folder: expected meshes or point clouds in "
                "<root>/<class>/{train,test}/<name>.off (docs/data.md has further layouts), then "
                "`sharedmlp prepare ROOT` checks and samples them; say with --data.root where "
                "they are"
            )
        class_names = find_class_names(self.root)
        check_classes(self.root, class_names)
        return list(class_names)

    def has_split(self, split: Split) -> bool:
        """Return whether a file belongs to the split."""
        return bool(recognize_layout(self.root, seed=self.seed).of_split(split))

    def prepare_data(self) -> None:
        """Sample the splits that are about to be used, by one process of each machine."""
        self._check_num_points()
        assert self.trainer is not None
        testing = self.trainer.testing or self.trainer.predicting
        self.check_splits("test" if testing else "train")
        self.open_split("test" if testing else "train")
        if not testing and self.has_split("val"):
            self.open_split("val")

    def _check_num_points(self) -> None:
        """Check that files keep enough points, before any of them is sampled."""
        if self.num_points > self.pool_size:
            raise DataError(
                f"expected num_points from 1 to {self.pool_size}, the points that are kept of a "
                f"file (pool_size), got {self.num_points}"
            )

    def open_split(self, split: Split) -> PointCloudStore:
        """Open the cache of a split, sampling the files first if it is missing or stale."""
        return prepare_mesh_tree(
            self.root,
            split,
            pool_size=self.pool_size,
            features=self.features,
            up_axis=self.up_axis,
            seed=self.seed,
            cache_dir=self.cache_dir,
        )


class ShapesDataModule(MeshTreeDataModule):
    """Generated meshes, written as OFF files on first use; needs no download.

    Args:
        root: The folder to write to.
        **options: Arguments of `MeshTreeDataModule` and `PointCloudDataModule`.
    """

    def __init__(self, root: str = "data/shapes", **options: Any) -> None:
        super().__init__(root, **options)

    @property
    def class_names(self) -> list[str]:
        """The names of the generated classes, sorted as folders are."""
        return sorted(SHAPE_CLASSES)

    def has_split(self, split: Split) -> bool:
        """Return whether it is one of those that are written."""
        return split != "val"

    def prepare_data(self) -> None:
        """Write missing meshes, then sample the split."""
        self._check_num_points()
        write_shapes(self.root)
        super().prepare_data()


class HDF5DataModule(PointCloudDataModule):
    """Sampled clouds in the layout of `modelnet40_ply_hdf5_2048`.

    That set has y up: say so with `up_axis`.

    Args:
        root: The folder with `train_files.txt`, `test_files.txt`, `shape_names.txt` and the HDF5
            files.
        features: What a point has besides its coordinates: "normals" or "colors".
        **options: Arguments of `PointCloudDataModule`.
    """

    def __init__(self, root: str, features: str | list[str] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.root = Path(root)
        self._features = _list_features(features)

    @property
    def class_names(self) -> list[str]:
        """The lines of `shape_names.txt`."""
        if not self.root.is_dir():
            raise MissingDataError(
                f"{self.root} is no folder: unpack a sampled set in the layout of "
                "modelnet40_ply_hdf5_2048 there (shape_names.txt, train_files.txt, test_files.txt "
                "and the HDF5 files that they name), or say with --data.root where it is"
            )
        class_names = read_hdf5_class_names(self.root)
        check_classes(self.root, class_names)
        return list(class_names)

    def has_split(self, split: Split) -> bool:
        """Return whether there is a list of the split's files."""
        return (self.root / f"{split}_files.txt").is_file()

    def check_splits(self, *splits: Split) -> None:
        """Check that the lists of the splits are there.

        Raises:
            MissingDataError: If one is missing; it says what to do.
        """
        if "test" in splits and not self.has_split("test"):
            raise MissingDataError(
                f"{self.root} has no test split (test_files.txt is missing): measure with "
                "`sharedmlp validate`, on clouds carved out of the training split, or put the test "
                "files and their list there"
            )

    def open_split(self, split: Split) -> PointCloudStore:
        """Read the HDF5 files of a split into memory."""
        return read_hdf5(self.root, split, features=self.features)


def _list_features(features: str | list[str] | None, *more: str) -> tuple[str, ...]:
    """Return the features by name, each once."""
    names = [features] if isinstance(features, str) else features or []
    return tuple(dict.fromkeys([*more, *names]))
