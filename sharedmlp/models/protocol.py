"""What every network of the registry offers, and all that the rest of the package asks of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar, runtime_checkable

from torch import Tensor, nn

ModelT = TypeVar("ModelT", bound="PointCloudModel")


class ModelOutput(Protocol):
    """What `PointCloudModel.forward_detailed` returns: at least the logits."""

    @property
    def logits(self) -> Tensor:
        """`(B, num_classes)`, or `(B, N, num_classes)` of a segmentation."""


class Logits(NamedTuple):
    """The least that `PointCloudModel.forward_detailed` returns."""

    logits: Tensor


class PointCloudModel(nn.Module):
    """Base class of the networks; `points (B, N, in_channels) -> logits (B, num_classes)`.

    The constructor of a subclass takes `num_classes` and `in_channels`, and as keywords at least
    `backend`, `norm`, `dropout`, `fused` and `search_precision`, which tasks and commands pass to
    whatever network they are told. It calls this constructor first, and keeps its head as `head`.
    `forward_features` and `reset_classifier` are the subclass's own; the other methods may be.

    The names are timm's: `num_classes=0` makes a network without its head, whose `forward` returns
    the features that the head would get.

    Args:
        architecture: The arguments that decide which network it is, of plain values.
        computation: Those that decide how it is computed, such as `backend`.

    Attributes:
        architecture: `type(model)(**model.architecture)` has the same layers on any backend.
        options: All arguments: the architecture, and how it is computed.
        metadata: What is known of the data it was trained on, of plain values, such as
            `class_names` and `up_axis`: empty in a new network, kept by the files it is saved in.
        head: What makes logits of features; `nn.Identity` if `num_classes` is 0.
        paper_url: Where the network is described; part of its card on the Hugging Face Hub.
    """

    paper_url: ClassVar[str | None] = None
    head: nn.Module

    def __init__(self, architecture: Mapping[str, Any], computation: Mapping[str, Any]) -> None:
        super().__init__()
        self.architecture: dict[str, Any] = dict(architecture)
        self.options: dict[str, Any] = {**architecture, **computation}
        self.metadata: dict[str, Any] = {}

    @property
    def in_channels(self) -> int:
        """Channels of a point."""
        return int(self.architecture["in_channels"])

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 if the network returns features."""
        return int(self.architecture["num_classes"])

    def forward(self, points: Tensor) -> Tensor:
        """Return the logits, or the features if `num_classes` is 0."""
        return self.forward_head(self.forward_features(points))

    def forward_features(self, points: Tensor) -> Tensor:
        """Return the features that the head gets."""
        raise NotImplementedError

    def forward_head(self, features: Tensor) -> Tensor:
        """Return the logits of what `forward_features` returned."""
        return self.head(features)  # type: ignore[no-any-return]

    def forward_detailed(self, points: Tensor) -> ModelOutput:
        """Return the logits and the intermediate results of one pass."""
        return Logits(self(points))

    def get_classifier(self) -> nn.Module:
        """Return the head; everything before it is the backbone."""
        return self.head

    def extra_loss(self, output: Any) -> Tensor | None:
        """Return what the network adds to the loss, unweighted; None if nothing.

        Args:
            output: Of `forward_detailed`.
        """
        return None

    def reset_classifier(self, num_classes: int) -> None:
        """Make a new last layer for another number of classes; 0 takes the head away."""
        raise NotImplementedError

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> None:
        """Write the folder that `from_pretrained` and the Hugging Face Hub read.

        That is `model.safetensors`, `config.json` with the network's name, `options` and
        `metadata`, and a model card in `README.md` if there is none yet.

        Args:
            save_directory: The folder; made if missing.
            **options: Further arguments of the method of this name of huggingface_hub's
                `PyTorchModelHubMixin`, such as `push_to_hub=True`.

        Raises:
            ImportError: If huggingface_hub is not installed.
        """
        from sharedmlp.models.hub import as_hub_model

        as_hub_model(self).save_pretrained(save_directory, **options)

    @classmethod
    def from_pretrained(cls: type[ModelT], name_or_path: str | Path, **options: Any) -> ModelT:
        """Make the network that `save_pretrained` wrote.

        It is in evaluation mode, on the CPU, in torch's default dtype.

        Args:
            name_or_path: A folder, or the name of a repository on the Hugging Face Hub.
            **options: Arguments of the network that replace the saved ones, such as
                `backend="conv2d"`, and those of the method of this name of huggingface_hub's
                `PyTorchModelHubMixin`, such as `revision`.

        Raises:
            ImportError: If huggingface_hub is not installed.
            RuntimeError: If the weights are not those of the network that the config describes.
            ValueError: If the folder has no config, or that of a network of another class.
        """
        from sharedmlp.models.hub import load_hub_model

        model = load_hub_model(name_or_path, **options)
        if not isinstance(model, cls):
            raise ValueError(
                f"{name_or_path} has a {type(model).__name__.removeprefix('Hub')}, expected a "
                f"{cls.__name__}: call the from_pretrained of that class, or PointCloudModel's"
            )
        return model


@runtime_checkable
class MaxPooledModel(Protocol):
    """A network whose global feature is one max over the points: it has critical points."""

    def critical_points(self, output: Any) -> Tensor:
        """Return the distinct points that won a channel of the max, `(K,)` int64, ascending.

        Args:
            output: Of `forward_detailed`, for one cloud.
        """

    def point_features(self, points: Tensor, output: Any) -> Tensor:
        """Return what goes into the max, `(M, D)`, of any points.

        Args:
            points: `(M, in_channels)`.
            output: Of `forward_detailed`, for one cloud: what the network predicted for that cloud,
                such as transforms, holds for the points as well.
        """


class Neighborhoods(NamedTuple):
    """The neighborhoods of one cloud of N points.

    Attributes:
        centers: `(Q,)` int64, the rows of the points that are their centers; a row may be repeated.
        neighbors: `(Q, K)` int64, the rows of the points in each; a row may be repeated.
        radius: Of the balls, in the units of the points.
    """

    centers: Tensor
    neighbors: Tensor
    radius: float


@runtime_checkable
class GroupingModel(Protocol):
    """A network that groups the points around some of them."""

    def neighborhoods(self, points: Tensor) -> Neighborhoods:
        """Return the neighborhoods of the first level; of several scales, those of the largest.

        Args:
            points: `(N, in_channels)`.
        """


@runtime_checkable
class NeighborGraphModel(Protocol):
    """A network that finds the neighbors of a point among the features of its layers."""

    def feature_spaces(self, output: Any) -> Sequence[Tensor]:
        """Return the features `(N, D_i)` of each point after each layer, the first layer first.

        Args:
            output: Of `forward_detailed`, for one cloud.
        """
