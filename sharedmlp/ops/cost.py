"""From which size on the fused paths are faster than the plain one."""

from __future__ import annotations

from collections.abc import Sequence

from sharedmlp.ops.layer import PointwiseTensors


def fold_pays(layers: Sequence[PointwiseTensors], rows: int, num_clouds: int | None) -> bool:
    """Whether evaluating layers folded is faster on this many rows."""
    return True


def fuse_pays(layers: Sequence[PointwiseTensors], rows: int, num_clouds: int | None) -> bool:
    """Whether a training step with layers fused is faster on this many rows."""
    return True
