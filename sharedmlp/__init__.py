"""The shared MLP of PointNet with interchangeable Linear, Conv1d and Conv2d backends.

Importing this package imports torch and nothing heavier: readers, datasets and trainers are in
`sharedmlp.data` and `sharedmlp.train`.
"""

from typing import TYPE_CHECKING, Any

from sharedmlp.layers import (
    EdgeConv,
    FeaturePropagation,
    SetAbstraction,
    SharedMLP,
    SharedMLPMaxPool,
    TNet,
)
from sharedmlp.models import create_model, list_models, orthogonality_penalty

__version__ = "0.1.0"

__all__ = [
    "EdgeConv",
    "FeaturePropagation",
    "SetAbstraction",
    "SharedMLP",
    "SharedMLPMaxPool",
    "TNet",
    "create_model",
    "fuse",
    "fusion_report",
    "list_models",
    "orthogonality_penalty",
]

if TYPE_CHECKING:
    from sharedmlp.fusion import fuse, fusion_report


def __getattr__(name: str) -> Any:
    """Import what only some users need when they ask for it."""
    if name in ("fuse", "fusion_report"):
        from sharedmlp import fusion

        return getattr(fusion, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List what is imported when it is asked for, too."""
    return sorted({*globals(), *__all__})
