"""A pointwise layer on its way: what has been asked of it, and how to run all of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sharedmlp.fusion.lazy_tensor import LazyValue
from sharedmlp.fusion.report import CallRecord
from sharedmlp.ops.layer import Activation, BatchNorm, PointwiseTensors
from sharedmlp.ops.plan import can_fold, hidden_reasons


@dataclass
class NormCall:
    """The arguments of a call of `F.batch_norm`."""

    running_mean: Tensor | None
    running_var: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    training: bool
    momentum: float
    eps: float

    def __post_init__(self) -> None:
        # Whether the running statistics have yet to be moved.
        self.update_pending = self.training and self.running_mean is not None

    def __call__(self, x: Tensor) -> Tensor:
        """Run the call; only the first run updates the running statistics."""
        move = self.update_pending or not self.training
        self.update_pending = False
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

    def tensors(self) -> BatchNorm:
        """Return the call as the fused paths read it; the module has counted the batch."""
        return BatchNorm(
            self.weight,
            self.bias,
            self.running_mean,
            self.running_var,
            None,
            self.training,
            self.momentum,
            self.eps,
        )


@dataclass(frozen=True)
class LayerCall:
    """A pointwise layer as far as it has been asked for: linear map, batch norm, activation."""

    record: CallRecord
    weight: Tensor
    bias: Tensor | None
    norm: NormCall | None = None
    activation: Activation = Activation()  # noqa: RUF009 - a tuple of constants

    @cached_property
    def tensors(self) -> PointwiseTensors:
        """The layer as the fused paths read it."""
        norm = None if self.norm is None else self.norm.tensors()
        return PointwiseTensors(self.weight.flatten(1), self.bias, norm, self.activation)

    def can_run_inside(self) -> bool:
        """Whether it can be a part of the fused layer that follows it, as it is now."""
        norm = self.norm
        if norm is None:
            return False
        if norm.training:
            first = (
                norm.update_pending or norm.running_mean is None
            )  # a second run would move them again
            return first and not hidden_reasons(self.tensors)
        return not torch.is_grad_enabled() and can_fold(self.tensors)


class LayerOutput(LazyValue):
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
        source: LazyValue | Tensor,
        shape: Sequence[int],
        parameters: Sequence[Tensor | None] = (),
        *,
        dtype: torch.dtype,
        layer: LayerCall,
        inputs: LazyValue | Tensor,
        channel: int,
        arrange: Callable[[Tensor], Tensor] = lambda x: x,
        shares_memory: bool = False,
    ) -> None:
        super().__init__(operation, source, shape, parameters, dtype=dtype)
        self.layer = layer
        self.inputs = inputs
        self.channel = channel
        self.arrange = arrange
        self.shares_memory = shares_memory
        self.pooled: dict[tuple[int, ...], tuple[Tensor, Tensor | LazyValue]] = {}

    def then(
        self,
        operation: Callable[[Tensor], Tensor],
        parameters: Sequence[Tensor | None] = (),
        **parts: Any,
    ) -> LayerOutput:
        """Return the output after batch norm or the activation, as a part of the layer."""
        return LayerOutput(
            operation,
            self,
            self.shape,
            parameters,
            dtype=self.dtype,
            layer=replace(self.layer, **parts),
            inputs=self.inputs,
            channel=self.channel,
            arrange=self.arrange,
        )

    def viewed(
        self,
        operation: Callable[[Tensor], Tensor],
        shape: Sequence[int],
        channel: int,
        arrange: Callable[[Tensor], Tensor],
    ) -> LayerOutput:
        """Return the output with its axes moved; `arrange` does so for any number of channels."""
        earlier = self.arrange
        self.shares_memory = True
        return LayerOutput(
            operation,
            self,
            shape,
            dtype=self.dtype,
            layer=self.layer,
            inputs=self.inputs,
            channel=channel,
            arrange=lambda x: arrange(earlier(x)),
            shares_memory=True,
        )

    def is_uncomputed(self) -> bool:
        """Whether nobody has needed a value between the inputs and this output."""
        step: LazyValue | Tensor | None = self
        while isinstance(step, LazyValue) and step is not self.inputs:
            if step.value is not None:
                return False
            step = step.source
        return True

    def read_source(self, reader: str) -> Tensor:
        """As `LazyValue.read_source`; record why the layer runs plainly."""
        record = self.layer.record
        record.reason = record.reason or f"its output is read by {reader}"
        return super().read_source(record.layer if self.source is self.inputs else reader)
