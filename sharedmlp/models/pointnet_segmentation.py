"""PointNet for the segmentation of scenes and of the parts of shapes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from sharedmlp.layers import LocalGlobalMLP, SharedMLP
from sharedmlp.models.pointnet_backbone import PointNetBackbone, check_transforms
from sharedmlp.models.registry import register_model
from sharedmlp.models.segmenter import PointCloudSegmenter, join_features


class PointNetSegmenterOutput(NamedTuple):
    """Everything that `PointNetSegmenter.forward_detailed` computes for B clouds of N points.

    Attributes:
        logits: `(B, N, num_classes)`; the features of the points if `num_classes` is 0.
        feature_transform: `(B, K, K)`, or None without a feature T-Net; K is 64 in the paper.
    """

    logits: Tensor
    feature_transform: Tensor | None


class _PointNetSegmenter(PointNetBackbone, PointCloudSegmenter):
    """What both segmenters share: what they return, and their one-hot categories."""

    _name = "PointNet"
    paper_url = "https://arxiv.org/abs/1612.00593"
    point_mlp: LocalGlobalMLP

    @property
    def num_features(self) -> int:
        """Width of a point's features before the head."""
        return int(self.architecture["point_channels"][-1])

    def forward_detailed(
        self, points: Tensor, categories: Tensor | None = None
    ) -> PointNetSegmenterOutput:
        """Return the logits and the intermediate results of one pass."""
        one_hot = self._check_inputs(points, categories)
        features, feature_transform = self._features_and_transform(points, one_hot)
        return PointNetSegmenterOutput(self.head(features), feature_transform)

    def _point_features(self, points: Tensor, categories: Tensor | None) -> Tensor:
        return self._features_and_transform(points, categories)[0]

    def _features_and_transform(
        self, points: Tensor, categories: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        raise NotImplementedError

    def _make_point_mlp(self, width: int) -> LocalGlobalMLP:
        """Make the shared MLP on local and global features of `width` channels in all."""
        return LocalGlobalMLP(
            [width + self.num_categories, *self.architecture["point_channels"]],
            dropout=self.architecture["dropout"],
            **{**self._layer_options, "fused": self.options["fused"] and "auto"},
        )


@register_model("pointnet_vanilla", task="segmentation", tags=("pointnet",), transforms=False)
@register_model("pointnet", task="segmentation", tags=("pointnet",))
class PointNetSegmenter(_PointNetSegmenter):
    """PointNet for segmentation; `points (B, N, in_channels) -> logits (B, N, num_classes)`.

    Source: Qi et al. 2017, "PointNet: Deep Learning on Point Sets for 3D Classification and
    Segmentation", figure 2: the layers of the classifier up to the max, the global feature after
    the 64 local ones of each point, shared MLP 512-256-128-128, logits. Deviations: those of
    `PointNet`; dropout 0.3 on the last 128, which the paper does not mention. The global feature is
    never copied to every point, see `LocalGlobalMLP`. The layers up to the max have the names of
    the classifier's, and take its weights.

    Args:
        num_classes: Number of classes of points; 0 leaves the head out: the output are the features
            of the points.
        in_channels: 3 for coordinates, more for further features (colors, normals) after them.
        num_categories: Number of categories of shapes that the network is told, one-hot, beside
            the global feature; 0 for none.
        backend: `"linear"`, `"conv1d"` or `"conv2d"`, for every shared MLP.
        transforms: As of `PointNet`.
        dropout: Dropout probability on the last hidden layer, or one for each of `point_channels`.
        norm: As of `PointNet`.
        fused: As of `PointNet`; False also copies the global feature to every point.
        search_precision: As of `PointNet`.
        local_channels: As of `PointNet`.
        global_channels: As of `PointNet`.
        point_channels: Widths of the shared MLP on local and global features.

    Raises:
        ValueError: If an argument, or the shape of an input, is not one of the above, or if a batch
            of one cloud comes in training mode, with T-Nets.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
        num_categories: int = 0,
        backend: str = "linear",
        transforms: bool | Literal["input"] = True,
        dropout: float | Sequence[float] = 0.3,
        norm: Literal["batch", "sync_batch"] = "batch",
        fused: bool | Literal["auto"] = "auto",
        search_precision: Literal["float32", "bfloat16"] = "float32",
        local_channels: Sequence[int] = (64, 64),
        global_channels: Sequence[int] = (64, 128, 1024),
        point_channels: Sequence[int] = (512, 256, 128, 128),
    ) -> None:
        check_transforms(transforms)
        architecture = {
            "num_classes": num_classes,
            "in_channels": in_channels,
            "num_categories": num_categories,
            "transforms": transforms,
            "dropout": _dropout_of_each(dropout, point_channels),
            "local_channels": tuple(local_channels),
            "global_channels": tuple(global_channels),
            "point_channels": tuple(point_channels),
        }
        super().__init__(architecture, _computation(backend, norm, fused, search_precision))
        self._make_backbone()
        self.point_mlp = self._make_point_mlp(local_channels[-1] + global_channels[-1])
        self.head = self._make_head()

    def _features_and_transform(
        self, points: Tensor, categories: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        if self.input_tnet is not None:
            self._check_several_clouds(points, "the T-Nets")
        local, _, feature_transform = self._local_features(points)
        global_feature = join_features(self.global_pool(local), categories)
        return self.point_mlp(local, global_feature), feature_transform


@register_model("pointnet_part", task="segmentation", tags=("pointnet", "parts"))
class PointNetPartSegmenter(_PointNetSegmenter):
    """PointNet for the parts of shapes; `points (B, N, in_channels) -> (B, N, num_classes)`.

    Source: Qi et al. 2017, appendix C and figure 9: input T-Net, shared layers 64-128-128, feature
    T-Net of 128, shared layers 512-2048, max; the outputs of all five shared layers, the maximum
    and the one-hot category through a shared MLP 256-256-128 with dropout 0.2 on both 256, as in
    the authors' program, logits. Deviations: those of `PointNet`. The maximum and the category are
    never copied to every point, see `LocalGlobalMLP`. The max is not fused, because the outputs of
    the layer before it are read as well.

    Args:
        num_classes: Number of classes of points; 0 leaves the head out.
        in_channels: As of `PointNetSegmenter`.
        num_categories: As of `PointNetSegmenter`; 16 for ShapeNetPart.
        backend: As of `PointNetSegmenter`.
        dropout: Dropout probability on all but the last hidden layer, or one for each of
            `point_channels`.
        norm: As of `PointNetSegmenter`.
        fused: As of `PointNetSegmenter`.
        search_precision: Of the T-Nets.
        local_channels: Widths of the shared layers before the feature T-Net.
        global_channels: Widths of the shared layers after it.
        point_channels: Widths of the shared MLP on local and global features.

    Raises:
        ValueError: As `PointNetSegmenter`.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
        num_categories: int = 0,
        backend: str = "linear",
        dropout: float | Sequence[float] = 0.2,
        norm: Literal["batch", "sync_batch"] = "batch",
        fused: bool | Literal["auto"] = "auto",
        search_precision: Literal["float32", "bfloat16"] = "float32",
        local_channels: Sequence[int] = (64, 128, 128),
        global_channels: Sequence[int] = (512, 2048),
        point_channels: Sequence[int] = (256, 256, 128),
    ) -> None:
        if isinstance(dropout, (int, float)):
            dropout = [*[dropout] * (len(point_channels) - 1), 0.0]
        architecture = {
            "num_classes": num_classes,
            "in_channels": in_channels,
            "num_categories": num_categories,
            "dropout": tuple(dropout),
            "local_channels": tuple(local_channels),
            "global_channels": tuple(global_channels),
            "point_channels": tuple(point_channels),
        }
        super().__init__(architecture, _computation(backend, norm, fused, search_precision))
        self.input_tnet = self._make_input_tnet()
        self.local_mlps = self._make_layers([in_channels, *local_channels])
        self.feature_tnet = self._make_tnet(local_channels[-1])
        self.wide_mlps = self._make_layers([local_channels[-1], *global_channels])
        width = sum(local_channels) + sum(global_channels) + global_channels[-1]
        self.point_mlp = self._make_point_mlp(width)
        self.head = self._make_head()

    def _features_and_transform(
        self, points: Tensor, categories: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        self._check_several_clouds(points, "the T-Nets")
        x, _ = self._transform_points(points)
        outputs = []
        for layer in self.local_mlps:
            x = layer(x)
            outputs.append(x)
        x, feature_transform = self._transform_features(x)
        for layer in self.wide_mlps:
            x = layer(x)
            outputs.append(x)
        global_feature = join_features(x.max(1).values, categories)
        return self.point_mlp(torch.cat(outputs, -1), global_feature), feature_transform

    def _make_layers(self, widths: Sequence[int]) -> nn.ModuleList:
        """Make shared layers whose outputs are all wanted."""
        options = {**self._layer_options, "fused": self.options["fused"] and "auto"}
        return nn.ModuleList(SharedMLP(pair, **options) for pair in pairwise(widths))


def _dropout_of_each(
    dropout: float | Sequence[float], point_channels: Sequence[int]
) -> tuple[float, ...]:
    if isinstance(dropout, (int, float)):
        return (*[0.0] * (len(point_channels) - 1), float(dropout))
    return tuple(dropout)


def _computation(
    backend: str, norm: str, fused: bool | Literal["auto"], search_precision: str
) -> dict[str, Any]:
    return {
        "backend": backend,
        "norm": norm,
        "fused": fused,
        "search_precision": search_precision,
    }
