"""PointNet++ for the segmentation of scenes and of the parts of shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from sharedmlp.layers import FeaturePropagation, LocalGlobalMLP
from sharedmlp.models.pointnet2 import SINGLE_SCALE, make_global_level, make_levels
from sharedmlp.models.registry import register_model
from sharedmlp.models.segmenter import PointCloudSegmenter, join_features

# Qi et al. 2017b, appendix B.1, for parts; the numbers of neighbors are those of the authors' code.
_MULTI_SCALE = (
    {
        "num_centers": 512,
        "radius": [0.1, 0.2, 0.4],
        "num_neighbors": [32, 64, 128],
        "channels": [[32, 32, 64], [64, 64, 128], [64, 96, 128]],
    },
    {
        "num_centers": 128,
        "radius": [0.4, 0.8],
        "num_neighbors": [64, 128],
        "channels": [[128, 128, 256], [128, 196, 256]],
    },
)
_SCENES = tuple(
    {"num_centers": count, "radius": radius, "num_neighbors": 32, "channels": channels}
    for count, radius, channels in (
        (1024, 0.1, [32, 32, 64]),
        (256, 0.2, [64, 64, 128]),
        (64, 0.4, [128, 128, 256]),
        (16, 0.8, [256, 256, 512]),
    )
)


@register_model(
    "pointnet2_ssg_scene",
    task="segmentation",
    tags=("pointnet2", "scenes"),
    levels=_SCENES,
    global_channels=None,
    propagation_channels=((256, 256), (256, 256), (256, 128), (128, 128, 128, 128)),
)
@register_model("pointnet2_msg", task="segmentation", tags=("pointnet2",), levels=_MULTI_SCALE)
@register_model("pointnet2_ssg", task="segmentation", tags=("pointnet2",))
class PointNet2Segmenter(PointCloudSegmenter):
    """PointNet++ for segmentation; `points (B, N, in_channels) -> logits (B, N, num_classes)`.

    Source: Qi et al. 2017b, "PointNet++: Deep Hierarchical Feature Learning on Point Sets in a
    Metric Space", section 3.4 and appendix B.1: the levels of the classifier, then feature
    propagation from each level to the one before it, shared layer of 128 with dropout 0.5, logits.
    `"pointnet2_ssg"` and `"pointnet2_msg"` are the networks for parts, `"pointnet2_ssg_scene"` that
    for scenes, whose levels end with 16 centers instead of one feature of the whole cloud. As in
    the authors' program, the last propagation reads the coordinates of the points, their further
    features and the one-hot category. Deviations: those of `SetAbstraction` and
    `FeaturePropagation`; batch norm's momentum is torch's constant 0.1. The levels have the names
    of the classifier's, and take its weights where the widths are the same.

    Radii are in the units of the points: the paper's are for shapes in a sphere of radius 1, and
    in meters for scenes.

    Args:
        num_classes: Number of classes of points; 0 leaves the head out: the output are the features
            of the points.
        in_channels: 3 for coordinates, more for further features (colors, normals) after them.
        num_categories: Number of categories of shapes that the network is told; 0 for none.
        backend: `"linear"`, `"conv1d"` or `"conv2d"`, for every shared MLP.
        dropout: Dropout probability on the last hidden layer.
        norm: `"sync_batch"` shares the statistics among the processes of a distributed training.
        fused: Of every layer; False also copies the feature of the cloud to every center.
        search_precision: Of every `SetAbstraction`.
        levels: As of `PointNet2`.
        global_channels: As of `PointNet2`; None for no level over all that is left.
        propagation_channels: Widths of each propagation, the one to the last level first.

    Raises:
        ValueError: If an argument, or the shape of an input, is not one of the above, if a
            coordinate is not finite, or if there is not one propagation to each level and to the
            points.
    """

    _name = "PointNet2"
    paper_url = "https://arxiv.org/abs/1706.02413"

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
        num_categories: int = 0,
        backend: str = "linear",
        dropout: float = 0.5,
        norm: Literal["batch", "sync_batch"] = "batch",
        fused: bool | Literal["auto"] = "auto",
        search_precision: Literal["float32", "bfloat16"] = "float32",
        levels: Sequence[Mapping[str, Any]] = SINGLE_SCALE,
        global_channels: Sequence[int] | None = (256, 512, 1024),
        propagation_channels: Sequence[Sequence[int]] = (
            (256, 256),
            (256, 128),
            (128, 128, 128, 128),
        ),
    ) -> None:
        architecture = {
            "num_classes": num_classes,
            "in_channels": in_channels,
            "num_categories": num_categories,
            "dropout": float(dropout),
            "levels": tuple(dict(level) for level in levels),
            "global_channels": None if global_channels is None else tuple(global_channels),
            "propagation_channels": tuple(tuple(widths) for widths in propagation_channels),
        }
        computation = {
            "backend": backend,
            "norm": norm,
            "fused": fused,
            "search_precision": search_precision,
        }
        super().__init__(architecture, computation)
        wanted = len(levels) + (global_channels is not None)
        if len(propagation_channels) != wanted:
            raise ValueError(
                f"propagation_channels needs the widths of {wanted} propagations, one from each "
                f"level, got {len(propagation_channels)}"
            )
        self.levels, widths = make_levels(levels, in_channels, computation)
        self.global_pool = None
        if global_channels is not None:
            self.global_pool = make_global_level(global_channels, widths[-1], computation)
            widths.append(global_channels[-1])
        widths[0] = in_channels + num_categories
        self.propagations = self._make_propagations(widths)
        self.head = self._make_head()

    @property
    def num_features(self) -> int:
        """Width of a point's features before the head."""
        return int(self.architecture["propagation_channels"][-1][-1])

    def _make_propagations(self, widths: Sequence[int]) -> nn.ModuleList:
        """Make what leads from each level to the one before it, the last level first.

        Args:
            widths: Of the features that the points and each level have.
        """
        options = {name: self.options[name] for name in ("backend", "norm")}
        options["fused"] = self.options["fused"] and "auto"
        channels = self.architecture["propagation_channels"]
        layers: list[nn.Module] = []
        width = widths[-1]
        for number, (own, below) in enumerate(zip(channels, widths[-2::-1], strict=True)):
            dropout = [0.0] * len(own)
            if number == len(channels) - 1:
                dropout[-1] = self.architecture["dropout"]
            from_cloud = number == 0 and self.global_pool is not None
            layer = LocalGlobalMLP if from_cloud else FeaturePropagation
            first = below + width
            layers.append(layer([first, *own], dropout=dropout, **options))
            width = own[-1]
        return nn.ModuleList(layers)

    def _point_features(self, points: Tensor, categories: Tensor | None) -> Tensor:
        centers, features = points[..., :3], points[..., 3:]
        of_points = points
        if categories is not None:
            copies = categories[:, None].expand(-1, points.shape[1], -1)
            of_points = join_features(points, copies)
        known = [(centers, of_points)]
        for level in self.levels:
            centers, features = level(centers, features)
            known.append((centers, features))
        propagations = list(self.propagations)
        if self.global_pool is not None:
            of_cloud = self.global_pool(centers, features)[1][:, 0]
            features = propagations.pop(0)(features, of_cloud)
        for propagation, (wanted, before) in zip(propagations, known[-2::-1], strict=True):
            features = propagation(wanted, centers, features, before)
            centers = wanted
        return features
