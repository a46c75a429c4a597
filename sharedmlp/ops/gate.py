"""The one answer to the question whether somebody could notice that a fused path runs.

The fused paths compute tiles in threads of their own and never make the tensors between the layers.
That is invisible only if nobody looks: a tracer would record a constant, a FLOP counter would count
nothing, a hook would not be called, a pruned weight would be read before it is made. So this is
asked before anything is read from a module, by every fused entry.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from sharedmlp.ops import torch_internals

_DTYPES = (torch.float32, torch.float64)


def visible_reasons(
    x: Tensor, modules: Iterable[nn.Module] = (), *, must: bool = False
) -> list[str]:
    """Say in words who would notice a fused path; empty if nobody would.

    Args:
        x: The input.
        must: Whether a fused path was asked for: then a profiler, which only measures, is none.
        modules: The modules whose calls the fused path would replace, their submodules included.
            Their own parameters have to be plain leaves, so that reading them is all of it.
    """
    watcher = watcher_reason()
    if watcher is None and not must and torch_internals.profiler_is_active():
        watcher = "a profiler records the operations, and does not see those of other threads"
    reasons = [] if watcher is None else [watcher]
    reasons += tensor_reasons(x)
    if reasons:
        return reasons
    for module in modules:
        reasons += module_reasons(module)
        reasons += _mismatches(x, module)
    return reasons


def _mismatches(x: Tensor, module: nn.Module) -> list[str]:
    """Say which parameters torch would refuse, or cast, beside this input."""
    cast = x.dtype in (torch.float32, autocast_dtype(x)) and autocast_dtype(x) is not None
    wanted = torch.float32 if cast else x.dtype
    return [
        f"its input is of {x.dtype} on {x.device}, a parameter of {p.dtype} on {p.device}"
        for p in module.parameters()
        if p.dtype != wanted or p.device != x.device
    ]


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """Return what an active autocast makes of float32 on this device; None if none is active."""
    if not torch.is_autocast_enabled(x.device.type):
        return None
    return torch.get_autocast_dtype(x.device.type)


def result_dtype_of(weight: Tensor) -> torch.dtype:
    """Return the dtype of a layer's output: that of its weight, or of an active autocast."""
    cast = autocast_dtype(weight) if weight.dtype == torch.float32 else None
    return cast or weight.dtype


def watcher_reason() -> str | None:
    """Say who watches the operations of this thread; None if nobody does."""
    if torch.compiler.is_compiling() and not torch_internals.COMPILER_FOLLOWS_PLAN:
        return "torch.compile, before torch 2.12, compiles the plain operations"
    if torch_internals.is_exporting():
        return "torch.export records the plain operations"
    if torch.compiler.is_compiling():  # what follows is not for the compiler, nor under it
        return None
    if torch_internals.jit_is_tracing():
        return "torch.jit.trace records the plain operations"
    if torch_internals.transforms_are_active():
        return "a transform of torch.func differentiates or batches the plain operations"
    if torch_internals.forward_ad_is_active():
        return "forward-mode differentiation follows the plain operations"
    if torch_internals.dispatch_mode_is_active():
        return "a TorchDispatchMode, such as a FLOP counter, watches the operations"
    modes = torch_internals.function_modes()
    if modes:
        return f"a TorchFunctionMode, {type(modes[-1]).__name__}, watches the operations"
    return None


def tensor_reasons(x: Tensor) -> list[str]:
    """Say what is unusual about an input."""
    plain = type(x) in (Tensor, nn.Parameter)
    if torch.compiler.is_compiling() and isinstance(x, Tensor):
        plain = True  # the compiler's own stand-in
    if not plain:
        return [f"its input is a {type(x).__name__}, not a plain tensor"]
    if x.layout is not torch.strided or x.is_quantized:
        return [f"its input is of layout {x.layout} and {x.dtype}"]
    if x.device.type == "meta":
        return ["its input is on the meta device and has no numbers"]
    if x.dtype not in (*_DTYPES, autocast_dtype(x)):
        return [f"its input is of {x.dtype}: statistics need float32 or float64"]
    return []


def module_reasons(module: nn.Module) -> list[str]:
    """Say what besides its class and its parameters decides what a module does."""
    reasons = []
    for part in module.modules():
        kind = type(part).__name__
        if torch_internals.has_hooks(part):
            reasons.append(f"hooks are registered on its {kind}, which would not be called")
        if "forward" in vars(part):
            reasons.append(f"its {kind} has a forward of its own, set on the object")
        parameters = torch_internals.own_parameters(part)
        if any(p is not None and type(p) is not nn.Parameter for p in parameters.values()):
            reasons.append(f"a parameter of its {kind} is computed, not a plain leaf")
        if any(
            type(b) not in (Tensor, type(None)) for b in torch_internals.own_buffers(part).values()
        ):
            reasons.append(f"a buffer of its {kind} is not a plain tensor")
        for name in ("weight", "bias"):
            if name in vars(part):
                reasons.append(f"the {name} of its {kind} is computed, as by pruning or a norm")
    return list(dict.fromkeys(reasons))
