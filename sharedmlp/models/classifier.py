"""What the classifiers share: features of a cloud, then a fully connected head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from sharedmlp.layers import SharedMLP
from sharedmlp.models.arguments import check_points, check_several_clouds, check_widths
from sharedmlp.models.protocol import PointCloudModel


class PointCloudClassifier(PointCloudModel):
    """Base class of networks with one global feature a cloud and a head on it.

    A subclass makes its layers and then `self.head = self._make_head()`, and says in
    `forward_features` and `num_features` what the head gets.

    Args:
        architecture: As of `PointCloudModel`, with `num_classes`, `in_channels`, `head_channels`
            and the `dropout` of each hidden layer of the head.
        computation: As of `PointCloudModel`, with `norm`.

    Raises:
        ValueError: If the number of classes or of channels is out of range.
    """

    _name: ClassVar[str]  # in messages: that of the paper's network, also in a subclass

    def __init__(self, architecture: Mapping[str, Any], computation: Mapping[str, Any]) -> None:
        check_widths(architecture["num_classes"], architecture["in_channels"])
        super().__init__(architecture, computation)

    @property
    def num_features(self) -> int:
        """Width of the global feature."""
        raise NotImplementedError

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the logits `(B, num_classes)` of global features `(B, num_features)`.

        Args:
            features: What `forward_features` returned.
            pre_logits: Whether to stop before the last layer: `(B, D)`, the hidden features.
        """
        if pre_logits and isinstance(self.head, SharedMLP):
            for layer in self.head.layers[:-1]:
                features = layer(features)
            return features
        return self.head(features)  # type: ignore[no-any-return]

    def reset_classifier(self, num_classes: int) -> None:
        """Make a new last layer for another number of classes; the layers before it stay.

        What `metadata` says of the old one goes: the `class_names`, the `temperature` and the
        `validation`. `num_classes=0` takes the whole head away, and from there another number makes
        a whole new one.

        Raises:
            ValueError: If the number is negative.
        """
        if num_classes < 0:
            raise ValueError(f"expected num_classes >= 0 (0 for features), got {num_classes}")
        old = self.head
        self.architecture["num_classes"] = self.options["num_classes"] = num_classes
        for name in ("class_names", "temperature", "validation"):
            self.metadata.pop(name, None)
        new = self._make_head().to(next(self.parameters())).train(self.training)
        if isinstance(old, SharedMLP) and isinstance(new, SharedMLP):
            for number, layer in enumerate(old.layers[:-1]):
                new.layers[number] = layer
        self.head = new

    def _make_head(self, **options: Any) -> nn.Module:
        """Make the head by the network's arguments.

        Args:
            **options: Further arguments of its `SharedMLP`.
        """
        if self.num_classes == 0:
            return nn.Identity()
        # Fully connected over the global feature: its positions are the clouds of the batch.
        return SharedMLP(
            [self.num_features, *self.architecture["head_channels"], self.num_classes],
            dropout=[*self.architecture["dropout"], 0.0],
            norm=self.options["norm"],
            plain_last=True,
            **options,
        )

    def _check_points(self, points: Tensor, *, fully_connected: bool = False) -> None:
        """Refuse points of another shape, and one cloud in training.

        Args:
            points: The input.
            fully_connected: Whether a fully connected layer besides the head normalizes over the
                clouds of the batch.
        """
        check_points(self._name, points, self.in_channels)
        if self.training and (self.num_classes > 0 or fully_connected):
            check_several_clouds(self._name, points, "the fully connected head")
