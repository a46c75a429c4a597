"""DGCNN for the segmentation of scenes and of the parts of shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sharedmlp.layers import EdgeConv, LocalGlobalMLP, SharedMLP, SharedMLPMaxPool
from sharedmlp.layers.pointwise import set_negative_slope
from sharedmlp.models.dgcnn import NEGATIVE_SLOPE
from sharedmlp.models.registry import register_model
from sharedmlp.models.segmenter import PointCloudSegmenter, join_features


@register_model(
    "dgcnn_part",
    task="segmentation",
    tags=("dgcnn", "parts"),
    k=40,
    category_channels=64,
    point_channels=(256, 256, 128),
    dropout=(0.5, 0.5, 0.0),
)
@register_model("dgcnn", task="segmentation", tags=("dgcnn",))
class DGCNNSegmenter(PointCloudSegmenter):
    """DGCNN for segmentation; `points (B, N, in_channels) -> logits (B, N, num_classes)`.

    Source: Wang et al. 2019, "Dynamic Graph CNN for Learning on Point Clouds", sections 4.3 and
    4.4 and figure 3: edge convolutions 64-64, 64-64 and 64, each on the nearest neighbors in the
    features before it, their outputs through one shared layer of 1024 and the max, local and global
    features through a shared MLP, logits; batch norm and leaky ReLU everywhere. `"dgcnn"` is the
    network for scenes, with 20 neighbors, 512-256 and dropout 0.5 on the last, `"dgcnn_part"` that
    for parts, with 40 neighbors, the category of the shape through a layer of 64, 256-256-128 and
    dropout 0.5 on both 256; these numbers are those of the authors' programs. Deviations: those of
    `DGCNN`; no spatial transformer before the first layer. The global feature is never copied to
    every point, see `LocalGlobalMLP`.

    Args:
        num_classes: Number of classes of points; 0 leaves the head out: the output are the features
            of the points.
        in_channels: 3 for coordinates, more for further features (colors, normals) after them.
        num_categories: Number of categories of shapes that the network is told, one-hot, beside the
            global feature; 0 for none.
        k: How many neighbors a point has, itself included.
        backend: `"linear"`, `"conv1d"` or `"conv2d"`, for every shared layer.
        dropout: Dropout probability on the last hidden layer, or one for each of `point_channels`.
        norm: `"sync_batch"` shares the statistics among the processes of a distributed training.
        fused: Of every layer; False also copies the global feature to every point.
        search_precision: Of the max over the points.
        edge_channels: Widths of each edge convolution.
        embedding_channels: Width of the shared layer before the max.
        category_channels: Width of a layer on the one-hot category; 0 for none.
        point_channels: Widths of the shared MLP on local and global features.

    Raises:
        ValueError: If an argument, or the shape of an input, is not one of the above, if a number
            in a cloud is not finite, or if a batch of one cloud comes in training mode, with a
            layer on the category.
    """

    _name = "DGCNN"
    paper_url = "https://arxiv.org/abs/1801.07829"

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
        num_categories: int = 0,
        k: int = 20,
        backend: str = "linear",
        dropout: float | Sequence[float] = 0.5,
        norm: Literal["batch", "sync_batch"] = "batch",
        fused: bool | Literal["auto"] = "auto",
        search_precision: Literal["float32", "bfloat16"] = "float32",
        edge_channels: Sequence[Sequence[int]] = ((64, 64), (64, 64), (64,)),
        embedding_channels: int = 1024,
        category_channels: int = 0,
        point_channels: Sequence[int] = (512, 256),
    ) -> None:
        if isinstance(dropout, (int, float)):
            dropout = [*[0.0] * (len(point_channels) - 1), dropout]
        architecture = {
            "num_classes": num_classes,
            "in_channels": in_channels,
            "num_categories": num_categories,
            "k": k,
            "dropout": tuple(dropout),
            "edge_channels": tuple(tuple(widths) for widths in edge_channels),
            "embedding_channels": embedding_channels,
            "category_channels": category_channels,
            "point_channels": tuple(point_channels),
        }
        computation = {
            "backend": backend,
            "norm": norm,
            "fused": fused,
            "search_precision": search_precision,
        }
        super().__init__(architecture, computation)
        options: dict[str, Any] = {"backend": backend, "norm": norm, "activation": "leaky_relu"}
        self.edge_convs = nn.ModuleList()
        width = in_channels
        for number, widths in enumerate(edge_channels):
            layer = EdgeConv(
                [width, *widths],
                k,
                backend=backend,
                norm=norm,
                negative_slope=NEGATIVE_SLOPE,
                neighbors_in="features" if number else "coordinates",
                fused=fused,
            )
            self.edge_convs.append(layer)
            width = layer.out_channels
        local = sum(widths[-1] for widths in edge_channels)
        self.embedding = SharedMLPMaxPool(
            [local, embedding_channels], fused=fused, search_precision=search_precision, **options
        )
        width = local + embedding_channels + num_categories
        self.category_mlp = None
        if num_categories and category_channels:
            self.category_mlp = SharedMLP(
                [num_categories, category_channels], fused=fused and "auto", **options
            )
            width += category_channels - num_categories
        self.point_mlp = LocalGlobalMLP(
            [width, *point_channels], dropout=dropout, fused=fused and "auto", **options
        )
        self.head = self._make_head()
        set_negative_slope(self, NEGATIVE_SLOPE)

    @property
    def num_features(self) -> int:
        """Width of a point's features before the head."""
        return int(self.architecture["point_channels"][-1])

    def _point_features(self, points: Tensor, categories: Tensor | None) -> Tensor:
        features = []
        for edge_conv in self.edge_convs:
            points = edge_conv(points)
            features.append(points)
        local = torch.cat(features, -1)
        if self.category_mlp is not None and categories is not None:
            self._check_several_clouds(points, "the layer on the category")
            categories = self.category_mlp(categories)
        features_of_point: Tensor = self.point_mlp(
            local, join_features(self.embedding(local), categories)
        )
        return features_of_point
