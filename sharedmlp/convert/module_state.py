"""What a converted module takes from the one it stands for: numbers, hooks, mode."""

from __future__ import annotations

import copy
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from sharedmlp.layers.backend import reshape_weight

AnyConv = nn.Conv1d | nn.Conv2d | nn.Conv3d
ModuleT = TypeVar("ModuleT", bound=nn.Module)

# The dicts of a module's hooks that are called when the module is.
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_OWN = {"_parameters", "_buffers", "_modules", "_load_state_dict_pre_hooks"}


def copy_module(module: ModuleT) -> ModuleT:
    """Return a deep copy with the same hooks, of modules with a weight norm or pruning too."""
    memo: dict[int, Any] = {}
    for part in module.modules():
        # A copy of the object that a bound method belongs to would record what nobody reads.
        memo.update({id(hooks): copy.copy(hooks) for hooks in map(vars(part).get, HOOKS)})
        for value in vars(part).values():
            if isinstance(value, Tensor) and not value.is_leaf:  # it is computed at each call
                memo[id(value)] = value.detach().clone()
    return copy.deepcopy(module, memo)


def copy_module_state(old: nn.Module, new: ModuleT, weight: Tensor) -> ModuleT:
    """Give `new` the parameters, mode and hooks of `old`.

    Args:
        old: A module without `not_plain_reason`.
        new: A module of the same kind, best on the meta device: its own parameters are dropped.
        weight: The weight of `old` in the shape of the weight of `new`; it is copied.

    Returns:
        `new`. Its parameters are its own; the dicts of hooks are those of `old`, so that a
        handle removes its hook from both. As with `copy.deepcopy`, gradients and the hooks of the
        parameters themselves are not copied.
    """
    values = {"weight": weight, "bias": cast("Tensor | None", old.bias)}
    for name, value in values.items():
        if value is None:
            continue
        numbers = value.detach().clone(memory_format=torch.contiguous_format)
        learned = old.get_parameter(name).requires_grad
        setattr(new, name, nn.Parameter(numbers, requires_grad=learned))
    return copy_mode_and_hooks(old, new)


def copy_mode_and_hooks(old: nn.Module, new: ModuleT) -> ModuleT:
    """Give `new` the mode and the hooks of `old`."""
    for name in vars(nn.Module()).keys() - _OWN:
        vars(new)[name] = vars(old)[name]
    # These hooks hold the module for which they were registered.
    hook: Any
    for number, hook in old._load_state_dict_pre_hooks.items():
        if hook.hook is not reshape_weight:  # a new pointwise module has its own
            bound = (new,) if hook.with_module else ()
            new._load_state_dict_pre_hooks[number] = type(hook)(hook.hook, *bound)
    return new


def not_plain_reason(module: nn.Module, *classes: type[nn.Module]) -> str | None:
    """Say in words why a module may not be the linear map its weight and bias describe.

    Args:
        module: An instance of one of the classes or of a subclass.
        *classes: The classes whose forward is known.
    """
    if type(module) not in classes:
        known = " or ".join(cls.__name__ for cls in classes)
        return f"it is a {type(module).__name__}, not a plain {known}: its forward may do more"
    if "forward" in vars(module):
        return "its forward was replaced on the instance: it may do more than the class"
    others = [
        *(name for name in module._parameters if name not in ("weight", "bias")),
        *module._buffers,
        *module._modules,
    ]
    if others or module._parameters.keys() != {"weight", "bias"}:
        return (
            f"its weight is computed from {', '.join(others) or 'elsewhere'}, as by a weight norm "
            "or pruning: remove that first"
        )
    odd = {type(p).__name__ for p in module.parameters() if type(p) is not nn.Parameter}
    if odd:
        return f"its parameters are of type {', '.join(sorted(odd))}, not plain nn.Parameter"
    return None


def padding_reason(conv: nn.Module) -> str | None:
    """Say in words that a convolution pads its input, if it does."""
    padding: Any = conv.padding
    kernel: Any = conv.kernel_size
    pads = any(padding) if padding not in ("same", "valid") else False
    if padding == "same":
        pads = any(size > 1 for size in kernel)
    return f"padding={padding!r} adds positions outside the input" if pads else None
