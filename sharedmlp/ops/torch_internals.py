"""What the fused paths ask torch that it tells only in private. Tested with torch 2.9 to 2.13."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn.modules import module as module_globals
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.torch_version import TorchVersion

# The compiler of torch 2.11 and older takes the fields of a plan for tensors.
COMPILER_FOLLOWS_PLAN = TorchVersion(torch.__version__) >= "2.12"

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def is_exporting() -> bool:
    """Whether torch.export records the operations."""
    # Not torch.compiler.is_exporting: the compiler of torch 2.11 and older takes its call for True
    # within torch.compile as well.
    return torch.compiler._is_exporting_flag


def jit_is_tracing() -> bool:
    """Whether torch.jit.trace, or the ONNX export built on it, records the operations."""
    return not torch.compiler.is_compiling() and torch._C._is_tracing()


def record_scan(
    step: Callable[..., Sequence[torch.Tensor]],
    state: Sequence[torch.Tensor],
    inputs: torch.Tensor,
    constants: Sequence[torch.Tensor],
) -> list[torch.Tensor]:
    """Return the last state and then all outputs, stacked, of a loop that torch.export records.

    Args:
        step: From the tensors of a state, a row of the inputs and the constants to the tensors of
            the next state and the outputs, none of which may be another one of them.
        state: The first state.
        inputs: A row for each step.
        constants: Other tensors that a step reads.
    """
    # Not the function `scan` around it, which compiles the step, and whose compiled code takes the
    # sizes of one call for a bound of the sizes of the next.
    from torch._higher_order_ops.scan import scan_op  # which imports the compiler

    return list(scan_op(step, [*state], [inputs], (*constants,)))


def transforms_are_active() -> bool:
    """Whether a transform of torch.func is running."""
    return torch._C._are_functorch_transforms_active()  # type: ignore[no-any-return, unused-ignore]


def forward_ad_is_active() -> bool:
    """Whether this is inside `torch.autograd.forward_ad.dual_level`."""
    return forward_ad._current_level >= 0


def dispatch_mode_is_active() -> bool:
    """Whether a TorchDispatchMode sees the operations: a FLOP counter, fake tensors, make_fx."""
    return torch._C._len_torch_dispatch_stack() > 0


def function_modes() -> list[TorchFunctionMode]:
    """Return the active TorchFunctionModes, but for those that choose a default device."""
    if not torch._C._len_torch_function_stack():
        return []
    from torch.utils._device import DeviceContext  # which `import torch` leaves out

    stack: list[TorchFunctionMode] = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
    return [mode for mode in stack if not isinstance(mode, DeviceContext)]


def profiler_is_active() -> bool:
    """Whether torch.profiler records the operations of this thread."""
    if torch.compiler.is_compiling():
        return False
    return torch.autograd._profiler_enabled()  # type: ignore[no-any-return, attr-defined, unused-ignore]


def has_hooks(module: nn.Module) -> bool:
    """Whether somebody wants to see the calls of a module, or of every module."""
    return any(getattr(module, name) for name in _HOOKS) or any(
        getattr(module_globals, f"_global{name}") for name in _HOOKS
    )


def own_parameters(module: nn.Module) -> dict[str, nn.Parameter | None]:
    """Return the parameters that are registered on the module itself, missing ones as None."""
    return module._parameters


def own_buffers(module: nn.Module) -> dict[str, torch.Tensor | None]:
    """Return the buffers that are registered on the module itself, missing ones as None."""
    return module._buffers
