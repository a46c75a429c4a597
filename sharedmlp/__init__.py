"""The shared MLP of PointNet with interchangeable Linear, Conv1d and Conv2d backends.

Importing this package imports torch and nothing heavier: readers, datasets and trainers are in
:mod:`sharedmlp.data` and :mod:`sharedmlp.train`.
"""

from sharedmlp.layers import SharedMLP, SharedMLPMaxPool, TNet
from sharedmlp.models import create_model, list_models, orthogonality_penalty

__all__ = [
    "SharedMLP",
    "SharedMLPMaxPool",
    "TNet",
    "create_model",
    "list_models",
    "orthogonality_penalty",
]
