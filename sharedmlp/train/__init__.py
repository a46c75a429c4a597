"""Training on PointCloudDatasets with Lightning: the task, the data modules, the epoch log."""

from sharedmlp.train.callbacks import EpochLog
from sharedmlp.train.checkpoint import load_trained
from sharedmlp.train.checkpoint_io import WholeCheckpointIO
from sharedmlp.train.data import PointCloudDataModule
from sharedmlp.train.interrupt import Interrupted, StopOnSignal
from sharedmlp.train.resampled import NormalResampledDataModule
from sharedmlp.train.sets import HDF5DataModule, MeshTreeDataModule, ShapesDataModule
from sharedmlp.train.task import ClassificationTask

__all__ = [
    "ClassificationTask",
    "EpochLog",
    "HDF5DataModule",
    "Interrupted",
    "MeshTreeDataModule",
    "NormalResampledDataModule",
    "PointCloudDataModule",
    "ShapesDataModule",
    "StopOnSignal",
    "WholeCheckpointIO",
    "load_trained",
]
