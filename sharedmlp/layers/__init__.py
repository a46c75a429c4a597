"""Layers in pure torch: the shared MLP in three backends, its max pooling, the T-Net."""

from sharedmlp.layers.backend import BACKENDS
from sharedmlp.layers.feature_propagation import FeaturePropagation
from sharedmlp.layers.max_pool import SharedMLPMaxPool
from sharedmlp.layers.set_abstraction import SetAbstraction
from sharedmlp.layers.shared_mlp import SharedMLP
from sharedmlp.layers.tnet import TNet

__all__ = [
    "BACKENDS",
    "FeaturePropagation",
    "SetAbstraction",
    "SharedMLP",
    "SharedMLPMaxPool",
    "TNet",
]
