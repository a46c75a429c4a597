"""Pointwise modules that run on one backend and are called as on another."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharedmlp.convert.module_state import copy_module_state
from sharedmlp.layers.backend import BACKENDS, Backend, pointwise_linear, reshape_weight

TORCH_CLASSES: dict[str, type[nn.Module]] = {
    "linear": nn.Linear,
    "conv1d": nn.Conv1d,
    "conv2d": nn.Conv2d,
}
# What the torch module of each backend takes; that of a convolution also without the batch.
_CHANNEL_DIM = {"linear": -1, "conv1d": 1, "conv2d": 1}
_SHAPES = {
    "linear": "(..., {c})",
    "conv1d": "(B, {c}, N) or ({c}, N)",
    "conv2d": "(B, {c}, H, W) or ({c}, H, W)",
}
_BATCHED_NDIM = {"conv1d": 3, "conv2d": 4}


class Adapted(nn.Module):
    """What the three adapted modules share: the way there and back.

    Its parent feeds it what the torch module of the backend `interface` takes, and gets the same
    back: `(..., C)`, `(B, C, N)` or `(C, N)`, `(B, C, H, W)` or `(C, H, W)`. In between
    the torch module runs that it is a subclass of. The output is contiguous, as a parent that calls
    `view` expects. Empty inputs are fine.

    Attributes:
        interface: The name of the backend as whose module it is called.
        in_features, in_channels, out_features, out_channels: The widths, under the names of either
            kind of module.
    """

    runs_on: ClassVar[str]
    interface: str
    in_features: int
    in_channels: int
    out_features: int
    out_channels: int
    weight: Tensor

    def forward(self, input: Tensor) -> Tensor:
        """Apply the linear map at every position."""
        channel_dim = _CHANNEL_DIM[self.interface]
        self._check_input(input)
        unbatched = input.ndim + 1 == _BATCHED_NDIM.get(self.interface)
        x = input.unsqueeze(0) if unbatched else input
        if x.numel() == 0:  # a convolution refuses an axis of size zero
            bias = cast("Tensor | None", self.bias)
            y = F.linear(x.movedim(channel_dim, -1), self.weight.flatten(1), bias)
            y = y.movedim(-1, channel_dim)
        else:
            layout = BACKENDS[self.runs_on].layout
            positions = list(x.shape)
            del positions[channel_dim]
            y = super().forward(layout.enter(x, channel_dim))
            y = layout.leave(y, tuple(positions), channel_dim)
        y = y.contiguous()
        return y.squeeze(0) if unbatched else y

    def extra_repr(self) -> str:
        """Show the arguments of the torch module, and the interface."""
        return f"{super().extra_repr()}, interface={self.interface!r}"

    def _set_interface(self, interface: str, in_channels: int, out_channels: int) -> None:
        self.interface = interface
        self.in_features = self.in_channels = in_channels
        self.out_features = self.out_channels = out_channels

    def _check_input(self, x: Tensor) -> None:
        ndim = _BATCHED_NDIM.get(self.interface)
        fits = x.ndim >= 1 if ndim is None else x.ndim in (ndim - 1, ndim)
        # Counted from the end, the channels' dimension is the same with a batch and without.
        channel_dim = -1 if ndim is None else 1 - ndim
        if not fits or x.shape[channel_dim] != self.in_channels:
            shape = _SHAPES[self.interface].format(c=self.in_channels)
            raise ValueError(
                f"{type(self).__name__} expected {shape}, as the {self.interface} module that it "
                f"stands for, got {tuple(x.shape)}: move the channels to their place"
            )


class AdaptedLinear(Adapted, nn.Linear):
    """Runs on `nn.Linear`, is called as a convolution with kernel 1."""

    runs_on = "linear"

    def __init__(self, interface: str, in_channels: int, out_channels: int, bias: bool) -> None:
        nn.Linear.__init__(self, in_channels, out_channels, bias=bias)
        self._set_interface(interface, in_channels, out_channels)


class AdaptedConv1d(Adapted, nn.Conv1d):
    """Runs on `nn.Conv1d`, is called as `nn.Linear` or as an `nn.Conv2d`."""

    runs_on = "conv1d"

    def __init__(self, interface: str, in_channels: int, out_channels: int, bias: bool) -> None:
        nn.Conv1d.__init__(self, in_channels, out_channels, 1, bias=bias)
        self._set_interface(interface, in_channels, out_channels)


class AdaptedConv2d(Adapted, nn.Conv2d):
    """Runs on `nn.Conv2d`, is called as `nn.Linear` or as an `nn.Conv1d`."""

    runs_on = "conv2d"

    def __init__(self, interface: str, in_channels: int, out_channels: int, bias: bool) -> None:
        nn.Conv2d.__init__(self, in_channels, out_channels, 1, bias=bias)
        self._set_interface(interface, in_channels, out_channels)


_ADAPTED: dict[str, Any] = {
    cls.runs_on: cls for cls in (AdaptedLinear, AdaptedConv1d, AdaptedConv2d)
}


def interface_of(module: nn.Module) -> str:
    """Return the name of the backend as whose module a pointwise module is called."""
    if isinstance(module, Adapted):
        return module.interface
    return next(name for name, cls in TORCH_CLASSES.items() if isinstance(module, cls))


def make_on_backend(module: nn.Module, backend: Backend, interface: str) -> nn.Module:
    """Make the module with the numbers of another that runs on a backend, called as on another.

    Where the interface is the backend's own, it is the plain torch module.
    """
    weight = module.get_parameter("weight")
    out_channels, in_channels = weight.shape[:2]
    bias = module.bias is not None
    new: Any
    with torch.device("meta"):
        if interface == backend.name:
            new = pointwise_linear(backend, in_channels, out_channels, bias)
        else:
            new = _ADAPTED[backend.name](interface, in_channels, out_channels, bias)
            new.register_load_state_dict_pre_hook(reshape_weight)
    adapted: nn.Module = copy_module_state(module, new, weight.reshape(new.weight.shape))
    return adapted
