"""What the segmenters share: features of every point, then a pointwise head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from sharedmlp.layers import SharedMLP
from sharedmlp.models.arguments import check_points, check_several_clouds, check_widths
from sharedmlp.models.protocol import Logits, ModelOutput, PointCloudModel


class PointCloudSegmenter(PointCloudModel):
    """Base class of networks with a class for every point.

    `points (B, N, in_channels) -> logits (B, N, num_classes)`. A network of shapes whose category
    is known, as ShapeNetPart's, has `num_categories` and takes the category of each cloud as well.

    A subclass makes its layers and then `self.head = self._make_head()`, and says in
    `_point_features` and `num_features` what the head gets.

    Args:
        architecture: As of `PointCloudModel`, with `num_classes`, `in_channels` and
            `num_categories`.
        computation: As of `PointCloudModel`, with `backend`.

    Raises:
        ValueError: If the number of classes, categories or channels is out of range.
    """

    _name: ClassVar[str]  # in messages: that of the paper's network, also in a subclass

    def __init__(self, architecture: Mapping[str, Any], computation: Mapping[str, Any]) -> None:
        check_widths(architecture["num_classes"], architecture["in_channels"])
        if architecture["num_categories"] < 0:
            raise ValueError(
                "expected num_categories >= 0 (0 if the categories of the shapes are unknown), got "
                f"{architecture['num_categories']}"
            )
        super().__init__(architecture, computation)

    @property
    def num_categories(self) -> int:
        """Number of categories of shapes that the network is told; 0 if none."""
        return int(self.architecture["num_categories"])

    @property
    def num_features(self) -> int:
        """Width of a point's features before the head."""
        raise NotImplementedError

    def forward(self, points: Tensor, categories: Tensor | None = None) -> Tensor:
        """Return the logits `(B, N, num_classes)`, or the features `(B, N, D)` without a head.

        Args:
            points: `(B, N, in_channels)`.
            categories: The category of each cloud, `(B,)` int64; with `num_categories` alone.
        """
        return self.forward_head(self.forward_features(points, categories))

    def forward_features(self, points: Tensor, categories: Tensor | None = None) -> Tensor:
        """Return the features of every point `(B, N, num_features)`; arguments as `forward`."""
        return self._point_features(points, self._check_inputs(points, categories))

    def forward_detailed(self, points: Tensor, categories: Tensor | None = None) -> ModelOutput:
        """Return the logits and the intermediate results of one pass; arguments as `forward`."""
        return Logits(self(points, categories))

    def reset_classifier(self, num_classes: int) -> None:
        """Make a new head for another number of classes; 0 takes it away.

        The `class_names` of `metadata`, which name other classes, go.

        Raises:
            ValueError: If the number is negative.
        """
        check_widths(num_classes, self.in_channels)
        self.architecture["num_classes"] = self.options["num_classes"] = num_classes
        self.metadata.pop("class_names", None)
        self.head = self._make_head().to(next(self.parameters())).train(self.training)

    def _point_features(self, points: Tensor, categories: Tensor | None) -> Tensor:
        """Return the features of every point `(B, N, num_features)`.

        Args:
            points: `(B, N, in_channels)`, checked.
            categories: One-hot, `(B, num_categories)`, or None.
        """
        raise NotImplementedError

    def _make_head(self) -> nn.Module:
        """Make the last layer by the network's arguments."""
        if self.num_classes == 0:
            return nn.Identity()
        widths = [self.num_features, self.num_classes]
        return SharedMLP(widths, backend=self.options["backend"], plain_last=True)

    def _check_inputs(self, points: Tensor, categories: Tensor | None) -> Tensor | None:
        """Refuse inputs of other shapes; return the categories one-hot `(B, num_categories)`."""
        check_points(self._name, points, self.in_channels)
        count = self.num_categories
        if count == 0 and categories is None:
            return None
        shape = None if categories is None else tuple(categories.shape)
        if count == 0:
            raise ValueError(
                f"{self._name} has num_categories=0 and takes no categories, got {shape}: make it "
                "with the number of categories, or leave them out"
            )
        clouds = points.shape[0]  # len would fix it while exporting
        if categories is None or shape != (clouds,) or categories.dtype != torch.int64:
            kind = "none" if categories is None else f"{shape} of {categories.dtype}"
            raise ValueError(
                f"{self._name} expected the category of each cloud, ({clouds},) int64 from 0 "
                f"to {count - 1}, got {kind}: pass model(points, categories)"
            )
        return functional.one_hot(categories, count).to(points.dtype)

    def _check_several_clouds(self, points: Tensor, where: str) -> None:
        """Refuse one cloud in training, if layers normalize over the clouds."""
        if self.training:
            check_several_clouds(self._name, points, where)


def join_features(*features: Tensor | None) -> Tensor:
    """Concatenate the features that there are along their channels."""
    given = [x for x in features if x is not None]
    return given[0] if len(given) == 1 else torch.cat(given, -1)
