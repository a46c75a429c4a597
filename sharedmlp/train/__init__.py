"""Training on PointCloudDatasets with Lightning: the task, the data modules, the epoch log."""

from sharedmlp.inference.checkpoint import load_trained
from sharedmlp.train.callbacks.epoch_log import EpochLog
from sharedmlp.train.callbacks.stop_on_signal import Interrupted, StopOnSignal
from sharedmlp.train.checkpoint_io import WholeCheckpointIO
from sharedmlp.train.datamodules.base import PointCloudDataModule
from sharedmlp.train.datamodules.meshes import HDF5DataModule, MeshTreeDataModule, ShapesDataModule
from sharedmlp.train.datamodules.modelnet40_normals import NormalResampledDataModule
from sharedmlp.train.tasks.classification import ClassificationTask

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
