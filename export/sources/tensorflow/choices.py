"""tf.where in the graphs of tf2onnx: it multiplies both sides by a mask and adds them, and an infinity that was not chosen becomes NaN.

replaced = choose_instead_of_multiplying(model)     # how many were replaced by the operator Where
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import TensorProto, helper


def choose_instead_of_multiplying(model: onnx.ModelProto) -> int:
    """``c * a + not(c) * b``, with a flag c that was cast to numbers, as ``Where(c, a, b)``; in subgraphs too."""
    return sum(_mended(graph) for graph in _graphs(model.graph))


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _graphs(inner)


def _mended(graph: onnx.GraphProto) -> int:
    makers = {output: node for node in graph.node for output in node.output}
    count = 0
    for node in graph.node:
        if node.op_type != "Add":
            continue
        sides = [_masked(makers.get(name), makers) for name in node.input]
        for one, other in (sides, sides[::-1]):
            if one is None or other is None:
                continue
            refused = makers.get(other[0])
            if refused is not None and refused.op_type == "Not" and refused.input[0] == one[0]:
                chosen = helper.make_node("Where", [one[0], one[1], other[1]], list(node.output), name=node.name)
                node.CopyFrom(chosen)
                count += 1
                break
    return count


def _masked(node: onnx.NodeProto | None, makers: dict[str, onnx.NodeProto]) -> tuple[str, str] | None:
    """The flag and the value of a product with a flag that was cast to a number."""
    if node is None or node.op_type != "Mul":
        return None
    for flag, value in (tuple(node.input), tuple(node.input)[::-1]):
        cast = makers.get(flag)
        if cast is None or cast.op_type != "Cast":
            continue
        origin = makers.get(cast.input[0])
        to = next((a.i for a in cast.attribute if a.name == "to"), 0)
        if origin is not None and origin.op_type in FLAGS and to != TensorProto.BOOL:
            return cast.input[0], value
    return None


FLAGS = frozenset(("Not", "Greater", "Less", "GreaterOrEqual", "LessOrEqual", "Equal", "And", "Or", "Xor", "IsNaN", "IsInf"))
"""Operators that give flags."""
