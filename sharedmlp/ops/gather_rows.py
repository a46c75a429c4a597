"""Rows of a batch of clouds by their numbers."""

from __future__ import annotations

import torch
from torch import Tensor


def gather_rows(x: Tensor, rows: Tensor) -> Tensor:
    """Take rows of each cloud.

    Args:
        x: `(B, N, C)`.
        rows: `(B, Q)` or `(B, Q, K)` int64, rows within each cloud.

    Returns:
        `(B, Q, C)` or `(B, Q, K, C)`.
    """
    num_clouds, num_points, width = x.shape
    first = torch.arange(num_clouds, device=x.device) * num_points
    flat = (rows + first.view(-1, *[1] * (rows.ndim - 1))).flatten()
    return x.reshape(-1, width).index_select(0, flat).view(*rows.shape, width)
