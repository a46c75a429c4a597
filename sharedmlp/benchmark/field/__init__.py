"""Networks as the field writes them: what everything else is compared with."""

from __future__ import annotations

from sharedmlp.benchmark.field.dgcnn import FieldDGCNN
from sharedmlp.benchmark.field.pointnet import FieldPointNet
from sharedmlp.benchmark.field.pointnet2 import FieldPointNet2

__all__ = ["FieldDGCNN", "FieldPointNet", "FieldPointNet2"]
