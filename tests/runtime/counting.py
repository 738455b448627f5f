"""A model that makes as many rounds as it is asked for."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper


def counting_model() -> onnx.ModelProto:
    """``rounds`` int64 () and ``x`` float32 (1,) → ``y`` float32 (1,), which is x, after so many rounds of a Loop."""

    def value(name: str, dtype: int, shape: list[int]) -> object:
        return helper.make_tensor_value_info(name, dtype, shape)

    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Identity", ["v"], ["w"])],
        "body",
        [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("v", TensorProto.FLOAT, [1])],
        [value("on", TensorProto.BOOL, []), value("w", TensorProto.FLOAT, [1])],
    )
    node = helper.make_node("Loop", ["rounds", "", "x"], ["y"], body=body)
    ends = [value("rounds", TensorProto.INT64, []), value("x", TensorProto.FLOAT, [1])], [value("y", TensorProto.FLOAT, [1])]
    return helper.make_model(helper.make_graph([node], "g", *ends), opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
