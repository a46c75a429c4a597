"""PointNet++ for classification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from sharedmlp.layers import SetAbstraction
from sharedmlp.models.classifier import PointCloudClassifier
from sharedmlp.models.protocol import Neighborhoods
from sharedmlp.models.registry import register_model
from sharedmlp.ops.neighbors import ball_query, farthest_points

# Qi et al. 2017b, appendix B.1; the numbers of neighbors are those of the authors' code.
SINGLE_SCALE = (
    {"num_centers": 512, "radius": 0.2, "num_neighbors": 32, "channels": [64, 64, 128]},
    {"num_centers": 128, "radius": 0.4, "num_neighbors": 64, "channels": [128, 128, 256]},
)
_MULTI_SCALE = (
    {
        "num_centers": 512,
        "radius": [0.1, 0.2, 0.4],
        "num_neighbors": [16, 32, 128],
        "channels": [[32, 32, 64], [64, 64, 128], [64, 96, 128]],
    },
    {
        "num_centers": 128,
        "radius": [0.2, 0.4, 0.8],
        "num_neighbors": [32, 64, 128],
        "channels": [[64, 64, 128], [128, 128, 256], [128, 128, 256]],
    },
)


class PointNet2Output(NamedTuple):
    """Everything that `PointNet2.forward_detailed` computes for B clouds.

    Attributes:
        logits: `(B, num_classes)`; the global feature if `num_classes` is 0.
        global_feature: `(B, D)`; D is 1024 in the paper.
        centers: Those of each level, `(B, num_centers, 3)`.
    """

    logits: Tensor
    global_feature: Tensor
    centers: tuple[Tensor, ...]


@register_model("pointnet2_msg", tags=("pointnet2",), levels=_MULTI_SCALE)
@register_model("pointnet2_ssg", tags=("pointnet2",))
class PointNet2(PointCloudClassifier):
    """PointNet++ for classification; `points (B, N, in_channels) -> logits (B, num_classes)`.

    Source: Qi et al. 2017b, "PointNet++: Deep Hierarchical Feature Learning on Point Sets in a
    Metric Space", section 3 and appendix B.1: set abstraction levels, one over all that is left,
    fully connected 512-256 with dropout 0.5 on both, logits. `"pointnet2_ssg"` has one scale,
    `"pointnet2_msg"` three on each level. Deviations: those of `SetAbstraction`; batch norm's
    momentum is torch's constant 0.1; without the random dropout of input points that the paper
    trains with, which is the data's matter.

    Radii are in the units of the points: the paper's are for clouds in a sphere of radius 1. Any
    number of points is fine, and may differ between calls. `torch.export` and ONNX take this
    network, sampling included, `torch.jit.trace` does not.

    Args:
        num_classes: Number of classes; 0 leaves the head out: the output is the global feature.
        in_channels: 3 for coordinates, more for further features (normals, colors) after them.
        backend: `"linear"`, `"conv1d"` or `"conv2d"`, for every shared MLP.
        dropout: Dropout probability on the hidden fully connected layers, or one for each.
        norm: `"sync_batch"` shares the statistics among the processes of a distributed training.
        fused: Of every `SetAbstraction`.
        search_precision: Of every `SetAbstraction`.
        levels: The arguments of the `SetAbstraction` of each level by name, channels without the
            width of the input.
        global_channels: Widths of the level over all that is left.
        head_channels: Widths of the hidden fully connected layers.

    Raises:
        ValueError: If an argument, or the shape of an input, is not one of the above, if a
            coordinate is not finite, or if a batch of one cloud comes in training mode.
    """

    _name = "PointNet2"
    paper_url = "https://arxiv.org/abs/1706.02413"

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
        backend: str = "linear",
        dropout: float | Sequence[float] = 0.5,
        norm: Literal["batch", "sync_batch"] = "batch",
        fused: bool | Literal["auto"] = "auto",
        search_precision: Literal["float32", "bfloat16"] = "float32",
        levels: Sequence[Mapping[str, Any]] = SINGLE_SCALE,
        global_channels: Sequence[int] = (256, 512, 1024),
        head_channels: Sequence[int] = (512, 256),
    ) -> None:
        if isinstance(dropout, (int, float)):
            dropout = [dropout] * len(head_channels)
        architecture = {
            "num_classes": num_classes,
            "in_channels": in_channels,
            "dropout": tuple(dropout),
            "levels": tuple(dict(level) for level in levels),
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
        self.levels, widths = make_levels(levels, in_channels, computation)
        self.global_pool = make_global_level(global_channels, widths[-1], computation)
        self.head = self._make_head()

    def forward_features(self, points: Tensor) -> Tensor:
        """Return the global feature `(B, D)`."""
        return self._global_feature(points)[0]

    def forward_detailed(self, points: Tensor) -> PointNet2Output:
        """Return the logits and the intermediate results of one pass."""
        global_feature, centers = self._global_feature(points)
        return PointNet2Output(self.head(global_feature), global_feature, centers)

    def neighborhoods(self, points: Tensor) -> Neighborhoods:
        """See `GroupingModel`."""
        first = self.architecture["levels"][0]
        scales = zip(_as_tuple(first["radius"]), _as_tuple(first["num_neighbors"]), strict=True)
        radius, num_neighbors = max(scales)
        coordinates = points[:, :3]
        rows = farthest_points(coordinates, first["num_centers"])
        neighbors = ball_query(coordinates, coordinates[rows], radius, num_neighbors)
        return Neighborhoods(rows, neighbors, radius)

    @property
    def num_features(self) -> int:
        """Width of the global feature."""
        return int(self.architecture["global_channels"][-1])

    def _global_feature(self, points: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the global feature and the centers of each level."""
        self._check_points(points)
        centers, features = points[..., :3], points[..., 3:]
        found = []
        for level in self.levels:
            centers, features = level(centers, features)
            found.append(centers)
        return self.global_pool(centers, features)[1][:, 0], tuple(found)


def make_levels(
    levels: Sequence[Mapping[str, Any]], in_channels: int, computation: Mapping[str, Any]
) -> tuple[nn.ModuleList, list[int]]:
    """Make the set abstractions of a network.

    Args:
        levels: As of `PointNet2`.
        in_channels: Coordinates and further features of a point.
        computation: Further arguments of every `SetAbstraction`.

    Returns:
        The levels, and the widths of the further features of the points and of each level.
    """
    layers, widths = nn.ModuleList(), [in_channels - 3]
    for level in levels:
        channels, width = level["channels"], 3 + widths[-1]
        nested = any(not isinstance(c, int) for c in channels)
        layer = SetAbstraction(
            level["num_centers"],
            level["radius"],
            level["num_neighbors"],
            [[width, *scale] for scale in channels] if nested else [width, *channels],
            **computation,
        )
        layers.append(layer)
        widths.append(layer.out_channels)
    return layers, widths


def make_global_level(
    channels: Sequence[int], width: int, computation: Mapping[str, Any]
) -> SetAbstraction:
    """Make the level over all that is left, of features of a width."""
    return SetAbstraction(None, None, None, [3 + width, *channels], **computation)


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, Sequence) else (value,)
