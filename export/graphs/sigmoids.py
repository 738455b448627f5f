"""A sigmoid whose small answers count, written with operators that have them.

ONNX Runtime's Sigmoid is within 2e-8 of the true one, and 0 or a constant for what is smaller: sigmoid(-30) is 9e-14. That is near
enough for a gate or a probability, but the logarithm of it is -30, and a share of two such numbers may be anything. (Measured with
1.31 in float32 and float64.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxferry.export.graphs.int64_kernels import value_types
from onnxferry.export.graphs.nodes import all_nodes, subgraphs

# Their answer hangs on the size of a small number, as that of Div on its divisor, and that of Pow with an exponent below 1.
_MAGNIFY = frozenset({"Log", "Reciprocal", "Sqrt", "LpNormalization", "ReduceLogSum"})
# What comes out is as small as what went in.
_PASS_ON = frozenset(
    {
        "Identity", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Expand", "Tile", "Flatten", "Concat", "Slice", "Gather",
        "GatherElements", "Split", "Mul", "Cast", "Max", "ReduceSum", "ReduceMean", "ReduceMax", "ReduceProd", "Where",
        "Neg", "Abs", "Div", "Pow",
    }
)  # fmt: skip
_REALS: dict[int, type] = {TensorProto.FLOAT: np.float32, TensorProto.DOUBLE: np.float64}


def write_small_sigmoids(model: onnx.ModelProto) -> bool:
    """Rewrite in place the sigmoids that reach a logarithm, a division or a power; true if there were any."""
    if not any(node.op_type == "Sigmoid" for node in all_nodes(model)):
        return False
    nodes = list(all_nodes(model))
    if not any(node.op_type in _MAGNIFY or node.op_type in ("Div", "Pow") for node in nodes):
        return False
    exponents = _exponents(model, nodes)
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            users.setdefault(name, []).append(node)
    found = {node.output[0] for node in nodes if node.op_type == "Sigmoid" and _is_magnified(node.output[0], users, exponents)}
    if not found:
        return False
    types = value_types(model)
    _rewrite(model.graph, {name for name in found if types.get(name) in _REALS}, types)
    return True


def _exponents(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> dict[str, float]:
    """The constants that are one number."""
    tensors = {t.name: t for t in model.graph.initializer if int(np.prod(t.dims)) == 1}
    for node in nodes:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.name == "value" and int(np.prod(attribute.t.dims)) == 1:
                tensors[node.output[0]] = attribute.t
    return {name: float(numpy_helper.to_array(t).reshape(())) for name, t in tensors.items() if t.data_type != TensorProto.STRING}


def _is_magnified(name: str, users: Mapping[str, list[onnx.NodeProto]], exponents: Mapping[str, float]) -> bool:
    todo, seen = [name], {name}
    while todo:
        value = todo.pop()
        for node in users.get(value, ()):
            if node.op_type in _MAGNIFY or (node.op_type == "Div" and node.input[1] == value):
                return True
            if node.op_type == "Pow" and (node.input[1] == value or exponents.get(node.input[1], 0.0) < 1):
                return True
            if node.op_type in _PASS_ON:
                todo += [output for output in node.output if output not in seen]
                seen.update(node.output)
    return False


def _rewrite(graph: onnx.GraphProto, found: set[str], types: Mapping[str, int]) -> None:
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        for attribute in node.attribute:
            for inner in subgraphs(attribute):
                _rewrite(inner, found, types)
        nodes += _small(node, types[node.output[0]]) if node.op_type == "Sigmoid" and node.output[0] in found else [node]
    if len(nodes) > len(graph.node):
        kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(kept)


def _small(node: onnx.NodeProto, kind: int) -> list[onnx.NodeProto]:
    """e = exp(-|x|); e / (1 + e) below 0, 1 / (1 + e) from there on."""
    (x,), (y,) = node.input, node.output
    zero, one, size, less, grown, total, positive, above = (
        f"{y}_{part}" for part in ("zero", "one", "size", "less", "grown", "total", "positive", "above")
    )

    def constant(name: str, value: float) -> onnx.NodeProto:
        return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(value, _REALS[kind]), name), name=name)

    return [
        constant(zero, 0.0),
        constant(one, 1.0),
        helper.make_node("Abs", [x], [size], name=size),
        helper.make_node("Neg", [size], [less], name=less),
        helper.make_node("Exp", [less], [grown], name=grown),
        helper.make_node("Add", [grown, one], [total], name=total),
        helper.make_node("GreaterOrEqual", [x, zero], [positive], name=positive),
        helper.make_node("Where", [positive, one, grown], [above], name=above),
        helper.make_node("Div", [above, total], [y], name=node.name),
    ]
