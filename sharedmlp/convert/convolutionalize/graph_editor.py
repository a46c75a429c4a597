"""Replacing what the nodes of a traced graph call."""

from __future__ import annotations

from torch import nn
from torch.fx.node import Node

from sharedmlp.convert.convolutionalize.tracing import Traced
from sharedmlp.convert.module_state import copy_mode_and_hooks


class GraphEditor:
    """Replaces modules and functions of a graph, and knows which are done.

    Args:
        traced: The graph, which is edited, with its copy of the model.
    """

    def __init__(self, traced: Traced) -> None:
        self._traced = traced
        self._done: dict[str, nn.Module] = {}
        self._dropped: list[Node] = []

    def replace_weighted(self, node: Node, new: nn.Module) -> None:
        """Put a module with parameters in the place of the node's own, which it was made of.

        Raises:
            ConversionError: If another module shares the parameters, or the node's own module was
                replaced by one of another kind: the parameters would no longer be the same.
        """
        path = str(node.target)
        old = self._traced.modules[path]
        for other_path, other in self._traced.modules.items():
            shared = any(p is q for p in old.parameters() for q in other.parameters(recurse=False))
            if shared and other is not old:
                raise self._traced.error(
                    node,
                    f"it shares a parameter with module {other_path!r}, and its own becomes a "
                    "convolution's: untie them first",
                )
        if path not in self._done:
            self._put(path, new)
        elif repr(self._done[path]) != repr(new):
            raise self._traced.error(
                node,
                f"it is called twice, once as {self._done[path]} and once as {new}, which would "
                "have separate parameters",
            )

    def replace_plain(self, node: Node, new: nn.Module) -> None:
        """Let a node call a module without parameters, at the path of the old one if it can."""
        source = self._traced.tensor_inputs(node)[0]
        is_module = node.op == "call_module"
        path = str(node.target) if is_module else node.name
        if is_module:
            copy_mode_and_hooks(self._traced.modules[path], new)
        if path not in self._done or repr(self._done[path]) != repr(new):
            if not is_module or path in self._done:  # called at several sizes, or not a module
                path = node.name
                while hasattr(self._traced.root, path):
                    path += "_"
            self._put(path, new)
        node.op, node.target, node.args, node.kwargs = "call_module", path, (source,), {}

    def drop(self, node: Node) -> None:
        """Let a node pass its input on: modules keep their place and hooks."""
        if node.op == "call_module":
            self.replace_plain(node, nn.Identity())
        else:
            self._dropped.append(node)

    def finish(self) -> None:
        """Take the dropped nodes, and numbers that nothing reads any more, out of the graph."""
        graph = self._traced.graph
        for node in self._dropped:
            node.replace_all_uses_with(self._traced.tensor_inputs(node)[0])
            graph.erase_node(node)
        for node in reversed(list(graph.nodes)):
            if node in self._traced.numbers and node.op.startswith("call") and not node.users:
                graph.erase_node(node)

    def _put(self, path: str, module: nn.Module) -> None:
        parent, _, name = path.rpartition(".")
        setattr(self._traced.root.get_submodule(parent), name, module)
        self._done[path] = module
        self._traced.modules.setdefault(path, module)
