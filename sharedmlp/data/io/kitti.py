"""KITTI's `.bin`: nothing but float32, four a point, or five in nuScenes' `.pcd.bin`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sharedmlp.data.io.base import FormatError, PointCloud
from sharedmlp.data.io.fields import cloud_from_fields

_KITTI = ("x", "y", "z", "intensity")
_NUSCENES = (*_KITTI, "ring")
# No scanner sees farther, in meters; other files' bytes taken for float32 are soon beyond it.
_FARTHEST = 1e5
_MOST_INTENSITY = 65535


def read_kitti(path: Path, content: bytes) -> PointCloud:
    """Read x, y, z and intensity of each point.

    The file says nothing about itself: what cannot be such points is refused.

    Raises:
        FormatError: If the size is no multiple of a point's, or the values are not those of a scan.
    """
    names = _NUSCENES if path.name.lower().endswith(".pcd.bin") else _KITTI
    size = 4 * len(names)
    expected = f"expected float32 {', '.join(names)} a point, as KITTI and nuScenes have them"
    if not content or len(content) % size:
        raise FormatError(f"has {len(content)} bytes, no multiple of {size}: {expected}")
    values = np.frombuffer(content, "<f4").reshape(-1, len(names))
    # Also false for NaN.
    sound = (np.abs(values[:, :3]) < _FARTHEST).all(axis=1)
    sound &= (values[:, 3] >= 0) & (values[:, 3] <= _MOST_INTENSITY)
    if not sound.all():
        row = int(np.argmin(sound))
        raise FormatError(
            f"{np.count_nonzero(~sound):,} of its {len(values):,} points cannot be a scan's, the "
            f"first is point {row} (from 0): {values[row].tolist()}; {expected}"
        )
    return cloud_from_fields(dict(zip(names, values.T, strict=True)))
