"""Training on `PointCloudDataset` with Lightning: tasks, data modules and callbacks."""

from sharedmlp.train.callbacks.epoch_log import EpochLog
from sharedmlp.train.callbacks.stop_on_signal import Interrupted, StopOnSignal
from sharedmlp.train.callbacks.weight_averaging import EMAWithWarmup
from sharedmlp.train.checkpoint_io import AtomicCheckpointIO
from sharedmlp.train.datamodules.base import PointCloudDataModule
from sharedmlp.train.datamodules.labelled_clouds import LabelledCloudsDataModule
from sharedmlp.train.datamodules.meshes import HDF5DataModule, MeshTreeDataModule, ShapesDataModule
from sharedmlp.train.datamodules.modelnet40_normals import ModelNet40NormalsDataModule
from sharedmlp.train.datamodules.part_meshes import PartMeshDataModule, PartShapesDataModule
from sharedmlp.train.datamodules.s3dis import S3DISDataModule
from sharedmlp.train.datamodules.segmentation import SegmentationDataModule
from sharedmlp.train.datamodules.shapenetpart import ShapeNetPartDataModule
from sharedmlp.train.tasks.base import BaseTask
from sharedmlp.train.tasks.classification import ClassificationTask
from sharedmlp.train.tasks.segmentation import SegmentationTask

__all__ = [
    "AtomicCheckpointIO",
    "BaseTask",
    "ClassificationTask",
    "EMAWithWarmup",
    "EpochLog",
    "HDF5DataModule",
    "Interrupted",
    "LabelledCloudsDataModule",
    "MeshTreeDataModule",
    "ModelNet40NormalsDataModule",
    "PartMeshDataModule",
    "PartShapesDataModule",
    "PointCloudDataModule",
    "S3DISDataModule",
    "SegmentationDataModule",
    "SegmentationTask",
    "ShapeNetPartDataModule",
    "ShapesDataModule",
    "StopOnSignal",
]
