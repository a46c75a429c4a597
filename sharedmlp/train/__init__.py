"""Training on PointCloudDatasets with Lightning: the task, the data modules, the epoch log."""

from sharedmlp.train.callbacks import EpochLog
from sharedmlp.train.checkpoint import load_trained
from sharedmlp.train.data import (
    HDF5DataModule,
    MeshTreeDataModule,
    PointCloudDataModule,
    ShapesDataModule,
)
from sharedmlp.train.resampled import NormalResampledDataModule
from sharedmlp.train.task import ClassificationTask

__all__ = [
    "ClassificationTask",
    "EpochLog",
    "HDF5DataModule",
    "MeshTreeDataModule",
    "NormalResampledDataModule",
    "PointCloudDataModule",
    "ShapesDataModule",
    "load_trained",
]
