"""PointNet for classification."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from sharedmlp.layers import SharedMLP, SharedMLPMaxPool, TNet


class PointNetOutput(NamedTuple):
    """Everything that :meth:`PointNet.forward_detailed` computes for B clouds.

    Attributes:
        logits: ``(B, num_classes)``.
        global_feature: ``(B, D)``, the maxima over the points; D is 1024 in the paper.
        critical_indices: ``(B, D)`` int64, the point that won each channel. The distinct ones are
            the critical points of the cloud (Qi et al. 2017, section 4.3, theorem 2).
        input_transform: ``(B, 3, 3)``, or None without T-Nets.
        feature_transform: ``(B, K, K)``, or None without T-Nets; K is 64 in the paper.
    """

    logits: Tensor
    global_feature: Tensor
    critical_indices: Tensor
    input_transform: Tensor | None
    feature_transform: Tensor | None


class PointNet(nn.Module):
    """PointNet for classification; ``points (B, N, in_channels) -> logits (B, num_classes)``.

    Source: Qi et al. 2017, "PointNet: Deep Learning on Point Sets for 3D Classification and
    Segmentation", figure 2, section 4.2 and appendix C: shared MLP 64-64, feature T-Net, shared MLP
    64-128-1024, max over the points, fully connected 512-256 with dropout 0.3 (keep ratio 0.7) on
    the 256, logits. Deviations: no bias in front of a batch norm, which would subtract it
    again; batch norm's momentum is torch's constant 0.1 where the paper lowers it from 0.5 to
    0.01 during the training; with more than three channels the input T-Net sees and turns the
    coordinates alone, and leaves the further features as they are.

    Any number of points is fine, and may differ between calls.

    The options from ``tnet_channels`` on make the networks that other people's code of that name
    has (:mod:`sharedmlp.models.third_party`).

    Args:
        num_classes: Number of classes.
        in_channels: 3 for coordinates, more for further features (normals, colours) behind them.
        backend: ``"linear"``, ``"conv1d"`` or ``"conv2d"``, for every shared MLP.
        transforms: Whether to have the input and the feature T-Net; ``"input"`` has the first only.
        dropout: Dropout probability on the last hidden layer, or one for each hidden layer.
        norm: ``"sync_batch"`` shares the statistics among the processes of a distributed training.
        fused: Of every :class:`~sharedmlp.layers.SharedMLPMaxPool`. The shared MLP without a max
            has "auto" in place of True: there is nothing to fuse in it in evaluation with
            gradients, or without a norm.
        search_precision: Of every :class:`~sharedmlp.layers.SharedMLPMaxPool`.
        local_channels: Widths of the shared MLP in front of the feature T-Net.
        global_channels: Widths of the shared MLP in front of the max.
        head_channels: Widths of the hidden fully connected layers.
        tnet_channels: How many channels of a point the input T-Net sees; it turns the first three.
        tnet_adds_identity: ``add_identity`` of both :class:`~sharedmlp.layers.TNet`.
        bias_before_norm: Whether linear maps have a bias in front of a batch norm, too.
        point_norm: Whether the shared MLPs outside the T-Nets have a norm; the rest always has.
        activation_before_max: Whether the last shared layer has its activation.
        dropout_before_norm: Of :class:`~sharedmlp.layers.SharedMLP`, for the head.

    Attributes:
        architecture: The arguments that decide which network it is, of plain values:
            ``PointNet(**model.architecture)`` has the same layers on any backend.
        options: All arguments, of plain values: the architecture, and how it is computed.
        metadata: What is known of the data it was trained on, of plain values, such as
            ``class_names`` and ``up_axis``: empty in a new network, kept by the files it is saved
            in.

    Raises:
        ValueError: If an argument, or the shape of an input, is not one of the above, or if a batch
            of one cloud comes in training mode.
    """

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
        tnet_channels: int = 3,
        tnet_adds_identity: bool = False,
        bias_before_norm: bool = False,
        point_norm: bool = True,
        activation_before_max: bool = True,
        dropout_before_norm: bool = False,
    ) -> None:
        super().__init__()
        if num_classes < 1 or in_channels < 3:
            raise ValueError(
                "expected num_classes >= 1 and in_channels >= 3 (x, y, z and further features), "
                f"got num_classes={num_classes} and in_channels={in_channels}"
            )
        if transforms not in (True, False, "input"):
            raise ValueError(f'transforms is True, False or "input", got {transforms!r}')
        if not 3 <= tnet_channels <= in_channels:
            raise ValueError(
                f"tnet_channels is 3 (x, y, z) to in_channels={in_channels}, got {tnet_channels}"
            )
        if isinstance(dropout, (int, float)):
            dropout = [*[0.0] * (len(head_channels) - 1), dropout]
        self.in_channels = in_channels
        self.architecture: dict[str, Any] = {
            "num_classes": num_classes,
            "in_channels": in_channels,
            "transforms": transforms,
            "dropout": tuple(dropout),
            "local_channels": tuple(local_channels),
            "global_channels": tuple(global_channels),
            "head_channels": tuple(head_channels),
            "tnet_channels": tnet_channels,
            "tnet_adds_identity": tnet_adds_identity,
            "bias_before_norm": bias_before_norm,
            "point_norm": point_norm,
            "activation_before_max": activation_before_max,
            "dropout_before_norm": dropout_before_norm,
        }
        self.options: dict[str, Any] = {
            **self.architecture,
            "backend": backend,
            "norm": norm,
            "fused": fused,
            "search_precision": search_precision,
        }
        self.metadata: dict[str, Any] = {}
        bias = True if bias_before_norm else None
        options: dict[str, Any] = {
            "backend": backend,
            "norm": norm,
            "bias": bias,
            "fused": fused,
            "search_precision": search_precision,
        }
        tnet_options = {**options, "add_identity": tnet_adds_identity}
        options["norm"] = norm if point_norm else None
        width = local_channels[-1]
        self.input_tnet = TNet(3, in_channels=tnet_channels, **tnet_options) if transforms else None
        self.local_mlp = SharedMLP(
            [in_channels, *local_channels],
            backend=backend,
            norm=options["norm"],
            bias=bias,
            fused=fused and "auto",
        )
        self.feature_tnet = TNet(width, **tnet_options) if transforms is True else None
        last_activation = "relu" if activation_before_max else None
        self.global_pool = SharedMLPMaxPool(
            [width, *global_channels],
            activation=[*["relu"] * (len(global_channels) - 1), last_activation],
            **options,
        )
        # Fully connected over the global feature: its positions are the clouds of the batch.
        self.head = SharedMLP(
            [global_channels[-1], *head_channels, num_classes],
            dropout=[*dropout, 0.0],
            dropout_before_norm=dropout_before_norm,
            norm=norm,
            bias=bias,
            plain_last=True,
        )

    def forward(self, points: Tensor) -> Tensor:
        """Returns the logits ``(B, num_classes)``."""
        features, _, _ = self._features(points)
        return self.head(self.global_pool(features))  # type: ignore[no-any-return]

    def forward_detailed(self, points: Tensor) -> PointNetOutput:
        """Returns the logits and what lies behind them, from one pass."""
        features, input_transform, feature_transform = self._features(points)
        global_feature, critical_indices = self.global_pool(features, return_indices=True)
        return PointNetOutput(
            logits=self.head(global_feature),
            global_feature=global_feature,
            critical_indices=critical_indices,
            input_transform=input_transform,
            feature_transform=feature_transform,
        )

    def extra_loss(self, output: PointNetOutput) -> Tensor | None:
        """Return the orthogonality penalty of the feature transform, None without one."""
        transform = output.feature_transform
        return None if transform is None else orthogonality_penalty(transform)

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> None:
        """Writes the folder that :meth:`from_pretrained` and the Hugging Face Hub read.

        That is ``model.safetensors``, ``config.json`` with the network's ``options`` and
        ``metadata``, and a model card in ``README.md`` where there is none.

        Args:
            save_directory: The folder; made where it is missing.
            **options: Further arguments of the method of this name of huggingface_hub's
                ``PyTorchModelHubMixin``, such as ``push_to_hub=True``.

        Raises:
            ImportError: If huggingface_hub is not installed.
        """
        from sharedmlp.models.hub import as_hub_model

        as_hub_model(self).save_pretrained(save_directory, **options)

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **options: Any) -> PointNet:
        """Makes the network that :meth:`save_pretrained` wrote.

        It is in evaluation mode, on the CPU, in torch's default dtype.

        Args:
            name_or_path: A folder, or the name of a repository on the Hugging Face Hub.
            **options: Arguments of this class that replace the saved ones, such as
                ``backend="conv2d"``, and those of the method of this name of huggingface_hub's
                ``PyTorchModelHubMixin``, such as ``revision``.

        Raises:
            ImportError: If huggingface_hub is not installed.
            RuntimeError: If the weights are not those of the network that the config describes.
        """
        from sharedmlp.models.hub import HubPointNet

        return HubPointNet.from_pretrained(name_or_path, **options)

    def _features(self, points: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Returns the features in front of the last shared MLP and the two transforms."""
        self._check_points(points)
        input_transform = feature_transform = None
        if self.input_tnet is not None:
            input_transform = self.input_tnet(points[..., : self.input_tnet.pool.in_channels])
            xyz, further = points[..., :3], points[..., 3:]
            points = torch.cat([xyz @ input_transform, further], dim=-1)
        features = self.local_mlp(points)
        if self.feature_tnet is not None:
            feature_transform = self.feature_tnet(features)
            features = features @ feature_transform
        return features, input_transform, feature_transform

    def _check_points(self, points: Tensor) -> None:
        shape = tuple(points.shape)
        if points.ndim != 3 or shape[2] != self.in_channels:
            hint = f"make the model with in_channels={shape[-1] if shape else 3}"
            if points.ndim == 3 and shape[1] == self.in_channels:
                hint = "swap points and channels with points.transpose(1, 2)"
            elif points.ndim == 2:
                hint = "add a batch dimension with points.unsqueeze(0)"
            raise ValueError(f"PointNet expected (B, N, {self.in_channels}), got {shape}: {hint}")
        if self.training and shape[0] < 2:
            raise ValueError(
                "PointNet in training mode expected at least two clouds, because batch norm in the "
                f"fully connected head is undefined for one, got {shape}: drop or merge a last "
                "batch of one, or call eval()"
            )


def orthogonality_penalty(transform: Tensor) -> Tensor:
    """How far transforms are from orthogonal: the mean over the batch of ``||I - A A^T||_F^2``.

    Source: Qi et al. 2017, section 4.2, equation 2; the paper adds it to the loss with weight
    0.001. Deviation: the mean over the batch, where the authors' program takes half the sum.

    Args:
        transform: ``(B, K, K)``.

    Returns:
        A scalar.
    """
    identity = torch.eye(transform.shape[-1], dtype=transform.dtype, device=transform.device)
    return (identity - transform @ transform.transpose(-1, -2)).square().sum((-1, -2)).mean()
