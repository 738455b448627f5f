"""Weights beside a file, links included, wherever in the model they stand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxferry.export.graphs.reading import load_onnx


def tensors(model: onnx.ModelProto) -> list[TensorProto]:
    (branch, _, _) = model.graph.node
    return [model.graph.initializer[0], *(each.g.node[0].attribute[0].t for each in branch.attribute)]


def test_weights_that_are_links_as_a_cache_has_them(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.arange(12, dtype=np.float32).reshape(3, 4), "w")
    inner = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.full(4, 7, np.float32), "c"))],
        "inner",
        [],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, [4])],
    )
    nodes = [
        helper.make_node("If", ["on"], ["b"], then_branch=inner, else_branch=inner),
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["y"]),
    ]
    values = [helper.make_tensor_value_info("on", TensorProto.BOOL, []), helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])]
    graph = helper.make_graph(nodes, "g", values, [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    whole = onnx.ModelProto.FromString(model.SerializeToString())
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    onnx.save(model, blobs / "m", save_as_external_data=True, location="data", size_threshold=0, convert_attribute=True)
    (blobs / "data").rename(blobs / "d")
    try:
        (tmp_path / "model.onnx").symlink_to("blobs/m")
        (tmp_path / "data").symlink_to("blobs/d")
    except OSError:
        pytest.skip("links cannot be made here")
    loaded = load_onnx(tmp_path / "model.onnx")
    for found, expected in zip(tensors(loaded), tensors(whole), strict=True):
        assert found.data_location == TensorProto.DEFAULT
        assert not found.external_data
        np.testing.assert_array_equal(numpy_helper.to_array(found), numpy_helper.to_array(expected))
