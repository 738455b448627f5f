"""Operators that ONNX Runtime gets wrong for some inputs, and what stands in their place in an exported graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from onnxferry.export import export_model
from onnxferry.export.graphs.axes import count_axes_from_the_start
from onnxferry.export.graphs.sigmoids import write_small_sigmoids
from tests.export.functions import Function


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return np.asarray(ort.InferenceSession(model.SerializeToString(), options).run(None, {"x": x})[0])


def reduction(operator: str, axis: int, keepdims: int, opset: int) -> onnx.ModelProto:
    by_attribute = operator == "ArgMax" or opset < 18
    attributes = {"axis": axis} if operator == "ArgMax" else {"axes": [axis]} if by_attribute else {}
    axes = [] if by_attribute else [helper.make_tensor("axes", TensorProto.INT64, [1], [axis])]
    node = helper.make_node(operator, ["x", *(tensor.name for tensor in axes)], ["y"], keepdims=keepdims, **attributes)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "width"])
    y = helper.make_tensor_value_info("y", TensorProto.INT64 if operator == "ArgMax" else TensorProto.FLOAT, None)
    return helper.make_model(helper.make_graph([node], "g", [x], [y], axes), opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("operator", ["ReduceMax", "ReduceMean", "ReduceL2", "ArgMax"])
@pytest.mark.parametrize("opset", [17, 20])
def test_axes_from_the_end_of_a_tensor_without_elements(operator: str, keepdims: int, opset: int) -> None:
    model = reduction(operator, -1, keepdims, opset)
    empty, some = np.zeros((0, 3), np.float32), np.arange(6, dtype=np.float32).reshape(2, 3)
    before = run(model, some)
    if operator != "ArgMax":
        assert run(model, empty).shape == (0, 3)  # ONNX Runtime's own answer: should this fail, it was fixed
    count_axes_from_the_start(model)
    assert run(model, empty).shape == ((0, 1) if keepdims else (0,))
    np.testing.assert_array_equal(run(model, some), before)


def test_an_exported_reduction_of_no_rows(tmp_path: Path) -> None:
    for number, function in enumerate([lambda x: x.sum(-1), lambda x: (x > 0).any(-1), lambda x: x.amax(-1, keepdim=True)]):
        path = tmp_path / f"{number}.onnx"
        export_model(Function(function), torch.rand(4, 3), path, dynamic_shapes={"x": {0: "batch"}})
        assert run(onnx.load(path), np.zeros((0, 3), np.float32)).shape == tuple(function(torch.zeros(0, 3)).shape)


SMALL: dict[str, Callable[[Tensor], Tensor]] = {
    "logarithm": lambda x: x.sigmoid().log(),
    "share": lambda x: x.sigmoid() / x.sigmoid().sum(-1, keepdim=True),
    "reciprocal": lambda x: 1 / x.sigmoid(),
    "logarithm of a product": lambda x: x.sigmoid().prod(-1).log(),
    "root": lambda x: x.sigmoid().sqrt(),
    "tenth power": lambda x: x.sigmoid() ** 0.1,
    "logarithm of a SiLU": lambda x: torch.log(-nn.functional.silu(-x.abs())),
}


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_small_sigmoids_keep_their_size(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    model = Function(SMALL[name])
    export_model(model, torch.rand(2, 3, dtype=dtype), tmp_path / "m.onnx")
    asked = torch.tensor([[-30.0, -20.0, -25.0], [20.0, -2.0, 1e-7]], dtype=dtype)
    np.testing.assert_allclose(run(onnx.load(tmp_path / "m.onnx"), asked.numpy()), model(asked).numpy(), rtol=1e-4)


def norm_of_gates(x: Tensor) -> Tensor:
    gates = x * x.sigmoid() / 2.0
    return gates / torch.sqrt(gates.pow(2).mean(-1, keepdim=True) + 1e-5)


def test_gates_keep_the_operator(tmp_path: Path) -> None:
    for function in (lambda x: x.sigmoid() * x.tanh(), norm_of_gates, lambda x: (x.sigmoid() + x).log_softmax(-1)):
        export_model(Function(function), torch.rand(2, 3), tmp_path / "m.onnx")
        assert "Sigmoid" in {node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node}
    untouched = helper.make_model(helper.make_graph([], "g", [], []))
    assert not write_small_sigmoids(untouched)
