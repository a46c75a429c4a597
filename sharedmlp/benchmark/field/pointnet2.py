"""PointNet++ as the field writes it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# Of each level and scale: radius, neighbors, widths.
Scale = tuple[float, int, Sequence[int]]
SINGLE_SCALE: tuple[tuple[int, Sequence[Scale]], ...] = (
    (512, [(0.2, 32, (64, 64, 128))]),
    (128, [(0.4, 64, (128, 128, 256))]),
)
MULTI_SCALE: tuple[tuple[int, Sequence[Scale]], ...] = (
    (512, [(0.1, 16, (32, 32, 64)), (0.2, 32, (64, 64, 128)), (0.4, 128, (64, 96, 128))]),
    (128, [(0.2, 32, (64, 64, 128)), (0.4, 64, (128, 128, 256)), (0.8, 128, (128, 128, 256))]),
)


class FieldPointNet2(nn.Module):
    """PointNet++ without compiled kernels, all groups in memory: `nn.Conv2d` 1x1 and max.

    Source: Qi et al. 2017b, "PointNet++", section 3 and appendix B.1, in the spelling of the
    PyTorch ports: points (B, 3, N) -> logits (B, num_classes). Sampling starts at point 0.

    Args:
        num_classes: Number of classes.
        levels: Centers and scales of each level: `SINGLE_SCALE` or `MULTI_SCALE`.
    """

    def __init__(
        self, num_classes: int, levels: Sequence[tuple[int, Sequence[Scale]]] = SINGLE_SCALE
    ) -> None:
        super().__init__()
        self.levels = levels
        self.stacks = nn.ModuleList()
        width = 3
        for _, scales in levels:
            self.stacks.append(nn.ModuleList(_Convs([width, *widths]) for *_, widths in scales))
            width = 3 + sum(widths[-1] for *_, widths in scales)
        self.last = _Convs([width, 256, 512, 1024])
        self.fc1, self.norm1 = nn.Linear(1024, 512), nn.BatchNorm1d(512)
        self.fc2, self.norm2 = nn.Linear(512, 256), nn.BatchNorm1d(256)
        self.out = nn.Linear(256, num_classes)
        self.dropout = nn.Dropout(0.5)

    def forward(self, points: Tensor) -> Tensor:
        """Return the logits."""
        xyz, features = points.transpose(2, 1).contiguous(), None
        for level, (num_centers, scales) in enumerate(self.levels):
            stacks: Any = self.stacks[level]
            centers = index_points(xyz, sample_farthest(xyz, num_centers))
            pooled = []
            for (radius, num_neighbors, _), stack in zip(scales, stacks, strict=True):
                rows = query_ball(xyz, centers, radius, num_neighbors)
                grouped = index_points(xyz, rows) - centers[:, :, None]
                if features is not None:
                    grouped = torch.cat([grouped, index_points(features, rows)], -1)
                pooled.append(stack(grouped.permute(0, 3, 2, 1)).max(2).values)
            xyz, features = centers, torch.cat(pooled, 1).transpose(2, 1)
        assert features is not None
        x = torch.cat([xyz, features], -1)[:, None]
        x = self.last(x.permute(0, 3, 2, 1)).max(2).values.flatten(1)
        x = self.dropout(functional.relu(self.norm1(self.fc1(x))))
        x = self.dropout(functional.relu(self.norm2(self.fc2(x))))
        logits: Tensor = self.out(x)
        return logits


class _Convs(nn.Module):
    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        pairs = list(pairwise(channels))
        self.convs = nn.ModuleList(nn.Conv2d(width, out, 1) for width, out in pairs)
        self.norms = nn.ModuleList(nn.BatchNorm2d(out) for _, out in pairs)

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = functional.relu(norm(conv(x)))
        return x


def index_points(x: Tensor, rows: Tensor) -> Tensor:
    """Take rows `(B, ...)` of each cloud `(B, N, C)`, `(B, ..., C)`."""
    cloud = torch.arange(len(x), device=x.device).view(-1, *[1] * (rows.ndim - 1))
    return x[cloud.expand_as(rows), rows]


def sample_farthest(xyz: Tensor, num_samples: int) -> Tensor:
    """Return farthest points `(B, num_samples)` of `(B, N, 3)`, one after another."""
    num_clouds, num_points, _ = xyz.shape
    samples = torch.zeros(num_clouds, num_samples, dtype=torch.long, device=xyz.device)
    distance = torch.full((num_clouds, num_points), 1e10, dtype=xyz.dtype, device=xyz.device)
    farthest = samples[:, 0]
    cloud = torch.arange(num_clouds, device=xyz.device)
    for number in range(num_samples):
        samples[:, number] = farthest
        center = xyz[cloud, farthest][:, None]
        distance = torch.minimum(distance, ((xyz - center) ** 2).sum(-1))
        farthest = distance.max(-1).indices
    return samples


def query_ball(xyz: Tensor, centers: Tensor, radius: float, k: int) -> Tensor:
    """Return the first k rows in the ball around each center, `(B, Q, k)`, by a sort of all."""
    num_points = xyz.shape[1]
    distances = -2 * torch.matmul(centers, xyz.transpose(2, 1))
    distances += (centers**2).sum(-1)[..., None] + (xyz**2).sum(-1)[:, None]
    rows = torch.arange(num_points, device=xyz.device).expand(*distances.shape).clone()
    rows[distances > radius**2] = num_points
    rows = rows.sort(dim=-1).values[..., :k]
    return torch.where(rows == num_points, rows[..., :1], rows)
