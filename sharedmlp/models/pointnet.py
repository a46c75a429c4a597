"""PointNet for classification."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from sharedmlp.layers import SharedMLP, SharedMLPMaxPool, TNet
from sharedmlp.models.classifier import PointCloudClassifier
from sharedmlp.models.registry import register_model


class PointNetOutput(NamedTuple):
    """Everything that `PointNet.forward_detailed` computes for B clouds.

    Attributes:
        logits: `(B, num_classes)`; the global feature if `num_classes` is 0.
        global_feature: `(B, D)`, the maxima over the points; D is 1024 in the paper.
        critical_indices: `(B, D)` int64, the point that won each channel. The distinct ones are the
            critical points of the cloud (Qi et al. 2017, section 4.3, theorem 2).
        input_transform: `(B, 3, 3)`, or None without T-Nets.
        feature_transform: `(B, K, K)`, or None without a feature T-Net; K is 64 in the paper.
    """

    logits: Tensor
    global_feature: Tensor
    critical_indices: Tensor
    input_transform: Tensor | None
    feature_transform: Tensor | None


@register_model(
    "pointnet_vanilla",
    tags=("pointnet",),
    pretrained={"modelnet40": "pointnet_vanilla_modelnet40.safetensors"},
    transforms=False,
)
@register_model("pointnet", tags=("pointnet",))
class PointNet(PointCloudClassifier):
    """PointNet for classification; `points (B, N, in_channels) -> logits (B, num_classes)`.

    Source: Qi et al. 2017, "PointNet: Deep Learning on Point Sets for 3D Classification and
    Segmentation", figure 2, section 4.2 and appendix C: shared MLP 64-64, feature T-Net, shared MLP
    64-128-1024, max over the points, fully connected 512-256 with dropout 0.3 (keep ratio 0.7) on
    the 256, logits. Deviations: no bias before a batch norm, which would subtract it again; batch
    norm's momentum is torch's constant 0.1, and the paper lowers it from 0.5 to 0.01 during the
    training; with more than three channels the input T-Net sees and turns the coordinates alone,
    and leaves the further features as they are.

    Any number of points is fine, and may differ between calls.

    Args:
        num_classes: Number of classes; 0 leaves the head out: the output is the global feature.
        in_channels: 3 for coordinates, more for further features (normals, colors) after them.
        backend: `"linear"`, `"conv1d"` or `"conv2d"`, for every shared MLP.
        transforms: Whether to have the input and the feature T-Net; `"input"` has the first only.
        dropout: Dropout probability on the last hidden layer, or one for each hidden layer.
        norm: `"sync_batch"` shares the statistics among the processes of a distributed training.
        fused: Of every `SharedMLPMaxPool`. The shared MLP without a max has "auto" in place of
            True: there is nothing to fuse in it in evaluation with gradients, or without a norm.
        search_precision: Of every `SharedMLPMaxPool`.
        local_channels: Widths of the shared MLP before the feature T-Net.
        global_channels: Widths of the shared MLP before the max.
        head_channels: Widths of the hidden fully connected layers.

    Raises:
        ValueError: If an argument, or the shape of an input, is not one of the above, or if a batch
            of one cloud comes in training mode.
    """

    _name = "PointNet"
    paper_url = "https://arxiv.org/abs/1612.00593"

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
        backend: str = "linear",
        transforms: bool | Literal["input"] = True,
        dropout: float | Sequence[float] = 0.3,
        norm: Literal["batch", "sync_batch"] = "batch",
        fused: bool | Literal["auto"] = "auto",
        search_precision: Literal["float32", "bfloat16"] = "float32",
        local_channels: Sequence[int] = (64, 64),
        global_channels: Sequence[int] = (64, 128, 1024),
        head_channels: Sequence[int] = (512, 256),
    ) -> None:
        if transforms not in (True, False, "input"):
            raise ValueError(f'transforms is True, False or "input", got {transforms!r}')
        if isinstance(dropout, (int, float)):
            dropout = [*[0.0] * (len(head_channels) - 1), dropout]
        architecture = {
            "num_classes": num_classes,
            "in_channels": in_channels,
            "transforms": transforms,
            "dropout": tuple(dropout),
            "local_channels": tuple(local_channels),
            "global_channels": tuple(global_channels),
            "head_channels": tuple(head_channels),
        }
        computation = {
            "backend": backend,
            "norm": norm,
            "fused": fused,
            "search_precision": search_precision,
        }
        super().__init__(architecture, computation)
        self.input_tnet = self._make_input_tnet() if transforms else None
        self.local_mlp = self._make_local_mlp()
        self.feature_tnet = self._make_tnet(local_channels[-1]) if transforms is True else None
        self.global_pool = self._make_global_pool()
        self.head = self._make_head()

    def forward_features(self, points: Tensor) -> Tensor:
        """Return the global feature `(B, D)`."""
        features, _, _ = self._local_features(points)
        return self.global_pool(features)  # type: ignore[no-any-return]

    def forward_detailed(self, points: Tensor) -> PointNetOutput:
        """Return the logits and the intermediate results of one pass."""
        features, input_transform, feature_transform = self._local_features(points)
        global_feature, critical_indices = self.global_pool(features, return_indices=True)
        return PointNetOutput(
            logits=self.head(global_feature),
            global_feature=global_feature,
            critical_indices=critical_indices,
            input_transform=input_transform,
            feature_transform=feature_transform,
        )

    def extra_loss(self, output: PointNetOutput) -> Tensor | None:
        """Return the orthogonality penalty of the feature transform; None without a feature T-Net.

        Source: Qi et al. 2017, section 4.2, equation 2; there its weight is 0.001.
        """
        if output.feature_transform is None:
            return None
        return orthogonality_penalty(output.feature_transform)

    def critical_points(self, output: PointNetOutput) -> Tensor:
        """Return the distinct points of one cloud that won a channel, `(K,)` int64, ascending.

        Channels that ReLU makes zero at all points have no winner.
        """
        winners: Tensor = torch.unique(output.critical_indices[output.global_feature > 0])
        return winners

    def point_features(self, points: Tensor, output: PointNetOutput) -> Tensor:
        """Return what goes into the max, `(M, D)`, under the transforms of a given cloud."""
        if output.input_transform is not None:
            points = torch.cat([points[:, :3] @ output.input_transform[0], points[:, 3:]], dim=1)
        features: Tensor = self.local_mlp(points)
        if output.feature_transform is not None:
            features = features @ output.feature_transform[0]
        # The layers before the max, without it.
        return SharedMLP.forward(self.global_pool, features)

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
    def num_features(self) -> int:
        """Width of the global feature."""
        return int(self.architecture["global_channels"][-1])

    @property
    def _layer_options(self) -> dict[str, Any]:
        return {name: self.options[name] for name in ("backend", "norm", "fused")}

    @property
    def _pool_options(self) -> dict[str, Any]:
        return {**self._layer_options, "search_precision": self.options["search_precision"]}

    def _local_features(self, points: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the features before the last shared MLP and the two transforms."""
        self._check_points(points, fully_connected=self.input_tnet is not None)
        input_transform = feature_transform = None
        if self.input_tnet is not None:
            input_transform = self.input_tnet(points[..., : self.input_tnet.pool.in_channels])
            xyz, further = points[..., :3], points[..., 3:]
            points = torch.cat([xyz @ input_transform, further], dim=-1)
        features = self.local_mlp(points)
        if self.feature_tnet is not None:
            feature_transform = self.feature_tnet(features)
            features = features @ feature_transform
        return features, input_transform, feature_transform


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
