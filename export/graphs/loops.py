"""Loops of a graph that end by a value."""

from __future__ import annotations

import onnx
from onnx import numpy_helper

from onnxferry.export.graphs.nodes import all_nodes, subgraphs

ENDLESS = 2**31
"""Rounds: a loop that may make so many is limited by its condition alone."""


def may_not_end(model: onnx.ModelProto) -> bool:
    """Whether a Loop goes on as long as a computed condition holds, without a limit of rounds: at infinity or NaN it may hold for ever."""
    nodes = list(all_nodes(model))
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    constants |= {node.output[0]: node.attribute[0].t for node in nodes if node.op_type == "Constant" and node.attribute[0].HasField("t")}
    for node in nodes:
        if node.op_type == "Loop":
            rounds = constants.get(node.input[0])
            unlimited = not node.input[0] or (rounds is not None and int(numpy_helper.to_array(rounds).reshape(-1)[0]) >= ENDLESS)
            (body,) = (graph for attribute in node.attribute for graph in subgraphs(attribute))
            if unlimited and not _passed_on(body, constants):
                return True
    return False


def _passed_on(body: onnx.GraphProto, constants: dict[str, onnx.TensorProto]) -> bool:
    """Whether a round leaves the condition as it was, or sets it to a constant."""
    made = {output: node for node in body.node for output in node.output}
    name = body.output[0].name
    while name in made and made[name].op_type in ("Identity", "Cast"):
        name = made[name].input[0]
    return name == body.input[1].name or name in constants or name in {tensor.name for tensor in body.initializer}
