"""The T-Net: a small PointNet that predicts a transform of its input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sharedmlp.layers.max_pool import SharedMLPMaxPool
from sharedmlp.layers.shared_mlp import SharedMLP


class TNet(nn.Module):
    """A network that predicts a `dim x dim` matrix for each cloud, starting at the identity.

    Source: Qi et al. 2017, "PointNet", section 4.2 and appendix C: a shared MLP 64-128-1024, the
    max over the points, fully connected layers 512 and 256, all with batch norm and ReLU, then
    the matrix. Deviation: linear maps have no bias before a batch norm, which would
    subtract it again.

    Shape:
        `(B, N, in_channels) -> (B, dim, dim)`; apply it as `points @ transform`.

    Args:
        dim: Size of the transform.
        in_channels: Width of the input; None means `dim`.
        backend: The backend of the shared MLP.
        norm: The norm of all layers.
        channels: Widths of the shared MLP.
        hidden_channels: Widths of the fully connected layers.
        bias: As of `SharedMLP`, for all layers.
        add_identity: Add the identity to the predicted matrix and start its bias at zero. Otherwise
            the bias starts at the identity: the same, but for a weight decay.
        **options: Further arguments of the `SharedMLPMaxPool`, such as `fused`.

    Raises:
        ValueError: If an argument or an input has the wrong shape, or a batch of one cloud comes in
            training mode (batch norm over one cloud is undefined).
    """

    def __init__(
        self,
        dim: int,
        *,
        in_channels: int | None = None,
        backend: str = "linear",
        norm: str = "batch",
        channels: Sequence[int] = (64, 128, 1024),
        hidden_channels: Sequence[int] = (512, 256),
        bias: bool | None = None,
        add_identity: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.add_identity = add_identity
        self.pool = SharedMLPMaxPool(
            [in_channels or dim, *channels], backend=backend, norm=norm, bias=bias, **options
        )
        # Fully connected over the global feature: its positions are the clouds of the batch.
        self.head = SharedMLP(
            [channels[-1], *hidden_channels, dim * dim], norm=norm, bias=bias, plain_last=True
        )
        last = self.head.layers[-1].get_submodule("linear")
        with torch.no_grad():
            last.get_parameter("weight").zero_()
            start = torch.zeros(dim, dim) if add_identity else torch.eye(dim)
            last.get_parameter("bias").copy_(start.flatten())

    def forward(self, points: Tensor) -> Tensor:
        """Predict the transforms of a batch of clouds."""
        if points.ndim != 3:
            raise ValueError(
                f"TNet expected (B, N, {self.pool.in_channels}), got {tuple(points.shape)}: add a "
                "batch dimension with points.unsqueeze(0)"
            )
        matrix: Tensor = self.head(self.pool(points)).unflatten(-1, (self.dim, self.dim))
        if self.add_identity:
            matrix = matrix + torch.eye(self.dim, dtype=matrix.dtype, device=matrix.device)
        return matrix
