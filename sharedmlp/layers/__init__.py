"""Layers in pure torch: the shared MLP in three backends, max pooling, edges, sets, the T-Net."""

from sharedmlp.layers.backend import BACKENDS
from sharedmlp.layers.edge_conv import EdgeConv
from sharedmlp.layers.feature_propagation import FeaturePropagation
from sharedmlp.layers.local_global import LocalGlobalMLP
from sharedmlp.layers.max_mean_pool import SharedMLPMaxMeanPool
from sharedmlp.layers.max_pool import SharedMLPMaxPool
from sharedmlp.layers.set_abstraction import SetAbstraction
from sharedmlp.layers.shared_mlp import SharedMLP
from sharedmlp.layers.tnet import TNet

__all__ = [
    "BACKENDS",
    "EdgeConv",
    "FeaturePropagation",
    "LocalGlobalMLP",
    "SetAbstraction",
    "SharedMLP",
    "SharedMLPMaxMeanPool",
    "SharedMLPMaxPool",
    "TNet",
]
