"""A model as a graph: traced on a copy, with the shape of every tensor at one input size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import Node, map_arg

from sharedmlp.convert.convolutionalize.flatten_windows import FlattenWindows
from sharedmlp.convert.errors import ConversionError
from sharedmlp.convert.module_state import HOOKS, copy_module


@dataclass
class Traced:
    """A copy of a model in eval mode, and its graph.

    Attributes:
        root: The copy.
        graph: Its graph; the classes of `torch.nn` are single nodes.
        shapes: The shape of each node that is a tensor, at the input size and a batch of two.
        numbers: The value of each node that holds no tensor, such as `x.size(0)`.
        modules: Every module under the path that the graph calls it by.
        silenced: Paths of modules whose hooks the graph no longer calls.
    """

    root: nn.Module
    graph: fx.Graph
    shapes: dict[Node, tuple[int, ...]] = field(default_factory=dict)
    numbers: dict[Node, Any] = field(default_factory=dict)
    modules: dict[str, nn.Module] = field(default_factory=dict)
    silenced: list[str] = field(default_factory=list)

    def key(self, node: Node) -> object:
        """Return the key of a node in tables of operations: a class, a function or a name."""
        return type(self.modules[str(node.target)]) if node.op == "call_module" else node.target

    def tensor_inputs(self, node: Node) -> list[Node]:
        """Return the nodes with a tensor that `node` reads."""
        return [source for source in node.all_input_nodes if source in self.shapes]

    def error(self, node: Node, reason: str) -> ConversionError:
        """Make the error that names the node and the reason."""
        return ConversionError(f"node {node.name!r} ({self._describe(node)}): {reason}")

    def _describe(self, node: Node) -> str:
        if node.op == "call_module":
            return f"module {node.target!r}, {type(self.modules[str(node.target)]).__name__}"
        if node.op == "call_function":
            return f"function {getattr(node.target, '__name__', node.target)}"
        return f"method {node.target}" if node.op == "call_method" else f"{node.op} {node.target}"


def trace(model: nn.Module, input_size: Sequence[int]) -> Traced:
    """Trace a copy of a model and runs it on zeros; the model itself is left alone.

    If a function takes its window from the size of its input, as
    `F.avg_pool2d(x, x.shape[2:])` does, the graph keeps the window of this input size.

    Args:
        model: A network with one input `(B, C, H, W)`.
        input_size: (C, H, W).

    Raises:
        ConversionError: If `torch.fx` cannot trace the forward, or it fails at this input size.
        ValueError: If `input_size` is not three positive integers.
    """
    size = tuple(input_size)
    if len(size) != 3 or not all(isinstance(n, int) and n > 0 for n in size):
        raise ValueError(
            f"input_size is (C, H, W), three positive integers, got {input_size!r}: leave the "
            "batch out"
        )
    root = copy_module(model).eval()
    tracer = _Tracer()
    modules = dict(root.named_modules())
    silenced = [name for name, module in modules.items() if _is_silenced(tracer, module, name)]
    for name in silenced:
        for hooks in HOOKS:
            getattr(modules[name], hooks).clear()  # they would be called with fx's proxies
    try:
        graph = tracer.trace(root)
    except Exception as error:  # whatever a forward may raise when its input is a proxy
        raise ConversionError(
            f"torch.fx cannot trace the forward of {type(model).__name__} ({error}): it has to be "
            "the same steps for every input, without control flow on the data"
        ) from error
    traced = Traced(root, graph, modules=modules, silenced=silenced)
    example = next((p for p in root.parameters() if p.is_floating_point()), torch.empty(0))
    with torch.no_grad(), _without_hooks(root):
        _Recorder(traced).run(torch.zeros(2, *size, device=example.device, dtype=example.dtype))
    _pin_windows(traced)
    return traced


def arguments(node: Node, names: Sequence[str]) -> dict[str, Any]:
    """Return the arguments of a call, by name; those that were left out are missing."""
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def _is_silenced(tracer: _Tracer, module: nn.Module, name: str) -> bool:
    taken_apart = name == "" or not tracer.is_leaf_module(module, name)
    return taken_apart and any(getattr(module, hooks) for hooks in HOOKS)


@contextmanager
def _without_hooks(root: nn.Module) -> Iterator[None]:
    """Silence hooks: they hear of a model's inputs, not of the zeros that give its shapes."""
    dicts = [getattr(module, name) for module in root.modules() for name in HOOKS]
    kept = [dict(hooks) for hooks in dicts]
    for hooks in dicts:
        hooks.clear()
    try:
        yield
    finally:
        for hooks, entries in zip(dicts, kept, strict=True):
            hooks.update(entries)


def _pin_windows(traced: Traced) -> None:
    def pinned(node: Node) -> Any:
        return traced.numbers.get(node, node)

    for node in traced.graph.nodes:
        if "pool" in str(getattr(node.target, "__name__", "")):
            node.args = map_arg(node.args, pinned)
            node.kwargs = map_arg(node.kwargs, pinned)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, FlattenWindows) or super().is_leaf_module(m, module_qualified_name)


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps the shapes, not the tensors."""

    def __init__(self, traced: Traced) -> None:
        super().__init__(traced.root, graph=traced.graph)
        self.extra_traceback = False
        self._traced = traced

    def run_node(self, n: Node) -> object:
        try:
            result = super().run_node(n)
        except Exception as error:  # whatever the model's own code raises
            sizes = ", ".join(str(self._traced.shapes[m]) for m in self._traced.tensor_inputs(n))
            reason = f"it fails on {sizes or 'its input'}: {error}; is input_size the model's own?"
            raise self._traced.error(n, reason) from error
        if isinstance(result, Tensor):
            self._traced.shapes[n] = tuple(result.shape)
        elif not (isinstance(result, tuple) and any(isinstance(r, Tensor) for r in result)):
            self._traced.numbers[n] = result
        return result
