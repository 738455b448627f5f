"""Exact rewrites: another graph of the same function, differing by no more than how float32 sums are rounded (some 1e-7).

Each takes a model, changes it in place and returns how many places it changed. Their gain is said at each; whether
a model wins by them is measured (``optimize/``), and each is verified at several shapes in ``tests/export/optimize/``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxferry.export.graphs.inference import inferred
from onnxferry.export.graphs.nodes import all_nodes, subgraphs


@dataclass
class Graph:
    """A graph with what a rewrite asks of it. Only the outer graph is rewritten; subgraphs count as readers."""

    model: onnx.ModelProto
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    producers: dict[str, onnx.NodeProto] = field(default_factory=dict)
    readers: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        graph = self.model.graph
        # An initialiser that is an input too is only a default: callers may feed something else.
        fed = {value.name for value in graph.input}
        self.constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer if t.name not in fed}
        self.producers = {}
        for node in graph.node:
            if node.op_type == "Constant" and not node.domain and node.attribute[0].name == "value":
                self.constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
            self.producers.update({name: node for name in node.output if name})
        self._shapes: dict[str, list[int]] = {}
        self.readers = Counter(value.name for value in graph.output)
        for node in all_nodes(self.model):
            self.readers.update(name for name in node.input if name)
        for subgraph in _inner_graphs(self.model):
            self.readers.update(value.name for value in subgraph.output)
        self._taken = {name for node in all_nodes(self.model) for name in (node.name, *node.input, *node.output)} | set(self.constants)

    def shape(self, name: str) -> list[int]:
        """Sizes by axis as ONNX infers them, 0 where unknown; empty where nothing is known."""
        if not self._shapes:
            known = inferred(self.model).graph
            for value in (*known.input, *known.value_info, *known.output):
                if value.type.tensor_type.HasField("shape"):
                    self._shapes[value.name] = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        return self._shapes.get(name, [])

    def sole_reader(self, name: str) -> onnx.NodeProto | None:
        """The one node of the outer graph that reads ``name``; None where there are others, or it is an output."""
        if self.readers[name] != 1:
            return None
        return next((node for node in self.model.graph.node if name in node.input), None)

    def name(self, stem: str) -> str:
        """A name that is not in use."""
        name, number = stem, 1
        while name in self._taken:
            name, number = f"{stem}_{number}", number + 1
        self._taken.add(name)
        return name

    def constant(self, stem: str, array: np.ndarray) -> str:
        name = self.name(stem)
        self.model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        self.constants[name] = array
        return name

    def replace(self, old: Sequence[onnx.NodeProto], new: Iterable[onnx.NodeProto]) -> None:
        """``new`` where the last of ``old`` stood (what they read is there by then); ``old`` go."""
        nodes = list(self.model.graph.node)
        gone = {id(node) for node in old}
        place = max(index for index, node in enumerate(nodes) if id(node) in gone)
        kept = [node for node in nodes[:place] if id(node) not in gone]
        rest = [node for node in nodes[place + 1 :] if id(node) not in gone]
        copies = [_copy(node) for node in (*kept, *new, *rest)]
        del self.model.graph.node[:]
        self.model.graph.node.extend(copies)
        drop_unused(self.model)
        self.__post_init__()


def everywhere(model: onnx.ModelProto, operator: str, rewrite: Callable[[Graph, onnx.NodeProto], bool]) -> int:
    """Try ``rewrite`` on each node of that operator once; how many it changed."""
    changed, tried = 0, set[str]()
    while True:
        graph = Graph(model)
        node = next((n for n in model.graph.node if n.op_type == operator and not n.domain and n.output[0] not in tried), None)
        if node is None:
            return changed
        tried.add(node.output[0])
        changed += rewrite(graph, node)


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """A node's attributes by name, lists as lists, strings as bytes."""
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return {name: list(v) if isinstance(v, Iterable) and not isinstance(v, bytes | str) else v for name, v in values.items()}


def drop_unused(model: onnx.ModelProto) -> None:
    """Remove nodes of the outer graph whose outputs are unused, then unused initializers."""
    graph = model.graph
    while True:
        used = {value.name for value in graph.output}
        for node in all_nodes(model):
            used.update(node.input)
        for subgraph in _inner_graphs(model):
            used.update(value.name for value in subgraph.output)
        kept = [_copy(node) for node in graph.node if used.intersection(node.output)]
        if len(kept) == len(graph.node):
            break
        del graph.node[:]
        graph.node.extend(kept)
    fed = {value.name for value in graph.input}
    tensors = [tensor for tensor in graph.initializer if tensor.name in used or tensor.name in fed]
    if len(tensors) < len(graph.initializer):
        copies = []
        for tensor in tensors:
            copy = onnx.TensorProto()
            copy.CopyFrom(tensor)
            copies.append(copy)
        del graph.initializer[:]
        graph.initializer.extend(copies)


def _inner_graphs(model: onnx.ModelProto) -> list[onnx.GraphProto]:
    return [graph for node in all_nodes(model) for attribute in node.attribute for graph in subgraphs(attribute)]


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    """A copy that outlives the list it stood in."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy
