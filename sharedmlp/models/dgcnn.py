"""DGCNN for classification."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from sharedmlp.layers import EdgeConv, SharedMLPMaxMeanPool
from sharedmlp.layers.pointwise import set_negative_slope
from sharedmlp.models.classifier import PointCloudClassifier
from sharedmlp.models.registry import register_model

# Of every leaky ReLU; the paper does not say, the authors' program does.
NEGATIVE_SLOPE = 0.2


class DGCNNOutput(NamedTuple):
    """Everything that `DGCNN.forward_detailed` computes for B clouds of N points.

    Attributes:
        logits: `(B, num_classes)`; the global feature if `num_classes` is 0.
        global_feature: `(B, 2D)`, the maxima over the points, then the means; D is 1024 in the
            paper.
        edge_features: `(B, N, D_i)` of each edge convolution: what the next one finds neighbors in.
    """

    logits: Tensor
    global_feature: Tensor
    edge_features: tuple[Tensor, ...]


@register_model("dgcnn", tags=("dgcnn",))
class DGCNN(PointCloudClassifier):
    """DGCNN for classification; `points (B, N, in_channels) -> logits (B, num_classes)`.

    Source: Wang et al. 2019, "Dynamic Graph CNN for Learning on Point Clouds", section 4.1 and
    figure 3: edge convolutions 64-64-128-256, each on the 20 nearest neighbors in the features
    before it, all of their outputs through one shared layer of 1024, max and mean over the points,
    fully connected 512-256 with dropout 0.5, logits; batch norm and leaky ReLU everywhere.
    Deviations: no bias before a batch norm, which would subtract it again (the authors' program has
    one, in the second fully connected layer); the mean in place of the paper's sum, and a slope of
    0.2, both as in the authors' program; neighbors are exact, where that program finds them in
    float32; with more than three channels the first neighbors are those of the coordinates alone,
    and further features (normals, colors) are only part of the edges.

    Any number of points is fine, and may differ between calls; in a cloud of fewer than k the
    nearest is repeated. `torch.export` and ONNX take this network, `torch.jit.trace` does not. Of
    two features that are almost equally far, rounding decides which is the k-th neighbor: an
    exported network, whose features are rounded otherwise, now and then takes the other one.

    Args:
        num_classes: Number of classes; 0 leaves the head out: the output is the global feature.
        in_channels: 3 for coordinates, more for further features after them.
        k: How many neighbors a point has, itself included.
        backend: `"linear"`, `"conv1d"` or `"conv2d"`, for every shared layer.
        dropout: Dropout probability on the hidden fully connected layers, or one for each.
        norm: `"sync_batch"` shares the statistics among the processes of a distributed training.
        fused: Of every `EdgeConv`, and of the `SharedMLPMaxMeanPool` after them.
        search_precision: Only `"float32"` and `"bfloat16"`, both without effect: the max over
            points is that of the products themselves.
        edge_channels: Width of each edge convolution.
        embedding_channels: Width of the shared layer before the max and the mean.
        head_channels: Widths of the hidden fully connected layers.

    Raises:
        ValueError: If an argument, or the shape of an input, is not one of the above, if a number
            in a cloud is not finite, or if a batch of one cloud comes in training mode.
    """

    _name = "DGCNN"
    paper_url = "https://arxiv.org/abs/1801.07829"

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
        k: int = 20,
        backend: str = "linear",
        dropout: float | Sequence[float] = 0.5,
        norm: Literal["batch", "sync_batch"] = "batch",
        fused: bool | Literal["auto"] = "auto",
        search_precision: Literal["float32", "bfloat16"] = "float32",
        edge_channels: Sequence[int] = (64, 64, 128, 256),
        embedding_channels: int = 1024,
        head_channels: Sequence[int] = (512, 256),
    ) -> None:
        if search_precision not in ("float32", "bfloat16"):
            raise ValueError(
                f'search_precision is "float32" or "bfloat16", got {search_precision!r}'
            )
        if not edge_channels:
            raise ValueError("edge_channels are the widths of at least one edge convolution")
        if isinstance(dropout, (int, float)):
            dropout = [dropout] * len(head_channels)
        architecture = {
            "num_classes": num_classes,
            "in_channels": in_channels,
            "k": k,
            "dropout": tuple(dropout),
            "edge_channels": tuple(edge_channels),
            "embedding_channels": embedding_channels,
            "head_channels": tuple(head_channels),
        }
        computation = {
            "backend": backend,
            "norm": norm,
            "fused": fused,
            "search_precision": search_precision,
        }
        super().__init__(architecture, computation)
        widths = (in_channels, *edge_channels)
        self.edge_convs = nn.ModuleList(
            EdgeConv(
                widths[i : i + 2],
                k,
                backend=backend,
                norm=norm,
                negative_slope=NEGATIVE_SLOPE,
                neighbors_in="features" if i else "coordinates",
                fused=fused,
            )
            for i in range(len(edge_channels))
        )
        self.embedding = SharedMLPMaxMeanPool(
            [sum(edge_channels), embedding_channels],
            backend=backend,
            norm=norm,
            activation="leaky_relu",
            fused=fused,
        )
        set_negative_slope(self.embedding, NEGATIVE_SLOPE)
        self.head = self._make_head()

    def forward_features(self, points: Tensor) -> Tensor:
        """Return the global feature `(B, 2D)`."""
        return self._pool(self._edge_features(points))

    def forward_detailed(self, points: Tensor) -> DGCNNOutput:
        """Return the logits and the intermediate results of one pass."""
        edge_features = self._edge_features(points)
        global_feature = self._pool(edge_features)
        return DGCNNOutput(self.head(global_feature), global_feature, tuple(edge_features))

    def feature_spaces(self, output: DGCNNOutput) -> list[Tensor]:
        """See `NeighborGraphModel`."""
        return [features[0] for features in output.edge_features]

    def _edge_features(self, points: Tensor) -> list[Tensor]:
        """Return the output `(B, N, D_i)` of each edge convolution."""
        self._check_points(points)
        features = []
        for edge_conv in self.edge_convs:
            points = edge_conv(points)
            features.append(points)
        return features

    def _pool(self, edge_features: Sequence[Tensor]) -> Tensor:
        global_feature: Tensor = self.embedding(torch.cat(list(edge_features), -1))
        return global_feature

    @property
    def num_features(self) -> int:
        """Width of the global feature."""
        return 2 * int(self.architecture["embedding_channels"])

    def _make_head(self, **options: Any) -> nn.Module:
        head = super()._make_head(activation="leaky_relu", **options)
        set_negative_slope(head, NEGATIVE_SLOPE)
        return head

    def _check_points(self, points: Tensor, *, fully_connected: bool = False) -> None:
        shape = tuple(points.shape)
        if len(shape) == 3 and shape[2] == self.in_channels and 0 in shape:
            raise ValueError(
                f"DGCNN expected (B, N, {self.in_channels}), got {shape}: leave empty clouds out "
                "of the batch"
            )
        super()._check_points(points, fully_connected=fully_connected)
