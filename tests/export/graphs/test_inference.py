"""Inference leaves StringSplit alone, and the rest is known."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from onnxferry.export.graphs.inference import inferred


def _splitting(outputs: list[str]) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Identity", ["text"], ["same"]),
        helper.make_node("StringSplit", ["same"], outputs, delimiter=" "),
        helper.make_node("Identity", ["number"], ["kept"]),
    ]
    text = helper.make_tensor_value_info("text", TensorProto.STRING, ["n"])
    number = helper.make_tensor_value_info("number", TensorProto.FLOAT, [3])
    results = [helper.make_tensor_value_info("parts", TensorProto.STRING, None), helper.make_empty_tensor_value_info("kept")]
    graph = helper.make_graph(nodes, "g", [text, number], results)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize("outputs", [["parts", "count"], ["parts"]])
def test_string_split_is_not_inferred(outputs):
    """With its second output left out, onnx's own inference raises where it does not end the process."""
    model = _splitting(outputs)
    before = model.SerializeToString()
    made = inferred(model)
    types = {value.name: value.type.tensor_type.elem_type for value in (*made.graph.value_info, *made.graph.output)}
    assert types["same"] == TensorProto.STRING
    assert types["kept"] == TensorProto.FLOAT
    assert "count" not in types
    assert [node.domain for node in made.graph.node] == ["", "", ""]
    assert list(made.opset_import) == list(model.opset_import)
    assert model.SerializeToString() == before
