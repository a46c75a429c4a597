"""PointNet for classification."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from sharedmlp.layers import SharedMLP
from sharedmlp.models.classifier import PointCloudClassifier
from sharedmlp.models.pointnet_backbone import PointNetBackbone, check_transforms
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
class PointNet(PointNetBackbone, PointCloudClassifier):
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
        check_transforms(transforms)
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
        self._make_backbone()
        self.head = self._make_head()

    def forward_features(self, points: Tensor) -> Tensor:
        """Return the global feature `(B, D)`."""
        self._check_points(points, fully_connected=self.input_tnet is not None)
        features, _, _ = self._local_features(points)
        return self.global_pool(features)  # type: ignore[no-any-return]

    def forward_detailed(self, points: Tensor) -> PointNetOutput:
        """Return the logits and the intermediate results of one pass."""
        self._check_points(points, fully_connected=self.input_tnet is not None)
        features, input_transform, feature_transform = self._local_features(points)
        global_feature, critical_indices = self.global_pool(features, return_indices=True)
        return PointNetOutput(
            logits=self.head(global_feature),
            global_feature=global_feature,
            critical_indices=critical_indices,
            input_transform=input_transform,
            feature_transform=feature_transform,
        )

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

    @property
    def num_features(self) -> int:
        """Width of the global feature."""
        return int(self.architecture["global_channels"][-1])
