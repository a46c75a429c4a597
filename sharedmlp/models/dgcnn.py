"""DGCNN for classification."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from sharedmlp.layers import EdgeConv, SharedMLP
from sharedmlp.layers.pointwise import set_negative_slope
from sharedmlp.models.head import reset_head
from sharedmlp.models.protocol import PointCloudModel
from sharedmlp.models.registry import register_model

# Of every leaky ReLU; the paper does not say, the authors' program does.
_NEGATIVE_SLOPE = 0.2


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
class DGCNN(PointCloudModel):
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
    nearest is repeated. The neighbor search cannot be traced: `torch.jit.trace`, `torch.export` and
    ONNX do not take this network.

    Args:
        num_classes: Number of classes; 0 leaves the head out: the output is the global feature.
        in_channels: 3 for coordinates, more for further features after them.
        k: How many neighbors a point has, itself included.
        backend: `"linear"`, `"conv1d"` or `"conv2d"`, for every shared layer.
        dropout: Dropout probability on the hidden fully connected layers, or one for each.
        norm: `"sync_batch"` shares the statistics among the processes of a distributed training.
        fused: Of every `EdgeConv`. The shared layer after them has "auto" in place of True: there
            is nothing to fuse in it in training.
        search_precision: Only `"float32"` and `"bfloat16"`, both without effect: the max over
            points is that of the products themselves.
        edge_channels: Width of each edge convolution.
        embedding_channels: Width of the shared layer before the max and the mean.
        head_channels: Widths of the hidden fully connected layers.

    Raises:
        ValueError: If an argument, or the shape of an input, is not one of the above, if a number
            in a cloud is not finite, or if a batch of one cloud comes in training mode.
    """

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
        if num_classes < 0 or in_channels < 3:
            raise ValueError(
                "expected num_classes >= 0 (0 for features) and in_channels >= 3 (x, y, z and "
                f"further features), got num_classes={num_classes} and in_channels={in_channels}"
            )
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
                negative_slope=_NEGATIVE_SLOPE,
                neighbors_in="features" if i else "coordinates",
                fused=fused,
            )
            for i in range(len(edge_channels))
        )
        self.embedding = SharedMLP(
            [sum(edge_channels), embedding_channels],
            backend=backend,
            norm=norm,
            activation="leaky_relu",
            fused=fused and "auto",
        )
        set_negative_slope(self.embedding, _NEGATIVE_SLOPE)
        self.head = self._make_head()

    def forward(self, points: Tensor) -> Tensor:
        """Return the logits `(B, num_classes)`, or the global feature `(B, 2D)` without a head."""
        return self.head(self.forward_features(points))  # type: ignore[no-any-return]

    def forward_features(self, points: Tensor) -> Tensor:
        """Return the global feature `(B, 2D)`."""
        return self._pool(self._edge_features(points))

    def forward_detailed(self, points: Tensor) -> DGCNNOutput:
        """Return the logits and the intermediate results of one pass."""
        edge_features = self._edge_features(points)
        global_feature = self._pool(edge_features)
        return DGCNNOutput(self.head(global_feature), global_feature, tuple(edge_features))

    def reset_classifier(self, num_classes: int) -> None:
        """Make a new last layer for another number of classes; the layers before it stay.

        The `class_names` of `metadata`, which name other classes, go. `num_classes=0` takes the
        whole head away, and from there another number makes a whole new one.

        Raises:
            ValueError: If the number is negative.
        """
        self.head = reset_head(self, num_classes, self._make_head)

    def _edge_features(self, points: Tensor) -> list[Tensor]:
        """Return the output `(B, N, D_i)` of each edge convolution."""
        self._check_points(points)
        features = []
        for edge_conv in self.edge_convs:
            points = edge_conv(points)
            features.append(points)
        return features

    def _pool(self, edge_features: Sequence[Tensor]) -> Tensor:
        embedded: Tensor = self.embedding(torch.cat(list(edge_features), -1))
        return torch.cat([embedded.max(1).values, embedded.mean(1)], -1)

    def _make_head(self) -> nn.Module:
        if self.num_classes == 0:
            return nn.Identity()
        # Fully connected over the global feature: its positions are the clouds of the batch.
        head = SharedMLP(
            [
                2 * self.architecture["embedding_channels"],
                *self.architecture["head_channels"],
                self.num_classes,
            ],
            activation="leaky_relu",
            dropout=[*self.architecture["dropout"], 0.0],
            norm=self.options["norm"],
            plain_last=True,
        )
        set_negative_slope(head, _NEGATIVE_SLOPE)
        return head

    def _check_points(self, points: Tensor) -> None:
        shape = tuple(points.shape)
        if points.ndim != 3 or shape[2] != self.in_channels or points.numel() == 0:
            hint = f"make the model with in_channels={shape[-1] if shape else 3}"
            if points.ndim == 3 and shape[1] == self.in_channels:
                hint = "swap points and channels with points.transpose(1, 2)"
            elif points.ndim == 2:
                hint = "add a batch dimension with points.unsqueeze(0)"
            elif points.numel() == 0:
                hint = "leave empty clouds out of the batch"
            raise ValueError(f"DGCNN expected (B, N, {self.in_channels}), got {shape}: {hint}")
        if self.training and self.num_classes > 0 and shape[0] < 2:
            raise ValueError(
                "DGCNN in training mode expected at least two clouds, because batch norm in the "
                f"fully connected head is undefined for one, got {shape}: drop or merge a last "
                "batch of one, or call eval()"
            )
