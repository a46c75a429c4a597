"""A shared MLP on features of points and of their clouds, without copying those to every point."""

from __future__ import annotations

from math import prod
from typing import cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from sharedmlp.layers.arguments import check_can_fuse
from sharedmlp.layers.pointwise import (
    PointwiseLayer,
    empty_input,
    layer_tensors,
    unknown_linear,
    unknown_parts,
)
from sharedmlp.layers.shared_mlp import SharedMLP
from sharedmlp.ops.fused import run_mlp
from sharedmlp.ops.gate import module_reasons, tensor_reasons, visible_reasons
from sharedmlp.ops.layer import fold
from sharedmlp.ops.plan import PLAIN, can_fold, make_plan

# For torch.fx, one node of a graph: what it does depends on the rank of the input.
fx.wrap("concatenate_features")


class LocalGlobalMLP(SharedMLP):
    """A `SharedMLP` on the local features of points, each followed by the feature of its cloud.

    The first layer is linear in both, `W [x_n, g] = W1 x_n + W2 g`: a product over points, as
    narrow as the local features are, and one over clouds give the numbers of the product over the
    concatenation, which is never made. Everything after that, the parameters and the state-dict
    keys are those of `SharedMLP`.

    Source: Qi et al. 2017, "PointNet", section 4.2, "Local and Global Information Aggregation", for
    the layer; the split is this project's own.

    Shape:
        - `channel_dim=-1`: local `(..., N, C)` and global `(..., E)` to `(..., N, out_channels)`.
        - `channel_dim=1`: local `(B, C, ..., N)` and global `(B, E, ...)` to
          `(B, out_channels, ..., N)`.

    Args:
        channels: Widths, as in `SharedMLP`; the first is C + E.
        fused: `"auto"` splits the first layer if nobody can notice, True always does and makes
            `not_supported_reasons` an error, False takes the concatenation.
        **options: Further arguments of `SharedMLP`.

    Raises:
        ValueError: As `SharedMLP`; if the shapes of local and global features do not fit.
    """

    def forward(self, x: Tensor, global_feature: Tensor | None = None) -> Tensor:
        """Apply the MLP to every point.

        Args:
            x: The local features; both, concatenated, if `global_feature` is missing.
            global_feature: One of each cloud.
        """
        if global_feature is None:
            return super().forward(x)
        if isinstance(x, fx.Proxy):
            return super().forward(concatenate_features(x, global_feature, self.channel_dim))
        local, of_cloud = _channels_last(x, global_feature, self.channel_dim)
        self._check_features(local, of_cloud)
        reasons = self._split_reasons(x, global_feature)
        check_can_fuse(self.fused, reasons)
        if not self.fused or reasons or x.numel() == 0:
            return super().forward(concatenate_features(x, global_feature, self.channel_dim))
        self._check_positions(prod(local.shape[:-1]), x)
        return self._split(local, of_cloud).movedim(-1, self.channel_dim)

    def not_supported_reasons(self, x: Tensor | None = None) -> list[str]:
        """Say in words why the first layer, as it is now, is not split; empty if it is.

        Args:
            x: Features to ask for; None asks for any on the module's own device and of its dtype.
        """
        x = empty_input(self, self.in_channels) if x is None else x
        return self._split_reasons(x, x)

    def _structural_reasons(self) -> list[str]:
        return unknown_linear(self.layers[0])

    def _split_reasons(self, x: Tensor, global_feature: Tensor) -> list[str]:
        must = self.fused is True
        reasons = visible_reasons(x, self.layers[:1], must=must) + tensor_reasons(global_feature)
        return list(dict.fromkeys(reasons)) or self._structural_reasons()

    def _check_features(self, local: Tensor, of_cloud: Tensor) -> None:
        """Refuse features of other numbers of clouds or channels than expected."""
        sizes = local.shape[-1], of_cloud.shape[-1]
        if local.shape[:-2] != of_cloud.shape[:-1]:
            raise ValueError(
                f"{type(self).__name__} expected one global feature for each cloud, got clouds "
                f"{tuple(local.shape[:-2])} and global features of {tuple(of_cloud.shape[:-1])}: "
                "local (..., N, C) goes with global (..., E), and with channel_dim=1 "
                "local (B, C, ..., N) with global (B, E, ...)"
            )
        if sum(sizes) != self.in_channels:
            raise ValueError(
                f"{type(self).__name__} expected {self.in_channels} channels in local and global "
                f"features together, got {sizes[0]} and {sizes[1]}: make the first of channels "
                f"{sum(sizes)}, or move the channels to their place"
            )

    def _split(self, local: Tensor, of_cloud: Tensor) -> Tensor:
        """Apply the MLP to `(..., N, C)` and `(..., E)`, the first layer in two parts."""
        first, *rest = self._pointwise()
        width = local.shape[-1]
        folded = not torch.is_grad_enabled() and _can_fold([first, *rest])
        if folded:
            weight, bias = fold(layer_tensors(first))
        else:
            linear = cast(nn.Linear, first.linear)
            weight, bias = linear.weight.flatten(1), linear.bias
        y = functional.linear(local, weight[:, :width])
        # In place: the product is needed by nobody.
        y.add_(functional.linear(of_cloud, weight[:, width:], bias)[..., None, :])
        if folded:
            y = layer_tensors(first).activation(y)
            tensors = [layer_tensors(layer) for layer in rest]
            plan = make_plan(tensors, prod(y.shape[:-1]), None) if rest else PLAIN
            z = run_mlp(plan, y.flatten(0, -2)) if plan.path == "fold" else None
            if z is not None:
                return z.view(*y.shape[:-1], -1)
        positions = y.shape[:-1]
        y = self._layout.enter(y, -1)
        if not folded:
            y = first.forward_after_linear(y)
        for layer in rest:
            y = layer(y)
        return self._layout.leave(y, positions, -1)


def concatenate_features(x: Tensor, global_feature: Tensor, channel_dim: int) -> Tensor:
    """Return the features of the points, each followed by the feature of its cloud."""
    local, of_cloud = _channels_last(x, global_feature, channel_dim)
    copies = of_cloud[..., None, :].expand(*local.shape[:-1], -1)
    return torch.cat([local, copies], -1).movedim(-1, channel_dim)


def _channels_last(x: Tensor, global_feature: Tensor, channel_dim: int) -> tuple[Tensor, Tensor]:
    """Return local features `(..., N, C)` and global ones `(..., E)`."""
    return x.movedim(channel_dim, -1), global_feature.movedim(channel_dim, -1)


def _can_fold(layers: list[PointwiseLayer]) -> bool:
    """Whether layers are affine maps and activations that nobody watches."""
    if any(module_reasons(layer) or unknown_parts(layer) for layer in layers):
        return False
    return all(can_fold(layer_tensors(layer)) for layer in layers)
