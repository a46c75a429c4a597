"""Data modules of the layouts that clouds come in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sharedmlp.data import (
    SHAPE_CLASSES,
    PointCloudStore,
    find_class_names,
    prepare_mesh_tree,
    read_hdf5,
    read_hdf5_class_names,
    write_shapes,
)
from sharedmlp.train.datamodules.base import PointCloudDataModule, Split


class MeshTreeDataModule(PointCloudDataModule):
    """Meshes in the ModelNet layout: `<root>/<class>/{train,test}/<name>.off` or other formats.

    The first run samples a pool of points from each mesh into a cache; every access draws
    `num_points` of them.

    Args:
        root: The folder of the class folders.
        pool_size: The number of points sampled from a mesh.
        normals: Whether to add the normal of the face that a point lies on: six channels.
        cache_dir: The folder of the cache; `<root>/.sharedmlp_cache` by default.
        **options: Arguments of `PointCloudDataModule`.
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
        self.root = Path(root)
        self.pool_size = pool_size
        self.normals = normals
        self.cache_dir = None if cache_dir is None else Path(cache_dir)

    @property
    def class_names(self) -> list[str]:
        """The names of the class folders, sorted."""
        if not self.root.is_dir():
            raise FileNotFoundError(
                f"{self.root} is no folder: expected meshes in "
                "<root>/<class>/{train,test}/<name>.off (or another mesh format), then "
                "`sharedmlp prepare ROOT` checks and samples them; say with --data.root where "
                "they are"
            )
        return list(find_class_names(self.root))

    @property
    def in_channels(self) -> int:
        """6 with normals, else 3."""
        return 6 if self.normals else 3

    def prepare_data(self) -> None:
        """Sample the split that is about to be used, by one process of each machine."""
        assert self.trainer is not None
        testing = self.trainer.testing or self.trainer.predicting
        self.open_split("test" if testing else "train")

    def open_split(self, split: Split) -> PointCloudStore:
        """Open the cache of a split, sampling the meshes first if it is missing or stale."""
        return prepare_mesh_tree(
            self.root,
            split,
            pool_size=self.pool_size,
            normals=self.normals,
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

    def prepare_data(self) -> None:
        """Write missing meshes, then sample the split."""
        write_shapes(self.root)
        super().prepare_data()


class HDF5DataModule(PointCloudDataModule):
    """Sampled clouds in the layout of `modelnet40_ply_hdf5_2048`.

    That set has y up: say so with `up_axis`.

    Args:
        root: The folder with `train_files.txt`, `test_files.txt`, `shape_names.txt` and the HDF5
            files.
        **options: Arguments of `PointCloudDataModule`.
    """

    def __init__(self, root: str, **options: Any) -> None:
        super().__init__(**options)
        self.root = Path(root)

    @property
    def class_names(self) -> list[str]:
        """The lines of `shape_names.txt`."""
        if not self.root.is_dir():
            raise FileNotFoundError(
                f"{self.root} is no folder: unpack a sampled set in the layout of "
                "modelnet40_ply_hdf5_2048 there (shape_names.txt, train_files.txt, test_files.txt "
                "and the HDF5 files that they name), or say with --data.root where it is"
            )
        return list(read_hdf5_class_names(self.root))

    def open_split(self, split: Split) -> PointCloudStore:
        """Read the HDF5 files of a split into memory."""
        if split == "test" and not (self.root / "test_files.txt").is_file():
            raise FileNotFoundError(
                f"{self.root} has no test split (test_files.txt is missing): measure with "
                "`sharedmlp validate`, on clouds carved out of the training split, or put the test "
                "files and their list there"
            )
        return read_hdf5(self.root, split)
