"""From meshes or HDF5 files to batches of points."""

from sharedmlp.data.dataset import PointCloudDataset, identity_collate
from sharedmlp.data.hdf5 import read_hdf5, read_hdf5_class_names
from sharedmlp.data.mesh import MeshReadError, read_mesh
from sharedmlp.data.mesh_tree import MeshTreeError, find_class_names, prepare_mesh_tree
from sharedmlp.data.pool import PointPool
from sharedmlp.data.sampling import are_normalized, normalize_points, sample_points
from sharedmlp.data.shapes import SHAPE_CLASSES, write_shapes
from sharedmlp.data.splits import stratified_split
from sharedmlp.data.transforms import (
    Compose,
    RandomJitter,
    RandomPointDropout,
    RandomRotation,
    RandomScale,
    RandomTranslation,
)

__all__ = [
    "SHAPE_CLASSES",
    "Compose",
    "MeshReadError",
    "MeshTreeError",
    "PointCloudDataset",
    "PointPool",
    "RandomJitter",
    "RandomPointDropout",
    "RandomRotation",
    "RandomScale",
    "RandomTranslation",
    "are_normalized",
    "find_class_names",
    "identity_collate",
    "normalize_points",
    "prepare_mesh_tree",
    "read_hdf5",
    "read_hdf5_class_names",
    "read_mesh",
    "sample_points",
    "stratified_split",
    "write_shapes",
]
