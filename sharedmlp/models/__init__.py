"""Networks made of the layers, by name and task, and the weights of other people's.

A new network is one file with a class decorated by `register_model`, and one line here.
"""

from sharedmlp.models.checkpoint import load_trained
from sharedmlp.models.dgcnn import DGCNN, DGCNNOutput
from sharedmlp.models.dgcnn_segmentation import DGCNNSegmenter
from sharedmlp.models.pointnet import PointNet, PointNetOutput
from sharedmlp.models.pointnet2 import PointNet2, PointNet2Output
from sharedmlp.models.pointnet2_segmentation import PointNet2Segmenter
from sharedmlp.models.pointnet_backbone import orthogonality_penalty
from sharedmlp.models.pointnet_segmentation import (
    PointNetPartSegmenter,
    PointNetSegmenter,
    PointNetSegmenterOutput,
)
from sharedmlp.models.pretrained import load_pretrained
from sharedmlp.models.protocol import (
    GroupingModel,
    MaxPooledModel,
    ModelOutput,
    NeighborGraphModel,
    Neighborhoods,
    PointCloudModel,
)
from sharedmlp.models.registry import create_model, list_models, register_model
from sharedmlp.models.safetensors_file import load_safetensors, save_safetensors
from sharedmlp.models.third_party import ThirdPartyPointNet, export_weights, load_weights

__all__ = [
    "DGCNN",
    "DGCNNOutput",
    "DGCNNSegmenter",
    "GroupingModel",
    "MaxPooledModel",
    "ModelOutput",
    "NeighborGraphModel",
    "Neighborhoods",
    "PointCloudModel",
    "PointNet",
    "PointNet2",
    "PointNet2Output",
    "PointNet2Segmenter",
    "PointNetOutput",
    "PointNetPartSegmenter",
    "PointNetSegmenter",
    "PointNetSegmenterOutput",
    "ThirdPartyPointNet",
    "create_model",
    "export_weights",
    "list_models",
    "load_pretrained",
    "load_safetensors",
    "load_trained",
    "load_weights",
    "orthogonality_penalty",
    "register_model",
    "save_safetensors",
]
