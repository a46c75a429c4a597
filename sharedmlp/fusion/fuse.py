"""Make a network run its pointwise layers in one with the max that follows them."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, SupportsIndex, TypeVar, cast

import torch
from torch import nn

from sharedmlp.fusion.lazy_tensor import read_all
from sharedmlp.fusion.mode import FusionMode
from sharedmlp.fusion.report import LayerReport
from sharedmlp.ops import torch_internals
from sharedmlp.ops.gate import watcher_reason

_Model = TypeVar("_Model", bound=nn.Module)
# Of each thread: whether a fused network is running in it.
_running = threading.local()
_fused_classes: dict[type[nn.Module], type[nn.Module]] = {}


class _State:
    """What a fused network keeps from one forward pass to the next.

    Attributes:
        plain: Names of layers that were fused and whose values were needed all the same, with the
            reasons: they run plainly from then on.
        report: What became of the layers in the last forward pass.
    """

    def __init__(self) -> None:
        self.plain: dict[str, str] = {}
        self.report: tuple[LayerReport, ...] | None = None


def fuse(model: _Model) -> _Model:
    """Make a network run pointwise layer, batch norm, activation and max over points fused.

    For any module: its code runs as it is, in training and in evaluation, with the same outputs,
    gradients and running statistics (`sharedmlp.fusion` says how). The pattern is a linear
    layer or a convolution with kernel 1, then batch norm or none, then ReLU, LeakyReLU, tanh,
    sigmoid or none, as modules or functions, in place or not, then `torch.max(x, dim)`, `amax`,
    `F.max_pool1d` or `F.max_pool2d` over a whole axis, or `F.adaptive_max_pool1d` or
    `F.adaptive_max_pool2d` to 1. Hidden layers before it join in where they can. Axes may be
    moved in between. Everything else runs as before, such as the pattern in compiled, exported or
    traced code, inside `torch.utils.checkpoint`, in `torch.func`, under a profiler or another
    observer of the operations, and on clouds so small that it would not pay. Under autocast what is
    fused is computed in the weights' float32 and returned in autocast's dtype, as in this library's
    layers; those take their plain path inside a fused network, so make them with `fused="auto"`.

    This is in place: the model gets a class of its own, a subclass of the one it had, and keeps its
    modules, parameters, hooks and state-dict keys, so that checkpoints load as before, optimizers
    go on and `deepcopy`, `to`, `train` and `eval` work. Only calls of the model itself are
    fused, not those of its children alone.

    Where points tie, one of them gets the gradient, as `torch.max(dim)` does; `amax` would
    split it. A layer whose output is needed besides its max is run plainly from the second forward
    pass on; calling `fuse` again forgets that. Watching costs a quarter of a millisecond a layer,
    which the smallest clouds do not give back.

    Args:
        model: The network; it is changed.

    Returns:
        The same network.

    Raises:
        TypeError: If the model is not plain Python: scripted, compiled, or with a `forward` of
            its own set on the object.
    """
    if isinstance(model, torch.jit.ScriptModule) or "forward" in vars(model):
        raise TypeError(
            f"fuse runs the Python code of a network's class, but this {type(model).__name__} is "
            "scripted, compiled, or has a forward set on the object: fuse the network first, and "
            "leave it as it is then"
        )
    if not hasattr(type(model), "_fusion_class"):
        model.__class__ = cast("type[_Model]", _fused_class(type(model)))
    vars(model)["_fusion_state"] = _State()
    return model


def fusion_report(model: nn.Module) -> tuple[LayerReport, ...]:
    """Say which pointwise layers ran fused in the last forward pass, and why the others did not.

    What a network does is known when it has done it: training, evaluation with gradients and
    evaluation without may differ.

    Args:
        model: A network that went through `fuse`.

    Returns:
        One entry for each call of a pointwise layer, in order; as a string each is one line.

    Raises:
        ValueError: If the model was not fused, or has not run fused yet.
    """
    state = vars(model).get("_fusion_state")
    if not isinstance(state, _State):
        raise ValueError(f"this {type(model).__name__} was not fused: call sharedmlp.fuse(model)")
    if state.report is None:
        raise ValueError("no forward pass ran fused yet: call the model on a batch first")
    return state.report


def _fused_class(cls: type[nn.Module]) -> type[nn.Module]:
    """Return the one subclass whose forward is that of `cls`, watched."""
    if cls in _fused_classes:
        return _fused_classes[cls]

    @functools.wraps(cls.forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return _run(self, cls.forward, args, kwargs)

    def reduce(self: nn.Module, protocol: SupportsIndex) -> tuple[Any, ...]:
        _, _, *state = cast("tuple[Any, ...]", cls.__reduce_ex__(self, protocol))
        return _new, (cls,), *state

    attributes = {
        "forward": forward,
        "__reduce_ex__": reduce,  # a copy or a pickle finds the class by the one it is made of
        "__module__": cls.__module__,
        "__doc__": cls.__doc__,
        "_fusion_class": True,
    }
    return _fused_classes.setdefault(cls, type(f"Fused{cls.__name__}", (cls,), attributes))


def _new(cls: type[nn.Module]) -> nn.Module:
    fused = _fused_class(cls)
    return fused.__new__(fused)


def _run(
    model: nn.Module,
    forward: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    if (
        torch.compiler.is_compiling()
        or watcher_reason() is not None
        or torch_internals.profiler_is_active()
        or getattr(_running, "mode", None) is not None  # a fused network inside a fused one
    ):
        return forward(model, *args, **kwargs)
    state = vars(model).setdefault("_fusion_state", _State())
    weights = ((id(p), name) for name, p in model.named_parameters())
    names = {key: name.rpartition(".")[0] or name for key, name in weights}
    mode = _running.mode = FusionMode(names, state.plain)
    try:
        with mode:
            output = forward(model, *args, **kwargs)
        output = read_all(output, "the caller of the network")
        mode.compute_kept()
    finally:
        _running.mode = None
        mode.update_statistics()
        state.report = tuple(record.report() for record in mode.records)
    for record in mode.records:
        if record.fused_with is not None and record.reason is not None:
            state.plain[record.layer] = record.reason
    return output
