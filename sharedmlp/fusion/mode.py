"""Watch what a network asks torch for, and defer the pointwise layers."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from sharedmlp.fusion.layer_output import LayerCall, LayerOutput, NormCall
from sharedmlp.fusion.lazy_tensor import (
    METADATA,
    LazyTensor,
    LazyValue,
    lazy_value_of,
    name_of,
    read,
    read_all,
)
from sharedmlp.fusion.mutation import may_mutate, memory_address, tensors_in
from sharedmlp.fusion.pointwise import (
    ACTIVATIONS,
    CONVOLUTIONS,
    is_pointwise,
    not_deferred_reason,
)
from sharedmlp.fusion.pooling import MAXIMA
from sharedmlp.fusion.report import CallRecord
from sharedmlp.fusion.view_ops import VIEW_OPS
from sharedmlp.ops.gate import result_dtype_of
from sharedmlp.ops.layer import Activation


class FusionMode(TorchFunctionMode):
    """A mode in which pointwise layers are deferred, for the time of one forward pass.

    Args:
        names: The names of the layers by the `id` of their weights.
        plain: Names of layers to run as they are, with the reasons.

    Attributes:
        records: The pointwise layers that were called, in order.
    """

    def __init__(self, names: dict[int, str], plain: dict[str, str]) -> None:
        super().__init__()
        self.records: list[CallRecord] = []
        self._names = names
        self._plain = plain
        self._alive: list[weakref.ref[LazyTensor]] = []
        self._not_updated: list[LayerOutput] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Defer what can be deferred and run everything else; inside, the mode is off."""
        kwargs = kwargs or {}
        if func in METADATA:
            return func(*args, **kwargs)
        result = self._defer(func, args, kwargs)
        if result is not NotImplemented:
            return result
        if LazyTensor in types:
            args, kwargs = read_all((args, kwargs), name_of(func))
        self._compute_before(func, args, kwargs)
        return func(*args, **kwargs)

    def update_statistics(self) -> None:
        """Update the running statistics for which nobody has asked."""
        for output in self._not_updated:
            if _has_pending_update(output):
                output.read("nothing")
        self._not_updated = []

    def compute_kept(self) -> None:
        """Compute what somebody keeps after the forward pass."""
        for reference in self._alive:
            read(reference(), "somebody after the forward pass")

    def _wrap(self, lazy: LazyValue) -> LazyTensor:
        tensor = LazyTensor.of(lazy)
        self._alive.append(weakref.ref(tensor))
        return tensor

    def _defer(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Defer a call, if it can be; NotImplemented if it has to run."""
        kwargs = {_ALIASES.get(name, name): value for name, value in kwargs.items()}
        if "input" in kwargs and not args:
            args = (kwargs.pop("input"),)
        if not args or not kwargs.keys() <= _KEYWORDS:
            return NotImplemented
        if func is functional.linear:
            return self._linear(*args, **kwargs)
        if func in CONVOLUTIONS:
            return self._convolution(func, *args, **kwargs)
        tensor, *rest = args
        y = lazy_value_of(tensor)
        if not isinstance(y, LayerOutput):
            return NotImplemented
        if func is functional.batch_norm:
            return self._batch_norm(y, *rest, **kwargs)
        if func in ACTIVATIONS:
            in_place = kwargs.pop("inplace", False) or name_of(func).endswith("_")
            return self._activation(tensor, y, ACTIVATIONS[func](*rest, **kwargs), in_place)
        if func in VIEW_OPS:
            view = VIEW_OPS[func](y, func, *rest, **kwargs)
            if view is None:
                return NotImplemented
            return self._wrap(y.viewed(lambda x: func(x, *rest, **kwargs), *view))
        if func in MAXIMA:
            result = MAXIMA[func](y, *rest, **kwargs)
            if not isinstance(result, tuple):
                return result
            values, indices = result
            indices = self._wrap(indices) if isinstance(indices, LazyValue) else indices
            return torch.return_types.max((values, indices))
        return NotImplemented

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
        if weight.ndim != 2 or x.ndim < 2:
            return NotImplemented
        return self._pointwise(functional.linear, x, weight, bias, x.ndim - 1)

    def _convolution(
        self,
        func: Callable[..., Tensor],
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Any:
        if x.ndim != weight.ndim or not is_pointwise(weight, stride, padding, groups):
            return NotImplemented
        return self._pointwise(func, x, weight, bias, 1)

    def _pointwise(
        self,
        func: Callable[..., Tensor],
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        channel: int,
    ) -> Any:
        out_channels, in_channels = weight.shape[:2]
        name = self._names.get(id(weight), f"a layer of {in_channels} to {out_channels} channels")
        record = CallRecord(name)
        self.records.append(record)
        record.reason = self._plain.get(name) or not_deferred_reason(x, weight, bias, channel)
        if record.reason is not None:
            return NotImplemented
        y = lazy_value_of(x)
        inputs: LazyValue | Tensor
        if (
            isinstance(y, LayerOutput)
            and y.channel == channel
            and y.grad_mode == torch.is_grad_enabled()
            and y.layer.can_run_inside()
        ):
            inputs = y
        else:
            inputs = read(x, name)
        shape = list(x.shape)
        shape[channel] = out_channels
        return self._wrap(
            LayerOutput(
                lambda x: func(x, weight, bias),
                inputs,
                shape,
                (weight, bias),
                dtype=result_dtype_of(weight),
                layer=LayerCall(record, weight, bias),
                inputs=inputs,
                channel=channel,
            )
        )

    def _batch_norm(
        self,
        y: LayerOutput,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Any:
        tensors = (running_mean, running_var, weight, bias)
        given = [t for t in tensors if t is not None]
        statistics, affine = tensors[:2], tensors[2:]
        channels = y.shape[y.channel]
        fits = (
            y.layer.norm is None
            and y.layer.activation.name == "identity"
            and y.channel == 1
            and all(t.shape == (channels,) and t.dtype == y.layer.weight.dtype for t in given)
            and all(type(t) is nn.Parameter for t in affine if t is not None)
            and sum(t is None for t in statistics) in (0, 2)
            and sum(t is None for t in affine) in (0, 2)
            and (y.shape.numel() > channels if training else running_mean is not None)
        )
        if not fits:
            return NotImplemented
        self._compute_before(functional.batch_norm, tensors, {})
        norm = NormCall(running_mean, running_var, weight, bias, training, momentum, eps)
        output = y.then(norm, affine, norm=norm)
        if norm.update_pending:
            self._not_updated.append(output)
        return self._wrap(output)

    def _activation(
        self, x: LazyTensor, y: LayerOutput, activation: Activation, in_place: bool
    ) -> Any:
        if y.layer.activation.name != "identity" or (in_place and y.shares_memory):
            return NotImplemented
        output = y.then(lambda x: activation(x), activation=activation)
        if not in_place:
            return self._wrap(output)
        x.cell.lazy = output
        return x

    def _compute_before(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
    ) -> None:
        """Compute first what would differ, or would be seen too late, after a call."""
        self._not_updated = [output for output in self._not_updated if _has_pending_update(output)]
        mutates = may_mutate(func, kwargs)
        if not self._not_updated and not mutates:
            return
        tensors = list(tensors_in((*args, *kwargs.values())))
        for output in self._not_updated:
            norm = output.layer.norm
            assert norm is not None
            if any(t is norm.running_mean or t is norm.running_var for t in tensors):
                output.read(f"{name_of(func)} by way of its running statistics")
        if mutates:
            written = {memory_address(t) for t in tensors}
            kept = [(t, lazy_value_of(t())) for t in self._alive]
            self._alive = [reference for reference, lazy in kept if lazy is not None]
            for lazy in (*self._not_updated, *(lazy for _, lazy in kept)):
                if lazy is not None and any(memory_address(t) in written for t in lazy.reads()):
                    lazy.read(f"{name_of(func)}, which writes over its input")


# torch takes NumPy's names as well.
_ALIASES = {"axis": "dim", "keepdims": "keepdim"}


_RULES: tuple[Callable[..., Any], ...] = (
    FusionMode._convolution,
    FusionMode._batch_norm,
    *MAXIMA.values(),
)
# With any other keyword a call is left to torch.
_KEYWORDS = frozenset(("input", "inplace", "negative_slope")).union(
    *(signature(rule).parameters for rule in _RULES)
)


def _has_pending_update(output: LayerOutput) -> bool:
    return output.layer.norm is not None and output.layer.norm.update_pending
