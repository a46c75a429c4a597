"""PointNet for classification."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from sharedmlp.layers import SharedMLP, SharedMLPMaxPool, TNet


class PointNetOutput(NamedTuple):
    """Everything that :meth:`PointNet.forward_detailed` computes for B clouds.

    Attributes:
        logits: ``(B, num_classes)``.
        global_feature: ``(B, D)``, the maxima over the points; D is 1024 in the paper.
        critical_indices: ``(B, D)`` int64, the point that won each channel. The distinct ones are
            the critical points of the cloud (Qi et al. 2017, section 4.3, theorem 2).
        input_transform: ``(B, 3, 3)``, or None without T-Nets.
        feature_transform: ``(B, K, K)``, or None without T-Nets; K is 64 in the paper.
    """

    logits: Tensor
    global_feature: Tensor
    critical_indices: Tensor
    input_transform: Tensor | None
    feature_transform: Tensor | None


class PointNet(nn.Module):
    """PointNet for classification; ``points (B, N, in_channels) -> logits (B, num_classes)``.

    Source: Qi et al. 2017, "PointNet: Deep Learning on Point Sets for 3D Classification and
    Segmentation", figure 2, section 4.2 and appendix C: shared MLP 64-64, feature T-Net, shared MLP
    64-128-1024, max over the points, fully connected 512-256 with dropout 0.3 (keep ratio 0.7) on
    the 256, logits. Deviations: no bias in front of a batch norm, which would subtract it
    again; batch norm's momentum is torch's constant 0.1 where the paper lowers it from 0.5 to
    0.01 during the training; with more than three channels the input T-Net sees and turns the
    coordinates alone, and leaves the further features as they are.

    Any number of points is fine, and may differ between calls.

    Args:
        num_classes: Number of classes.
        in_channels: 3 for coordinates, more for further features (normals, colours) behind them.
        backend: ``"linear"``, ``"conv1d"`` or ``"conv2d"``, for every shared MLP.
        transforms: Whether to have the input and the feature T-Net.
        dropout: Dropout probability on the last hidden layer.
        norm: ``"sync_batch"`` shares the statistics among the processes of a distributed training.
        fused: Of every :class:`~sharedmlp.layers.SharedMLP` over the points.
        search_precision: Of every :class:`~sharedmlp.layers.SharedMLPMaxPool`.
        local_channels: Widths of the shared MLP in front of the feature T-Net.
        global_channels: Widths of the shared MLP in front of the max.
        head_channels: Widths of the hidden fully connected layers.

    Raises:
        ValueError: If an argument, or the shape of an input, is not one of the above, or if a batch
            of one cloud comes in training mode.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
        backend: str = "linear",
        transforms: bool = True,
        dropout: float = 0.3,
        norm: Literal["batch", "sync_batch"] = "batch",
        fused: bool | Literal["auto"] = "auto",
        search_precision: Literal["float32", "bfloat16"] = "float32",
        local_channels: Sequence[int] = (64, 64),
        global_channels: Sequence[int] = (64, 128, 1024),
        head_channels: Sequence[int] = (512, 256),
    ) -> None:
        super().__init__()
        if num_classes < 1 or in_channels < 3:
            raise ValueError(
                "expected num_classes >= 1 and in_channels >= 3 (x, y, z and further features), "
                f"got num_classes={num_classes} and in_channels={in_channels}"
            )
        self.in_channels = in_channels
        options: dict[str, Any] = {
            "backend": backend,
            "norm": norm,
            "fused": fused,
            "search_precision": search_precision,
        }
        self.input_tnet = TNet(3, **options) if transforms else None
        self.local_mlp = SharedMLP(
            [in_channels, *local_channels], backend=backend, norm=norm, fused=fused
        )
        width = local_channels[-1]
        self.feature_tnet = TNet(width, **options) if transforms else None
        self.global_pool = SharedMLPMaxPool([width, *global_channels], **options)
        # Fully connected over the global feature: its positions are the clouds of the batch.
        self.head = SharedMLP(
            [global_channels[-1], *head_channels, num_classes],
            dropout=[*[0.0] * (len(head_channels) - 1), dropout, 0.0],
            norm=norm,
            plain_last=True,
        )

    def forward(self, points: Tensor) -> Tensor:
        """Returns the logits ``(B, num_classes)``."""
        features, _, _ = self._features(points)
        return self.head(self.global_pool(features))  # type: ignore[no-any-return]

    def forward_detailed(self, points: Tensor) -> PointNetOutput:
        """Returns the logits and what lies behind them, from one pass."""
        features, input_transform, feature_transform = self._features(points)
        global_feature, critical_indices = self.global_pool(features, return_indices=True)
        return PointNetOutput(
            logits=self.head(global_feature),
            global_feature=global_feature,
            critical_indices=critical_indices,
            input_transform=input_transform,
            feature_transform=feature_transform,
        )

    def _features(self, points: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Returns the features in front of the last shared MLP and the two transforms."""
        self._check_points(points)
        input_transform = feature_transform = None
        if self.input_tnet is not None:
            xyz = points[..., :3]
            input_transform = self.input_tnet(xyz)
            points = torch.cat([xyz @ input_transform, points[..., 3:]], dim=-1)
        features = self.local_mlp(points)
        if self.feature_tnet is not None:
            feature_transform = self.feature_tnet(features)
            features = features @ feature_transform
        return features, input_transform, feature_transform

    def _check_points(self, points: Tensor) -> None:
        shape = tuple(points.shape)
        if points.ndim != 3 or shape[2] != self.in_channels:
            hint = f"make the model with in_channels={shape[-1] if shape else 3}"
            if points.ndim == 3 and shape[1] == self.in_channels:
                hint = "swap points and channels with points.transpose(1, 2)"
            elif points.ndim == 2:
                hint = "add a batch dimension with points.unsqueeze(0)"
            raise ValueError(f"PointNet expected (B, N, {self.in_channels}), got {shape}: {hint}")
        if self.training and shape[0] < 2:
            raise ValueError(
                "PointNet in training mode expected at least two clouds, because batch norm in the "
                f"fully connected head is undefined for one, got {shape}: drop or merge a last "
                "batch of one, or call eval()"
            )


def orthogonality_penalty(transform: Tensor) -> Tensor:
    """How far transforms are from orthogonal: the mean over the batch of ``||I - A A^T||_F^2``.

    Source: Qi et al. 2017, section 4.2, equation 2; the paper adds it to the loss with weight
    0.001. Deviation: the mean over the batch, where the authors' program takes half the sum.

    Args:
        transform: ``(B, K, K)``.

    Returns:
        A scalar.
    """
    identity = torch.eye(transform.shape[-1], dtype=transform.dtype, device=transform.device)
    return (identity - transform @ transform.transpose(-1, -2)).square().sum((-1, -2)).mean()
