"""A pointwise layer on its way: what has been asked of it, and how to run all of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from sharedmlp.fusion.deferred import Pending
from sharedmlp.fusion.report import Site
from sharedmlp.layers.folded import can_fold
from sharedmlp.layers.fused import can_fuse_hidden_layer
from sharedmlp.layers.pointwise import PointwiseLayer

_Module = TypeVar("_Module", bound=nn.Module)


@dataclass
class NormCall:
    """The arguments of a call of ``F.batch_norm``."""

    running_mean: Tensor | None
    running_var: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    training: bool
    momentum: float
    eps: float

    def __post_init__(self) -> None:
        # Whether the running statistics have yet to be moved.
        self.owes = self.training and self.running_mean is not None

    def __call__(self, x: Tensor) -> Tensor:
        """Runs the call; after the first run the running statistics stay where they are."""
        move = self.owes or not self.training
        self.owes = False
        return functional.batch_norm(
            x,
            self.running_mean if move else None,
            self.running_var if move else None,
            self.weight,
            self.bias,
            self.training,
            self.momentum,
            self.eps,
        )

    def module(self) -> nn.BatchNorm1d:
        """A module of the same parameters and running statistics."""
        tracked = (self.running_mean, self.running_var)
        # As torch's own kernel, this moves statistics that autograd has saved for another call.
        mean, variance = (None if t is None else t.data for t in tracked)
        return _bare(
            nn.BatchNorm1d,
            **{**vars(self), "running_mean": mean, "running_var": variance},
            # A counter of its own: the network's module has counted this batch.
            num_batches_tracked=torch.zeros((), dtype=torch.int64),
        )


@dataclass(frozen=True)
class LayerCall:
    """A pointwise layer as far as it has been asked for: linear map, batch norm, activation."""

    site: Site
    weight: Tensor
    bias: Tensor | None
    norm: NormCall | None = None
    activation: nn.Module | None = None

    @cached_property
    def module(self) -> PointwiseLayer:
        """The layer as the fused functions take it, of the very same parameters."""
        return _bare(
            PointwiseLayer,
            linear=_bare(nn.Linear, weight=self.weight, bias=self.bias),
            norm=None if self.norm is None else self.norm.module(),
            activation=self.activation,
            dropout=None,
            dropout_before_norm=False,
        )

    def can_run_inside(self) -> bool:
        """Whether it can be a part of the fused layer that follows it, as it is now."""
        norm = self.norm
        if norm is None:
            return False
        if norm.training:
            first = norm.owes or norm.running_mean is None  # a second run would move them again
            return first and can_fuse_hidden_layer(self.module)
        return not torch.is_grad_enabled() and can_fold(self.module)


class LayerOutput(Pending):
    """The output of a pointwise layer that has not been computed.

    Attributes:
        layer: What has been asked for so far.
        inputs: What the layer is applied to.
        channel: The axis of the channels.
        arrange: Takes a tensor of the inputs' axes to this output's, whatever its channels are.
        shares_memory: Whether the plain value would be a view, or has one.
        pooled: What maxima of it have been taken, by their axes.
    """

    def __init__(
        self,
        operation: Callable[[Tensor], Tensor],
        source: Pending | Tensor,
        shape: Sequence[int],
        parameters: Sequence[Tensor | None] = (),
        *,
        layer: LayerCall,
        inputs: Pending | Tensor,
        channel: int,
        arrange: Callable[[Tensor], Tensor] = lambda x: x,
        shares_memory: bool = False,
    ) -> None:
        super().__init__(operation, source, shape, parameters)
        self.layer = layer
        self.inputs = inputs
        self.channel = channel
        self.arrange = arrange
        self.shares_memory = shares_memory
        self.pooled: dict[tuple[int, ...], tuple[Tensor, Tensor | Pending]] = {}

    def then(
        self,
        operation: Callable[[Tensor], Tensor],
        parameters: Sequence[Tensor | None] = (),
        **parts: Any,  # noqa: ANN401
    ) -> LayerOutput:
        """The output after batch norm or the activation, which becomes a part of the layer."""
        return LayerOutput(
            operation,
            self,
            self.shape,
            parameters,
            layer=replace(self.layer, **parts),
            inputs=self.inputs,
            channel=self.channel,
            arrange=self.arrange,
        )

    def moved(
        self,
        operation: Callable[[Tensor], Tensor],
        shape: Sequence[int],
        channel: int,
        arrange: Callable[[Tensor], Tensor],
    ) -> LayerOutput:
        """The output with its axes moved; ``arrange`` does the same whatever the channels are."""
        earlier = self.arrange
        self.shares_memory = True
        return LayerOutput(
            operation,
            self,
            shape,
            layer=self.layer,
            inputs=self.inputs,
            channel=channel,
            arrange=lambda x: arrange(earlier(x)),
            shares_memory=True,
        )

    def is_whole(self) -> bool:
        """Whether nobody has needed a value between the inputs and this output."""
        step: Pending | Tensor | None = self
        while isinstance(step, Pending) and step is not self.inputs:
            if step.value is not None:
                return False
            step = step.source
        return True

    def read_source(self, reader: str) -> Tensor:
        """As :meth:`Pending.read_source`; notes why the layer runs plainly."""
        site = self.layer.site
        site.reason = site.reason or f"its output is read by {reader}"
        return super().read_source(site.layer if self.source is self.inputs else reader)


def _bare(kind: type[_Module], **attributes: Any) -> _Module:  # noqa: ANN401
    """Makes a module out of its attributes alone; in a fraction of the time of setting them."""
    module = kind.__new__(kind)
    nn.Module.__init__(module)
    for name, value in attributes.items():
        if isinstance(value, nn.Module):
            module._modules[name] = value
        elif isinstance(value, nn.Parameter):
            module._parameters[name] = value
        else:
            vars(module)[name] = value
    return module
