"""Layers in pure torch: the shared MLP in three backends, its max pooling, edges, the T-Net."""

from sharedmlp.layers.backend import BACKENDS
from sharedmlp.layers.edge_conv import EdgeConv
from sharedmlp.layers.max_pool import SharedMLPMaxPool
from sharedmlp.layers.shared_mlp import SharedMLP
from sharedmlp.layers.tnet import TNet

__all__ = ["BACKENDS", "EdgeConv", "SharedMLP", "SharedMLPMaxPool", "TNet"]
