"""What PointNet has before the max over the points, for every task."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from sharedmlp.layers import SharedMLP, SharedMLPMaxPool, TNet
from sharedmlp.models.protocol import PointCloudModel


class _TransformOutput(Protocol):
    @property
    def feature_transform(self) -> Tensor | None:
        """As of `PointNetOutput`."""


class PointNetBackbone(PointCloudModel):
    """The T-Nets, the shared MLPs and the max of PointNet (Qi et al. 2017, figure 2).

    A base class beside that of a task. The options of the network are those of `PointNet`.
    """

    input_tnet: TNet | None
    local_mlp: SharedMLP
    feature_tnet: TNet | None
    global_pool: SharedMLPMaxPool

    def _make_backbone(self) -> None:
        """Make the layers by the network's arguments."""
        transforms = self.architecture["transforms"]
        width = self.architecture["local_channels"][-1]
        self.input_tnet = self._make_input_tnet() if transforms else None
        self.local_mlp = self._make_local_mlp()
        self.feature_tnet = self._make_tnet(width) if transforms is True else None
        self.global_pool = self._make_global_pool()

    def extra_loss(self, output: _TransformOutput) -> Tensor | None:
        """Return the orthogonality penalty of the feature transform; None without a feature T-Net.

        Source: Qi et al. 2017, section 4.2, equation 2; there its weight is 0.001.
        """
        if output.feature_transform is None:
            return None
        return orthogonality_penalty(output.feature_transform)

    def _make_input_tnet(self, **options: Any) -> TNet:
        return self._make_tnet(3, **options)

    def _make_tnet(self, dim: int, **options: Any) -> TNet:
        return TNet(dim, **{**self._pool_options, **options})

    def _make_local_mlp(self, **options: Any) -> SharedMLP:
        widths = [self.in_channels, *self.architecture["local_channels"]]
        fused = self.options["fused"] and "auto"
        return SharedMLP(widths, **{**self._layer_options, "fused": fused, **options})

    def _make_global_pool(self, **options: Any) -> SharedMLPMaxPool:
        widths = [self.architecture["local_channels"][-1], *self.architecture["global_channels"]]
        return SharedMLPMaxPool(widths, **{**self._pool_options, **options})

    @property
    def _layer_options(self) -> dict[str, Any]:
        return {name: self.options[name] for name in ("backend", "norm", "fused")}

    @property
    def _pool_options(self) -> dict[str, Any]:
        return {**self._layer_options, "search_precision": self.options["search_precision"]}

    def _local_features(self, points: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the features before the last shared MLP and the two transforms."""
        points, input_transform = self._transform_points(points)
        features, feature_transform = self._transform_features(self.local_mlp(points))
        return features, input_transform, feature_transform

    def _transform_points(self, points: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the points in the input T-Net's pose, and its transform."""
        if self.input_tnet is None:
            return points, None
        transform = self.input_tnet(points[..., : self.input_tnet.pool.in_channels])
        xyz, further = points[..., :3], points[..., 3:]
        return torch.cat([xyz @ transform, further], dim=-1), transform

    def _transform_features(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return features times the feature T-Net's transform, and that."""
        if self.feature_tnet is None:
            return features, None
        transform = self.feature_tnet(features)
        return features @ transform, transform


def check_transforms(transforms: object) -> None:
    """Refuse what `transforms` cannot be.

    Raises:
        ValueError: If it is not True, False or "input".
    """
    if transforms not in (True, False, "input"):
        raise ValueError(f'transforms is True, False or "input", got {transforms!r}')


def orthogonality_penalty(transform: Tensor) -> Tensor:
    """Return how far transforms are from orthogonal: the mean of `||I - A A^T||_F^2`.

    Source: Qi et al. 2017, section 4.2, equation 2; the paper adds it to the loss with weight
    0.001. Deviation: the mean over the batch, where the authors' program takes half the sum.

    Args:
        transform: `(B, K, K)`.

    Returns:
        A scalar.
    """
    identity = torch.eye(transform.shape[-1], dtype=transform.dtype, device=transform.device)
    return (identity - transform @ transform.transpose(-1, -2)).square().sum((-1, -2)).mean()
