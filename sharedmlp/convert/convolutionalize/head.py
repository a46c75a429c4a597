"""The passage from maps to vectors, and what comes after it, on maps."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn
from torch.fx.node import Node
from torch.nn import functional as F

from sharedmlp.convert.convolutionalize.flatten_windows import FlattenWindows
from sharedmlp.convert.convolutionalize.global_pools import fixed_pool, is_flatten
from sharedmlp.convert.convolutionalize.graph_editor import GraphEditor
from sharedmlp.convert.convolutionalize.receptive_field import (
    CAT,
    ELEMENTWISE,
    ELEMENTWISE_MODULES,
    INPUT,
    SOFTMAX,
    ReceptiveFields,
    batch_norm,
    compose,
    propagate,
    union,
)
from sharedmlp.convert.convolutionalize.tracing import Traced, arguments
from sharedmlp.convert.fully_connected import fc_to_conv
from sharedmlp.convert.module_state import not_plain_reason
from sharedmlp.convert.pointwise import linear_to_conv2d

_DROPOUTS: dict[Any, Any] = {
    F.dropout: nn.Dropout,
    F.dropout2d: nn.Dropout2d,
    F.alpha_dropout: nn.AlphaDropout,
}
_HINT = 'take mode="flatten", which lays them out as channels'


class MapShape(NamedTuple):
    """The map of more than one position that a flattened vector still is in the rewritten graph."""

    channels: int
    height: int
    width: int


class Rewriter:
    """Rewrites the graph of a classifier so that vectors stay maps.

    Args:
        traced: The graph, which is edited.
        spatial: Whether a flatten goes and the linear layer after it becomes a large kernel, or
            windows are laid out as channels.
    """

    def __init__(self, traced: Traced, *, spatial: bool) -> None:
        self._traced = traced
        self._spatial = spatial
        self._editor = GraphEditor(traced)
        self._fields: dict[Node, ReceptiveFields] = {}
        # None if the features are the channels of one position.
        self._vectors: dict[Node, MapShape | None] = {}

    def run(self) -> None:
        """Rewrite node by node.

        Raises:
            ConversionError: At the first node that cannot be converted.
        """
        for node in list(self._traced.graph.nodes):
            inputs = [source for source in node.all_input_nodes if source in self._fields]
            if node.op == "placeholder":
                self._fields[node] = INPUT
            elif node.op == "output":
                self._check_output(node)
            elif inputs and node not in self._traced.numbers:
                self._rewrite(node, inputs)
        self._editor.finish()

    def _check_output(self, node: Node) -> None:
        result = node.args[0]
        if not isinstance(result, Node) or result not in self._fields:
            raise self._traced.error(
                node, "one tensor that comes from the input is expected: wrap the model"
            )
        map_shape = self._vectors.get(result)
        if map_shape is not None:
            raise self._traced.error(
                node,
                f"it returns flattened features of {tuple(map_shape)}, and no linear layer to make "
                f"a convolution of: {_HINT}",
            )

    def _rewrite(self, node: Node, inputs: list[Node]) -> None:
        vectors = [self._vectors[source] for source in inputs if source in self._vectors]
        if vectors and len(vectors) < len(inputs):
            raise self._traced.error(node, "it joins a vector and a map: an output sees all of it")
        self._keep_dropout(node)
        if vectors:
            self._fields[node] = union(node, self._traced, [self._fields[n] for n in inputs])
            self._vectors[node] = self._on_vectors(node, vectors)
        else:
            self._on_maps(node, inputs)

    def _keep_dropout(self, node: Node) -> None:
        """Make a module of `F.dropout(x, p, self.training)`, traced with False in eval mode."""
        if node.op == "call_function" and node.target in _DROPOUTS:
            given = arguments(node, ["input", "p", "training", "inplace"])
            if given["training"] is False:
                self._editor.replace_plain(
                    node, _DROPOUTS[node.target](given["p"], given["inplace"])
                )

    def _on_maps(self, node: Node, inputs: list[Node]) -> None:
        fields = self._fields[inputs[0]]
        shape = self._traced.shapes[inputs[0]]
        if len(inputs) == 1 and len(shape) == 4:
            if is_flatten(node, self._traced):
                self._fields[node] = fields
                self._vectors[node] = self._flatten(node, MapShape(*shape[1:]))
                return
            pool = fixed_pool(node, self._traced)
            if pool is not None:
                self._editor.replace_plain(node, pool[0])
                self._fields[node] = compose(fields, pool[1])
                if len(self._traced.shapes[node]) == 2:  # a mean that drops the axes
                    self._vectors[node] = None
                return
        self._fields[node] = propagate(node, self._traced, self._fields)

    def _flatten(self, node: Node, features: MapShape) -> MapShape | None:
        window = features[1:]
        if window == (1, 1) or self._spatial:
            self._editor.drop(node)
            return None if window == (1, 1) else features
        self._editor.replace_plain(node, FlattenWindows(window))
        return None

    def _on_vectors(self, node: Node, vectors: list[MapShape | None]) -> MapShape | None:
        """Rewrite a node that reads vectors, and returns what its own vector is map_shape over."""
        traced, map_shape = self._traced, vectors[0]
        key = traced.key(node)
        if node.op == "call_module":
            module = traced.modules[str(node.target)]
            if isinstance(module, nn.Linear):
                self._linear(node, module, map_shape)
                return None
            if isinstance(module, (nn.BatchNorm1d, nn.SyncBatchNorm)):
                self._batch_norm(node, module, map_shape)
                return None
            if isinstance(module, nn.PReLU) and module.num_parameters > 1:
                self._per_channel(node, map_shape)
                return None
            if isinstance(module, (*ELEMENTWISE_MODULES, nn.PReLU)):
                return map_shape
        if is_flatten(node, traced):  # of a vector: nothing to do
            self._editor.drop(node)
            return map_shape
        if key in ELEMENTWISE:
            return self._elementwise(node, vectors)
        if key in CAT:
            self._cat(node)
            return None
        if key in SOFTMAX or key in (nn.Softmax, nn.LogSoftmax):
            self._softmax(node, map_shape)
            return None
        raise traced.error(
            node,
            "after the flatten only linear layers, batch norm, dropout, softmax, concatenation and "
            "elementwise functions can be taken to maps",
        )

    def _linear(self, node: Node, linear: nn.Linear, map_shape: MapShape | None) -> None:
        reason = not_plain_reason(linear, nn.Linear)
        if reason is not None:
            raise self._traced.error(node, reason)
        if map_shape is None:
            self._editor.replace_weighted(node, linear_to_conv2d(linear))
        else:
            self._editor.replace_weighted(
                node, fc_to_conv(linear, map_shape.channels, map_shape[1:])
            )

    def _batch_norm(
        self, node: Node, norm: nn.BatchNorm1d | nn.SyncBatchNorm, map_shape: MapShape | None
    ) -> None:
        reason = batch_norm(norm)
        if isinstance(reason, str):
            raise self._traced.error(node, reason)
        self._per_channel(node, map_shape)
        if type(norm) is nn.BatchNorm1d:
            wide = nn.BatchNorm2d.__new__(nn.BatchNorm2d)
            vars(wide).update(vars(norm))  # the classes differ in the check of the shape alone
            self._editor.replace_weighted(node, wide)

    def _per_channel(self, node: Node, map_shape: MapShape | None) -> None:
        if map_shape is not None:
            raise self._traced.error(
                node,
                f"it has numbers of its own for every feature, and these are still {map_shape}, so "
                f"no module on maps is the same: {_HINT}",
            )

    def _elementwise(self, node: Node, vectors: list[MapShape | None]) -> MapShape | None:
        constants = [n for n in self._traced.tensor_inputs(node) if n not in self._fields]
        if any(self._traced.shapes[n] != () for n in constants):
            raise self._traced.error(
                node,
                f"it reads the tensor {constants[0].target!r}, which is no module's parameter: "
                "only numbers can be taken to maps",
            )
        if any(n in self._traced.numbers for n in node.all_input_nodes):
            raise self._traced.error(node, "it computes with the size of its input")
        if len(set(vectors)) > 1:
            raise self._traced.error(
                node, f"it joins vectors that were maps of different sizes: {vectors}"
            )
        return vectors[0]

    def _cat(self, node: Node) -> None:
        given = arguments(node, ["tensors", "dim"])
        tensors = given["tensors"]
        if given.get("dim", 0) not in (1, -1) or any(t not in self._vectors for t in tensors):
            raise self._traced.error(node, "only vectors can be joined, along their features")
        vectors = [self._vectors[t] for t in tensors]
        if any(vectors):
            raise self._traced.error(node, f"it joins vectors that were maps of {vectors}")
        node.args, node.kwargs = (tensors, 1), {}

    def _softmax(self, node: Node, map_shape: MapShape | None) -> None:
        if node.op == "call_module":
            module: Any = self._traced.modules[str(node.target)]
            dim = module.dim
        else:
            given = arguments(node, ["input", "dim"])
            dim = given.pop("dim", None)
        if dim not in (None, 1, -1) or map_shape is not None:
            raise self._traced.error(
                node, "a softmax can only be taken to maps over all features of a vector, dim=1"
            )
        if node.op == "call_module":
            module.dim = 1
        else:
            source = given.pop("input")
            node.args, node.kwargs = (source, 1, *node.args[2:]), given
