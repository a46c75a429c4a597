"""From meshes or HDF5 files to batches of points."""

from sharedmlp.data.color_transforms import RandomColorDrop, RandomColorJitter
from sharedmlp.data.dataset import PointCloudDataset, identity_collate
from sharedmlp.data.download import DownloadError
from sharedmlp.data.errors import DataError, MissingDataError
from sharedmlp.data.folder_scan import SPLITS
from sharedmlp.data.hdf5 import is_hdf5_set, read_hdf5, read_hdf5_class_names
from sharedmlp.data.io.base import MeshReadError, PointCloud
from sharedmlp.data.io.cloud import (
    FEATURE_CHANNELS,
    POINT_CHANNELS,
    find_cloud_files,
    load_cloud,
    read_cloud,
    turn_up_axis,
)
from sharedmlp.data.io.mesh import read_mesh
from sharedmlp.data.labelled_clouds import (
    LabelledCloudOptions,
    find_labelled_clouds,
    load_labelled_cloud,
    prepare_labelled_clouds,
    read_point_class_names,
)
from sharedmlp.data.layouts import Layout, check_classes, recognize_layout, summarize_left_out
from sharedmlp.data.mesh_tree import MeshTreeError, find_class_names, prepare_mesh_tree
from sharedmlp.data.modelnet import MODELNETS, TERMS, fetch_modelnet
from sharedmlp.data.modelnet40_normals import (
    is_modelnet40_normals,
    prepare_modelnet40_normals,
    read_modelnet40_normals_class_names,
)
from sharedmlp.data.part_classes import PartClasses
from sharedmlp.data.part_meshes import (
    find_part_meshes,
    generated_part_classes,
    prepare_part_meshes,
    read_part_classes,
)
from sharedmlp.data.preprocessing import file_up_axis, match_preprocessing
from sharedmlp.data.s3dis import S3DIS_CLASSES, find_areas, prepare_s3dis
from sharedmlp.data.sampling import are_normalized, normalize_points, sample_points
from sharedmlp.data.shapenetpart import SHAPENETPART, has_shapenetpart_split, prepare_shapenetpart
from sharedmlp.data.shapes import SHAPE_CLASSES, write_shapes
from sharedmlp.data.splits import grouped_split, stratified_split
from sharedmlp.data.store import IGNORED_LABEL, PointCloudStore
from sharedmlp.data.transforms import (
    Compose,
    RandomFlip,
    RandomJitter,
    RandomPointDropout,
    RandomRotation,
    RandomScale,
    RandomTranslation,
    rotate_about_up,
)

__all__ = [
    "FEATURE_CHANNELS",
    "IGNORED_LABEL",
    "MODELNETS",
    "POINT_CHANNELS",
    "S3DIS_CLASSES",
    "SHAPENETPART",
    "SHAPE_CLASSES",
    "SPLITS",
    "TERMS",
    "Compose",
    "DataError",
    "DownloadError",
    "LabelledCloudOptions",
    "Layout",
    "MeshReadError",
    "MeshTreeError",
    "MissingDataError",
    "PartClasses",
    "PointCloud",
    "PointCloudDataset",
    "PointCloudStore",
    "RandomColorDrop",
    "RandomColorJitter",
    "RandomFlip",
    "RandomJitter",
    "RandomPointDropout",
    "RandomRotation",
    "RandomScale",
    "RandomTranslation",
    "are_normalized",
    "check_classes",
    "fetch_modelnet",
    "file_up_axis",
    "find_areas",
    "find_class_names",
    "find_cloud_files",
    "find_labelled_clouds",
    "find_part_meshes",
    "generated_part_classes",
    "grouped_split",
    "has_shapenetpart_split",
    "identity_collate",
    "is_hdf5_set",
    "is_modelnet40_normals",
    "load_cloud",
    "load_labelled_cloud",
    "match_preprocessing",
    "normalize_points",
    "prepare_labelled_clouds",
    "prepare_mesh_tree",
    "prepare_modelnet40_normals",
    "prepare_part_meshes",
    "prepare_s3dis",
    "prepare_shapenetpart",
    "read_cloud",
    "read_hdf5",
    "read_hdf5_class_names",
    "read_mesh",
    "read_modelnet40_normals_class_names",
    "read_part_classes",
    "read_point_class_names",
    "recognize_layout",
    "rotate_about_up",
    "sample_points",
    "stratified_split",
    "summarize_left_out",
    "turn_up_axis",
    "write_shapes",
]
