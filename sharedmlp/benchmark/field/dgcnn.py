"""DGCNN as the field writes it."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

_WIDTHS = (64, 64, 128, 256)


class FieldDGCNN(nn.Module):
    """DGCNN with all edges in memory: gather, concatenate, `nn.Conv2d` 1x1, batch norm, max.

    Source: Wang et al. 2019, "Dynamic Graph CNN for Learning on Point Clouds", section 4.1, in the
    spelling of the PyTorch ports: points (B, 3, N) -> logits (B, num_classes).

    Args:
        num_classes: Number of classes.
        num_neighbors: Neighbors of a point, itself included.
    """

    def __init__(self, num_classes: int, num_neighbors: int = 20) -> None:
        super().__init__()
        self.num_neighbors = num_neighbors
        self.convs = nn.ModuleList(
            nn.Conv2d(2 * width, out, 1, bias=False) for width, out in pairwise((3, *_WIDTHS))
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(out) for out in _WIDTHS)
        self.embedding = nn.Conv1d(sum(_WIDTHS), 1024, 1, bias=False)
        self.embedding_norm = nn.BatchNorm1d(1024)
        self.fc1, self.norm1 = nn.Linear(2048, 512, bias=False), nn.BatchNorm1d(512)
        self.fc2, self.norm2 = nn.Linear(512, 256), nn.BatchNorm1d(256)
        self.out = nn.Linear(256, num_classes)
        self.dropout = nn.Dropout(0.5)

    def forward(self, points: Tensor) -> Tensor:
        """Return the logits."""
        x, features = points, []
        for conv, norm in zip(self.convs, self.norms, strict=True):
            edges = edge_features(x, nearest(x, self.num_neighbors))
            x = functional.leaky_relu(norm(conv(edges)), 0.2).max(-1).values
            features.append(x)
        x = self.embedding_norm(self.embedding(torch.cat(features, 1)))
        x = functional.leaky_relu(x, 0.2)
        pooled = functional.adaptive_max_pool1d(x, 1), functional.adaptive_avg_pool1d(x, 1)
        x = torch.cat(pooled, 1).flatten(1)
        x = self.dropout(functional.leaky_relu(self.norm1(self.fc1(x)), 0.2))
        x = self.dropout(functional.leaky_relu(self.norm2(self.fc2(x)), 0.2))
        logits: Tensor = self.out(x)
        return logits


def nearest(x: Tensor, k: int) -> Tensor:
    """Return the k nearest points `(B, N, k)` of each of `(B, C, N)`, by products in float32."""
    products = 2 * torch.matmul(x.transpose(2, 1), x)
    squares = (x**2).sum(1, keepdim=True)
    return (products - squares - squares.transpose(2, 1)).topk(k, dim=-1).indices


def edge_features(x: Tensor, neighbors: Tensor) -> Tensor:
    """Return `[x_j - x_i, x_i]` of all edges, `(B, C, N) -> (B, 2C, N, k)`."""
    num_clouds, channels, num_points = x.shape
    first = torch.arange(num_clouds, device=x.device).view(-1, 1, 1) * num_points
    rows = x.transpose(2, 1).contiguous()
    gathered = rows.view(-1, channels)[(neighbors + first).view(-1)]
    gathered = gathered.view(num_clouds, num_points, -1, channels)
    ends = rows.view(num_clouds, num_points, 1, channels).repeat(1, 1, gathered.shape[2], 1)
    return torch.cat((gathered - ends, ends), 3).permute(0, 3, 1, 2).contiguous()
