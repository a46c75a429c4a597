"""PointNet with what other people's code of that name does otherwise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sharedmlp.layers import SharedMLP, SharedMLPMaxPool, TNet
from sharedmlp.models.pointnet import PointNet, PointNetOutput
from sharedmlp.models.registry import THIRD_PARTY, register_model

# The options of `ThirdPartyPointNet` with which it is a `PointNet`.
DEFAULTS: dict[str, Any] = {
    "tnet_channels": 3,
    "tnet_adds_identity": False,
    "bias_before_norm": False,
    "point_norm": True,
    "activation_before_max": True,
    "dropout_before_norm": False,
}


@register_model("pointnet_third_party", tags=("pointnet", THIRD_PARTY))
class ThirdPartyPointNet(PointNet):
    """A PointNet with the options that other people's weights need; see `load_weights`.

    Args:
        num_classes: As of `PointNet`.
        in_channels: As of `PointNet`.
        tnet_channels: How many channels of a point the input T-Net sees; it turns the first three.
        tnet_adds_identity: `add_identity` of both T-Nets.
        bias_before_norm: Whether linear maps have a bias before a batch norm, too.
        point_norm: Whether the shared MLPs outside the T-Nets have a norm; the rest always has.
        activation_before_max: Whether the last shared layer has its activation.
        dropout_before_norm: Of `SharedMLP`, for the head.
        **options: Further arguments of `PointNet`.

    Raises:
        ValueError: As `PointNet`.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
        tnet_channels: int = 3,
        tnet_adds_identity: bool = False,
        bias_before_norm: bool = False,
        point_norm: bool = True,
        activation_before_max: bool = True,
        dropout_before_norm: bool = False,
        **options: Any,
    ) -> None:
        if not 3 <= tnet_channels <= in_channels:
            raise ValueError(
                f"tnet_channels is 3 (x, y, z) to in_channels={in_channels}, got {tnet_channels}"
            )
        # Set first, because the constructor of the base class makes the layers.
        self._differences: dict[str, Any] = {
            "tnet_channels": tnet_channels,
            "tnet_adds_identity": tnet_adds_identity,
            "bias_before_norm": bias_before_norm,
            "point_norm": point_norm,
            "activation_before_max": activation_before_max,
            "dropout_before_norm": dropout_before_norm,
        }
        super().__init__(num_classes, in_channels, **options)
        self.architecture.update(self._differences)
        self.options.update(self._differences)

    def critical_points(self, output: PointNetOutput) -> Tensor:
        """Return the distinct points of one cloud that won a channel; see `PointNet`."""
        if self._differences["activation_before_max"]:
            return super().critical_points(output)
        # A negative maximum has a winner, too.
        winners: Tensor = torch.unique(output.critical_indices)
        return winners

    def _make_input_tnet(self, **options: Any) -> TNet:
        return super()._make_input_tnet(in_channels=self._differences["tnet_channels"], **options)

    def _make_tnet(self, dim: int, **options: Any) -> TNet:
        add_identity = self._differences["tnet_adds_identity"]
        return super()._make_tnet(dim, bias=self._bias, add_identity=add_identity, **options)

    def _make_local_mlp(self, **options: Any) -> SharedMLP:
        return super()._make_local_mlp(bias=self._bias, norm=self._point_norm, **options)

    def _make_global_pool(self, **options: Any) -> SharedMLPMaxPool:
        activations: list[str | None] = ["relu"] * len(self.architecture["global_channels"])
        if not self._differences["activation_before_max"]:
            activations[-1] = None
        return super()._make_global_pool(
            bias=self._bias, norm=self._point_norm, activation=activations, **options
        )

    def _make_head(self, **options: Any) -> nn.Module:
        before_norm = self._differences["dropout_before_norm"]
        return super()._make_head(bias=self._bias, dropout_before_norm=before_norm, **options)

    @property
    def _bias(self) -> bool | None:
        return True if self._differences["bias_before_norm"] else None

    @property
    def _point_norm(self) -> str | None:
        return self.options["norm"] if self._differences["point_norm"] else None


def network_of(options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the registered name, and the options of that network, for any options of a PointNet.

    A `PointNet` if it can be one; so were described all networks in files without a name.
    """
    if any(options.get(name, default) != default for name, default in DEFAULTS.items()):
        return "pointnet_third_party", options
    return "pointnet", {name: value for name, value in options.items() if name not in DEFAULTS}
