"""PointNet as the field writes it: the network that everything else is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


class FieldPointNet(nn.Module):
    """PointNet of `nn.Conv1d` with kernel 1 and biases, batch norms, ReLU and `torch.max`.

    Source: Qi et al. 2017, "PointNet", figure 2 and appendix C, in the spelling of the PyTorch
    ports: points (B, 3, N) -> logits (B, num_classes), feature transform (B, 64, 64).

    Args:
        num_classes: Number of classes.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.input_tnet = _FieldTNet(3)
        self.local = _Convs([3, 64, 64])
        self.feature_tnet = _FieldTNet(64)
        self.convs = _Convs([64, 64, 128, 1024])
        self.head = _Head()
        self.dropout = nn.Dropout(0.3)
        self.out = nn.Linear(256, num_classes)

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits and the feature transform."""
        x = _transform(points, self.input_tnet(points))
        x = self.local(x)
        transform = self.feature_tnet(x)
        x = self.convs(_transform(x, transform))
        x = torch.max(x, 2)[0]
        return self.out(self.dropout(self.head(x))), transform


def _transform(x: Tensor, matrix: Tensor) -> Tensor:
    return torch.bmm(x.transpose(2, 1), matrix).transpose(2, 1)


class _Convs(nn.Module):
    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        pairs = list(pairwise(channels))
        self.convs = nn.ModuleList(nn.Conv1d(width, out, 1) for width, out in pairs)
        self.norms = nn.ModuleList(nn.BatchNorm1d(out) for _, out in pairs)

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = functional.relu(norm(conv(x)))
        return x


class _Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.norm1 = nn.Linear(1024, 512), nn.BatchNorm1d(512)
        self.fc2, self.norm2 = nn.Linear(512, 256), nn.BatchNorm1d(256)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm1(self.fc1(x)))
        return functional.relu(self.norm2(self.fc2(x)))


class _FieldTNet(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.convs = _Convs([channels, 64, 128, 1024])
        self.head = _Head()
        self.out = nn.Linear(256, channels * channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.max(self.convs(x), 2)[0]
        x = self.out(self.head(x)).view(-1, self.channels, self.channels)
        return x + torch.eye(self.channels, dtype=x.dtype, device=x.device)
