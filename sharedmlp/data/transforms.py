"""Augmentations of whole batches.

Each is a callable `transform(points, generator)` on points (B, N, C) with x, y, z first and then
the features, which are normals in columns 3 to 5 if nothing else is said and C is 6 or more. What
follows them, such as a label of each point, goes with its point. It returns a new tensor and never
writes into the one it got. Random numbers are drawn on the device of the generator and then moved
to the points, so that a CPU generator gives the same augmentation on every device.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sharedmlp.data.io.cloud import vector_columns

Transform = Callable[[Tensor, torch.Generator], Tensor]


class Compose:
    """Apply transforms one after the other."""

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self.transforms = tuple(transforms)

    def __call__(self, points: Tensor, generator: torch.Generator) -> Tensor:
        """Return transformed points (B, N, C) of points (B, N, C)."""
        for transform in self.transforms:
            points = transform(points, generator)
        return points


def rotate_about_up(
    points: Tensor, angles: Tensor, up_axis: str, features: Sequence[str] = ("normals",)
) -> Tensor:
    """Rotate every cloud, and its normals, by an angle of its own about the up axis.

    Args:
        points: `(B, N, C)` with x, y, z first, and the features after them.
        angles: `(B,)`, in radians.
        up_axis: "x", "y" or "z".
        features: What the columns after the coordinates are (`read_cloud`); only normals turn.

    Returns:
        The same shape; a copy.
    """
    up = _axis_index(up_axis)
    first, second = (up + 1) % 3, (up + 2) % 3
    rotation = points.new_zeros(len(points), 3, 3)
    rotation[:, up, up] = 1
    rotation[:, first, first] = rotation[:, second, second] = angles.cos()
    rotation[:, second, first] = angles.sin()
    rotation[:, first, second] = -angles.sin()
    transposed = rotation.transpose(1, 2)
    rotated = points.clone()
    for start in vector_columns(points.shape[-1], features):
        rotated[..., start : start + 3] = points[..., start : start + 3] @ transposed
    return rotated


class RandomRotation:
    """Rotate every cloud, and its normals, by its own angle about the up axis.

    Args:
        up_axis: "x", "y" or "z"; ModelNet's meshes are z-up, the HDF5 sets often y-up.
        features: What the columns after the coordinates are (`read_cloud`); only normals turn.
    """

    def __init__(self, up_axis: str = "z", features: Sequence[str] = ("normals",)) -> None:
        self.up, self.features = _axis_index(up_axis), tuple(features)

    def __call__(self, points: Tensor, generator: torch.Generator) -> Tensor:
        """Return transformed points (B, N, C) of points (B, N, C)."""
        _check_points(points)
        angles = 2 * math.pi * _uniform((len(points),), generator, points)
        return rotate_about_up(points, angles, "xyz"[self.up], self.features)


class RandomJitter:
    """Move every point by clipped Gaussian noise; normals stay.

    Args:
        std: Standard deviation, in units of the unit sphere.
        clip: The largest move along an axis.
    """

    def __init__(self, std: float = 0.01, clip: float = 0.05) -> None:
        _check_at_least_zero(std=std, clip=clip)
        self.std, self.clip = std, clip

    def __call__(self, points: Tensor, generator: torch.Generator) -> Tensor:
        """Return transformed points (B, N, C) of points (B, N, C)."""
        _check_points(points)
        noise = torch.randn(
            *points.shape[:2], 3, generator=generator, device=generator.device, dtype=points.dtype
        ).to(points.device)
        moved = points[..., :3] + (self.std * noise).clamp(-self.clip, self.clip)
        return torch.cat([moved, points[..., 3:]], dim=-1)


class RandomScale:
    """Scale every cloud about the origin; normals are turned to stay perpendicular.

    Args:
        low: The smallest factor, above 0.
        high: The largest factor.
        anisotropic: Draw a factor for each axis instead of one for all.
        features: What the columns after the coordinates are (`read_cloud`); only normals turn.
    """

    def __init__(
        self,
        low: float = 2 / 3,
        high: float = 3 / 2,
        anisotropic: bool = True,
        features: Sequence[str] = ("normals",),
    ) -> None:
        if not 0 < low <= high < math.inf:
            raise ValueError(f"expected 0 < low <= high, got low={low} and high={high}")
        self.low, self.high, self.anisotropic = low, high, anisotropic
        self.features = tuple(features)

    def __call__(self, points: Tensor, generator: torch.Generator) -> Tensor:
        """Return transformed points (B, N, C) of points (B, N, C)."""
        _check_points(points)
        shape = (len(points), 1, 3 if self.anisotropic else 1)
        factors = self.low + (self.high - self.low) * _uniform(shape, generator, points)
        scaled = torch.cat([points[..., :3] * factors, points[..., 3:]], dim=-1)
        for start in vector_columns(points.shape[-1], self.features)[1:]:
            # A normal goes with the inverse transpose of the map.
            normals = torch.nn.functional.normalize(
                points[..., start : start + 3] / factors, dim=-1
            )
            scaled[..., start : start + 3] = normals
        return scaled


class RandomFlip:
    """Flip about half of the clouds, and their normals, along one axis.

    Args:
        axis: "x", "y" or "z": the one from left to right in aligned data, x in ModelNet10 and 40.
        features: What the columns after the coordinates are (`read_cloud`); only normals flip.
    """

    def __init__(self, axis: str = "x", features: Sequence[str] = ("normals",)) -> None:
        self.axis, self.features = _axis_index(axis), tuple(features)

    def __call__(self, points: Tensor, generator: torch.Generator) -> Tensor:
        """Return transformed points (B, N, C) of points (B, N, C)."""
        _check_points(points)
        signs = points.new_ones(len(points), 1, points.shape[-1])
        flipped = 1 - 2 * (_uniform((len(points),), generator, points) < 0.5).to(points.dtype)
        for start in vector_columns(points.shape[-1], self.features):
            signs[:, 0, start + self.axis] = flipped
        return points * signs


class RandomTranslation:
    """Move every cloud as a whole.

    Args:
        max: The largest move along each axis, in units of the unit sphere.
    """

    def __init__(self, max: float = 0.2) -> None:
        _check_at_least_zero(max=max)
        self.max = max

    def __call__(self, points: Tensor, generator: torch.Generator) -> Tensor:
        """Return transformed points (B, N, C) of points (B, N, C)."""
        _check_points(points)
        offsets = self.max * (2 * _uniform((len(points), 1, 3), generator, points) - 1)
        return torch.cat([points[..., :3] + offsets, points[..., 3:]], dim=-1)


class RandomPointDropout:
    """Drop a random share of every cloud's points.

    A dropped point is replaced by the first point of its cloud, so that the shape stays: for a
    max over points, a repeated point is no point.

    Args:
        max_ratio: The largest share; each cloud draws its own from [0, max_ratio).
    """

    def __init__(self, max_ratio: float = 0.875) -> None:
        if not 0 <= max_ratio <= 1:
            raise ValueError(f"expected max_ratio from 0 to 1, got {max_ratio}")
        self.max_ratio = max_ratio

    def __call__(self, points: Tensor, generator: torch.Generator) -> Tensor:
        """Return transformed points (B, N, C) of points (B, N, C)."""
        _check_points(points)
        batch_size, num_points = points.shape[:2]
        ratios = self.max_ratio * _uniform((batch_size, 1), generator, points)
        dropped = _uniform((batch_size, num_points), generator, points) < ratios
        return torch.where(dropped[..., None], points[:, :1], points)


def _axis_index(axis: str) -> int:
    if axis not in ("x", "y", "z"):
        raise ValueError(f"expected the axis 'x', 'y' or 'z', got {axis!r}")
    return "xyz".index(axis)


def _uniform(shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
    drawn = torch.rand(shape, generator=generator, device=generator.device, dtype=like.dtype)
    return drawn.to(like.device)


def _check_points(points: Tensor) -> None:
    if points.ndim != 3 or points.shape[-1] < 3 or not points.is_floating_point():
        raise ValueError(
            "expected floating-point points of shape (B, N, 3 or more), got "
            f"{points.dtype} of shape {tuple(points.shape)}"
        )


def _check_at_least_zero(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"expected {name} to be 0 or more, got {value}")
