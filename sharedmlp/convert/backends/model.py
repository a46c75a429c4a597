"""Any model's pointwise layers, run on another backend."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple, cast

from torch import nn

from sharedmlp.convert.backends.adapted import TORCH_CLASSES, Adapted, interface_of, make_on_backend
from sharedmlp.convert.errors import ConversionError
from sharedmlp.convert.module_state import copy_module, not_plain_reason
from sharedmlp.convert.pointwise import not_pointwise_reason
from sharedmlp.layers import SharedMLP
from sharedmlp.layers.backend import Backend, get_backend
from sharedmlp.layers.pointwise import ACTIVATIONS, PointwiseLayer

_LINEAR_MAPS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_CONTAINERS = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict)


class Conversion(NamedTuple):
    """What `convert_backend` did.

    Attributes:
        module: The converted module; a copy, unless it was converted in place.
        replaced: The names of what runs on the target now, a shared MLP under its own name; the
            root is `""`. A module that has two names is there twice.
        kept: The names of the linear maps, convolutions and shared MLPs that run as before, with
            the reason in words.
    """

    module: nn.Module
    replaced: tuple[str, ...]
    kept: dict[str, str]


def convert_backend(module: nn.Module, backend: str, *, inplace: bool = False) -> Conversion:
    """Run every pointwise layer of a module, anybody's, on a backend; the outputs stay the same.

    Each `nn.Linear`, `nn.Conv1d` with kernel 1 and 1x1 `nn.Conv2d` becomes the torch module
    of the backend (a subclass of it) that its parent goes on calling as before: it moves the tensor
    there and back. Where no move is needed it is the plain torch module, so that converting there
    and back gives the original types and bit-identical numbers. A
    `SharedMLP` changes as a whole, norms included, and works in the new layout
    without moves. What stays as it is, is reported with its reason; a module that already runs on
    the backend is in neither list.

    Names, numbers, device, dtype, requires_grad, mode and hooks are kept; hooks inside a shared MLP
    see its native layout. The state dict has the same keys; its weights differ in trailing ones,
    and each backend loads those of the others. Parameters are new objects: make the optimizer
    afterwards. Not seen, and for the caller to know: a forward that reads a child's weight instead
    of calling it, and a weight that is shared with a module outside of `module`.

    Args:
        module: Any module.
        backend: `"linear"`, `"conv1d"` or `"conv2d"`.
        inplace: Changes `module` itself instead of a deep copy of it.

    Returns:
        The module, what was replaced, and what was not and why.

    Raises:
        ValueError: If there is no backend of this name.
        ConversionError: With `inplace=True` if the module itself is the layer to be replaced.
    """
    target = get_backend(backend)
    if not inplace:
        module = copy_module(module)
    uses = _Uses(module)
    replaced: list[str] = []
    kept: dict[str, str] = {}
    fresh: dict[nn.Module, nn.Module] = {}
    mlps: list[SharedMLP] = []
    # First all new modules are made; whatever fails, fails before anything has changed.
    for name, found in _find(module):
        if isinstance(found, SharedMLP):
            if found.backend == backend:
                continue
            reason = _mlp_reason(found, uses)
        elif isinstance(found, TORCH_CLASSES[backend]):
            continue
        else:
            reason = _linear_map_reason(found, uses)
        if reason is not None:
            kept[name] = reason
            continue
        replaced.append(name)
        if isinstance(found, SharedMLP):
            mlps.append(found)
            linears = [cast(PointwiseLayer, layer).linear for layer in found.layers]
            fresh.update({old: make_on_backend(old, target, backend) for old in linears})
        else:
            fresh[found] = make_on_backend(found, target, interface_of(found))
    if inplace and module in fresh:
        raise ConversionError(
            f"{module} cannot become another kind of module in place: take the one that is "
            "returned without inplace=True"
        )
    for parent in list(module.modules()):
        for name, child in parent._modules.items():
            if child is not None:
                parent._modules[name] = fresh.get(child, child)
    for mlp in mlps:
        _move(mlp, target)
    return Conversion(fresh.get(module, module), tuple(replaced), kept)


class _Uses:
    """Who holds each module and each parameter of a tree."""

    def __init__(self, root: nn.Module) -> None:
        self.parents: defaultdict[nn.Module, set[nn.Module]] = defaultdict(set)
        self.owners: defaultdict[nn.Parameter, set[nn.Module]] = defaultdict(set)
        for module in root.modules():
            for child in module._modules.values():
                if child is not None:
                    self.parents[child].add(module)
            for parameter in module._parameters.values():
                if parameter is not None:
                    self.owners[parameter].add(module)
        self.in_shared_mlp = {
            part
            for mlp in root.modules()
            if isinstance(mlp, SharedMLP)
            for part in mlp.layers.modules()
        }

    def tied_reason(self, module: nn.Module) -> str | None:
        for name, parameter in module._parameters.items():
            if parameter is not None and len(self.owners[parameter]) > 1:
                return f"its {name} is shared with another module, and would no longer be"
        return None

    def only_in(self, module: nn.Module | None, parent: nn.Module) -> bool:
        return module is None or self.parents[module] == {parent}


def _find(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield linear maps and shared MLPs under all of their names, but nothing inside the MLPs."""
    if isinstance(module, (SharedMLP, *_LINEAR_MAPS)):
        yield name, module
    for child_name, child in module._modules.items():
        inside = isinstance(module, SharedMLP) and child is module.layers
        if child is not None and not inside:
            yield from _find(child, f"{name}.{child_name}" if name else child_name)


def _linear_map_reason(module: nn.Module, uses: _Uses) -> str | None:
    """Say in words why a linear map or convolution is not replaced."""
    if isinstance(module, nn.Conv3d):
        return "it is an nn.Conv3d, and no backend has three axes of positions"
    classes = [cls for cls in TORCH_CLASSES.values() if isinstance(module, cls)]
    if isinstance(module, Adapted):
        classes = [type(module)]
    reason = _own_reason(module, uses, *classes)
    if reason is None and module in uses.in_shared_mlp:
        reason = "it is part of a shared MLP too, which changes as a whole"
    for parent in uses.parents[module]:
        if reason is None and _may_read_weights(parent):
            reason = f"its parent is a {type(parent).__name__}, which may read its weight itself"
    return reason


def _own_reason(module: nn.Module, uses: _Uses, *classes: type[nn.Module]) -> str | None:
    return (
        not_plain_reason(module, *classes)
        or not_pointwise_reason(module)
        or uses.tied_reason(module)
    )


def _may_read_weights(parent: nn.Module) -> bool:
    """Return whether a module is one of torch's composites, such as nn.TransformerEncoderLayer."""
    return any(
        cls.__module__.startswith("torch.nn.modules") and cls not in _CONTAINERS
        for cls in type(parent).__mro__
    )


def _mlp_reason(mlp: SharedMLP, uses: _Uses) -> str | None:
    """Say in words why a shared MLP does not change its backend."""
    source = get_backend(mlp.backend)
    shared = "is shared with another module, and would no longer be"
    if not uses.only_in(mlp.layers, mlp):
        return f"its list of layers {shared}"
    for number, layer in enumerate(mlp.layers):
        where = f"its layers.{number}"
        if type(layer) is not PointwiseLayer:
            return f"{where} is a {type(layer).__name__}, not a PointwiseLayer"
        parts = (layer, mlp.layers), (layer.linear, layer), (layer.norm, layer)
        if not all(uses.only_in(part, parent) for part, parent in parts):
            return f"{where} {shared}"
        for name, known in (
            ("norm", tuple(source.norms.values())),
            ("activation", tuple(ACTIVATIONS.values())),
            ("dropout", (nn.Dropout,)),
        ):
            part = getattr(layer, name)
            if part is not None and type(part) not in known:
                return (
                    f"{where}.{name} is a {type(part).__name__}, of which it is not known how it "
                    "works in another layout"
                )
        reason = _own_reason(layer.linear, uses, TORCH_CLASSES[source.name])
        if reason is not None:
            return f"{where}.linear: {reason}"
    return None


def _move(mlp: SharedMLP, target: Backend) -> None:
    """Move a shared MLP, whose linear maps are the target's already, to the target's layout."""
    names = {cls: name for name, cls in get_backend(mlp.backend).norms.items()}
    for layer in set(mlp.layers):
        norm = cast(PointwiseLayer, layer).norm
        if norm is not None:
            # The same parameters, statistics and hooks: only the forward differs.
            norm.__class__ = target.norms[names[type(norm)]]
    mlp.backend = target.name
    mlp._layout = target.layout
