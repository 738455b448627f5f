"""Was every side of every branch taken? A file of which one side never ran is verified for the other side only.

A copy of the graph gets an output that says, for every ``If`` at any depth, which of its sides were taken; it is run on
the inputs that were compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx
import onnx.inliner
from onnx import helper

from onnxferry.export.graphs.nodes import subgraphs

_SIDES = ("then_branch", "else_branch")


class Branches:
    """The ``If`` nodes of a graph whose condition depends on the values of an input, not on its size alone."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=18)
        self.model = onnx.ModelProto()
        self.model.CopyFrom(onnx.inliner.inline_local_functions(model) if model.functions else model)
        self._number = 0
        self.names: dict[str, str] = {}  # name of the added output -> the branch, for people
        self._from_sizes = _values_from_sizes(self.model.graph)
        del self.model.graph.output[:]
        for value in self._watch(self.model.graph, ""):
            # What was taken as a vector of two: [then, else], one where the side was run.
            self.model.graph.output.append(helper.make_tensor_value_info(value, onnx.TensorProto.INT64, None))
        self.taken = {name: np.zeros(2, dtype=bool) for name in self.names}

    def __bool__(self) -> bool:
        return bool(self.names)

    def add(self, outputs: dict[str, np.ndarray]) -> bool:
        """Add what one run took; True where a side was taken for the first time."""
        new = False
        for name, array in outputs.items():
            seen = np.asarray(array).reshape(-1, 2).any(axis=0)
            new |= bool((seen & ~self.taken[name]).any())
            self.taken[name] |= seen
        return new

    def untaken(self) -> list[tuple[str, str]]:
        """(branch, side) of what was never run."""
        return [(self.names[n], ("true", "false")[i]) for n, sides in self.taken.items() for i in range(2) if not sides[i]]

    def _watch(self, graph: onnx.GraphProto, inside: str) -> list[str]:
        """Adds nodes that say what was taken in this graph; gives their values' names."""
        found: list[str] = []
        nodes = [_copied(node) for node in graph.node]
        del graph.node[:]
        for node in nodes:
            added: list[onnx.NodeProto] = []
            if node.op_type == "If" and node.input[0] not in self._from_sizes:
                found.append(self._condition(node, added, inside))
            if node.op_type == "If":
                found += self._inside_if(node, inside)
            elif node.op_type in ("Loop", "Scan"):
                found += self._inside_loop(node, added, inside)
            graph.node.append(node)
            graph.node.extend(added)
        return found

    def _name(self, what: str) -> str:
        self._number += 1
        return f"__onnxferry_{what}_{self._number}"

    def _condition(self, node: onnx.NodeProto, added: list[onnx.NodeProto], inside: str) -> str:
        flat, number, one, other, both = (self._name(what) for what in ("flat", "taken", "one", "not", "branch"))
        shape = self._name("shape")
        added += [
            helper.make_node("Constant", [], [shape], value=onnx.numpy_helper.from_array(np.array([1], np.int64))),
            helper.make_node("Constant", [], [one], value=onnx.numpy_helper.from_array(np.array([1], np.int64))),
            helper.make_node("Reshape", [node.input[0], shape], [flat]),
            helper.make_node("Cast", [flat], [number], to=onnx.TensorProto.INT64),
            helper.make_node("Sub", [one, number], [other]),
            helper.make_node("Concat", [number, other], [both], axis=0),
        ]
        self.names[both] = f"{node.name or node.output[0]}{inside}"
        return both

    def _inside_if(self, node: onnx.NodeProto, inside: str) -> list[str]:
        """What was taken inside either side; zeros stand for it where the other side was run."""
        sides = {attribute.name: attribute.g for attribute in node.attribute if attribute.name in _SIDES}
        found: list[str] = []
        for name, graph in sides.items():
            other = sides[_SIDES[1 - _SIDES.index(name)]]
            for value in self._watch(graph, f" in {node.name or node.output[0]}{inside}"):
                nothing, outside = self._name("nothing"), self._name("branch")
                zeros = onnx.numpy_helper.from_array(np.zeros(2, np.int64))
                other.node.append(helper.make_node("Constant", [], [nothing], value=zeros))
                graph.output.append(helper.make_tensor_value_info(value, onnx.TensorProto.INT64, [2]))
                other.output.append(helper.make_tensor_value_info(nothing, onnx.TensorProto.INT64, [2]))
                node.output.append(outside)
                self.names[outside] = self.names.pop(value)
                found.append(outside)
        return found

    def _inside_loop(self, node: onnx.NodeProto, added: list[onnx.NodeProto], inside: str) -> list[str]:
        """What was taken inside, over all turns: the largest of each, and zeros where there was no turn."""
        body = next(attribute.g for attribute in node.attribute if attribute.name == "body")
        found: list[str] = []
        for value in self._watch(body, f" in {node.name or node.output[0]}{inside}"):
            body.output.append(helper.make_tensor_value_info(value, onnx.TensorProto.INT64, [2]))
            turns, zero, all_turns, outside = (self._name(what) for what in ("turns", "zero", "all", "branch"))
            node.output.append(turns)
            for attribute in node.attribute:
                if attribute.name in ("scan_output_axes", "scan_output_directions"):
                    attribute.ints.append(0)
            added.append(helper.make_node("Constant", [], [zero], value=onnx.numpy_helper.from_array(np.zeros((1, 2), np.int64))))
            added.append(helper.make_node("Concat", [zero, turns], [all_turns], axis=0))
            if self._opset >= 18:
                axes = self._name("axes")
                added.append(helper.make_node("Constant", [], [axes], value=onnx.numpy_helper.from_array(np.array([0], np.int64))))
                added.append(helper.make_node("ReduceMax", [all_turns, axes], [outside], keepdims=0))
            else:
                added.append(helper.make_node("ReduceMax", [all_turns], [outside], axes=[0], keepdims=0))
            self.names[outside] = self.names.pop(value)
            found.append(outside)
        return found


def _copied(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy


def _values_from_sizes(graph: onnx.GraphProto) -> set[str]:
    """Values that depend on sizes and constants only: a branch on them depends on the sizes only, which the probes vary."""
    known = {tensor.name for tensor in graph.initializer} - {value.name for value in graph.input}

    def walk(nodes: Sequence[onnx.NodeProto]) -> None:
        for node in nodes:
            if node.op_type in ("Shape", "Size", "Constant") or all(name in known for name in _reads(node)):
                known.update(node.output)
            for attribute in node.attribute:
                for inner in subgraphs(attribute):
                    known.update(tensor.name for tensor in inner.initializer)
                    walk(inner.node)

    walk(graph.node)
    return known


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names of the values that a node reads, those that its subgraphs read from outside too."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in subgraphs(attribute):
            made = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
            for inner in graph.node:
                yield from (name for name in _reads(inner) if name not in made)
                made.update(inner.output)
            yield from (value.name for value in graph.output if value.name not in made)
