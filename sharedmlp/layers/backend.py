"""The three backends of a pointwise layer, each described once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sharedmlp.layers.layout import ChannelsFirst, ChannelsLast, Layout
from sharedmlp.layers.sync_norm import SyncBatchNorm


class ChannelsFirstLayerNorm(nn.LayerNorm):
    """Layer norm over dimension 1: each position is normalized over its channels.

    `nn.GroupNorm(1, C)` is not the same: it also averages over the positions.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalize `(B, C, ...)` over C."""
        variance, mean = torch.var_mean(input, dim=1, correction=0, keepdim=True)
        y = (input - mean) * torch.rsqrt(variance + self.eps)
        if self.elementwise_affine:
            shape = (1, -1, *[1] * (input.ndim - 2))
            y = y * self.weight.view(shape)
            if self.bias is not None:
                y = y + self.bias.view(shape)
        return y


@dataclass(frozen=True)
class Backend:
    """One way to write a pointwise layer: all facts of it.

    Attributes:
        name: The value of the `backend` argument.
        torch_class: Of the pointwise linear map; called with the widths, `linear_options`, `bias`.
        layout: The layout in which its modules work, with their channel dimension and their rank.
        norms: The value of the `norm` argument -> the module class, called with the channels.
        linear_options: Further arguments of the torch class.
    """

    name: str
    torch_class: type[nn.Module]
    layout: Layout
    norms: Mapping[str, type[nn.Module]]
    linear_options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def channel_dim(self) -> int:
        """Where its torch class has the channels: -1 or 1."""
        return self.layout.channel_dim

    @property
    def spatial_dims(self) -> int:
        """How many axes of positions its torch class takes after the channels; 0 if any before."""
        return self.layout.spatial_dims


BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        Backend(
            name="linear",
            torch_class=nn.Linear,
            layout=ChannelsLast("BNC"),
            norms={"batch": nn.BatchNorm1d, "sync_batch": SyncBatchNorm, "layer": nn.LayerNorm},
        ),
        Backend(
            name="conv1d",
            torch_class=nn.Conv1d,
            layout=ChannelsFirst("BCN", spatial_dims=1),
            norms={
                "batch": nn.BatchNorm1d,
                "sync_batch": SyncBatchNorm,
                "layer": ChannelsFirstLayerNorm,
            },
            linear_options={"kernel_size": 1},
        ),
        Backend(
            name="conv2d",
            torch_class=nn.Conv2d,
            layout=ChannelsFirst("BCHW", spatial_dims=2),
            norms={
                "batch": nn.BatchNorm2d,
                "sync_batch": SyncBatchNorm,
                "layer": ChannelsFirstLayerNorm,
            },
            linear_options={"kernel_size": 1},
        ),
    )
}
# The values of the `norm` argument that mean batch norm.
BATCH_NORMS = ("batch", "sync_batch")


def get_backend(name: str) -> Backend:
    """Look a backend up.

    Raises:
        ValueError: If it is missing.
    """
    if name not in BACKENDS:
        raise ValueError(f"unknown backend {name!r}: choose one of {', '.join(BACKENDS)}")
    return BACKENDS[name]


def enter_layout(x: Tensor, backend: str, channel_dim: int) -> Tensor:
    """Move a public tensor to a backend's layout; one node in a graph of torch.fx."""
    return get_backend(backend).layout.enter(x, channel_dim)


def leave_layout(y: Tensor, x: Tensor, backend: str, channel_dim: int) -> Tensor:
    """Move a tensor back to the layout and the positions of `x`; one node in a graph."""
    dim = channel_dim % x.ndim
    positions = (*x.shape[:dim], *x.shape[dim + 1 :])
    return get_backend(backend).layout.leave(y, positions, channel_dim)


def pointwise_linear(
    backend: Backend, in_channels: int, out_channels: int, bias: bool
) -> nn.Module:
    """Make a backend's linear map; it loads the weights of every other backend's."""
    module = backend.torch_class(in_channels, out_channels, **backend.linear_options, bias=bias)
    module.register_load_state_dict_pre_hook(reshape_weight)  # type: ignore[no-untyped-call]
    return module


def reshape_weight(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: object) -> None:
    """Reshape `(O, I)`, `(O, I, 1)`, `(O, I, 1, 1)`, ... into each other while loading.

    Anything else is left alone, so that torch reports it as a size mismatch.
    """
    key = f"{prefix}weight"
    weight, loaded = getattr(module, "weight"), state_dict.get(key)  # noqa: B009
    if isinstance(loaded, Tensor) and without_kernel(loaded.shape) == weight.shape[:2]:
        state_dict[key] = loaded.reshape(weight.shape)


def without_kernel(shape: torch.Size) -> torch.Size | None:
    """Return `(O, I)` of a pointwise weight's shape, None of any other."""
    ranks = [2 + backend.spatial_dims for backend in BACKENDS.values()]
    return shape[:2] if len(shape) in ranks and all(s == 1 for s in shape[2:]) else None
