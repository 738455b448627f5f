"""Rows of people's own: what a model of rows says of one that it has no answer for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxferry.runtime import RowClassifier, load
from onnxferry.runtime.artifact.contract import Contract
from onnxferry.runtime.artifact.metadata import metadata_from_contract
from onnxferry.runtime.errors import InputError


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """softmax(x w), with the likelier of two classes."""
    weight = numpy_helper.from_array(np.float32([[1, -1], [0, 2]]), "w")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["s"]),
        helper.make_node("Softmax", ["s"], ["probabilities"]),
        helper.make_node("ArgMax", ["probabilities"], ["class_index"], axis=1, keepdims=0),
    ]
    value = helper.make_tensor_value_info
    outputs = [value("probabilities", TensorProto.FLOAT, ["batch", 2]), value("class_index", TensorProto.INT64, ["batch"])]
    graph = helper.make_graph(nodes, "g", [value("x", TensorProto.FLOAT, ["batch", 2])], outputs, [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, metadata_from_contract(Contract(kind="model", name="rows", labels=("no", "yes"))))
    onnx.save(model, tmp_path / "rows.onnx")
    return tmp_path / "rows.onnx"


def test_a_row_without_an_answer_is_named(rows: Path) -> None:
    with load(rows, device="cpu") as model:
        assert isinstance(model, RowClassifier)
        assert [prediction.label for prediction in model.predict([[3, 0], [0, 3]])] == ["no", "yes"]
        with pytest.raises(InputError, match="row 2 has a missing or infinite number, for which the model has no answer"):
            model.predict([[3, 0], [None, 3]])


def test_a_list_of_predictions_says_how_to_get_one(rows: Path) -> None:
    with load(rows, device="cpu") as model:
        assert isinstance(model, RowClassifier)
        with pytest.raises(AttributeError, match=r"use predict_one\(…\)\.label for one"):
            model.predict([[3, 0]]).label  # noqa: B018
        assert "<td>no</td>" in model.predict([[3, 0]])._repr_html_()
