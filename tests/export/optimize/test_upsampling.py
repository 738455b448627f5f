"""Each rewrite is proved at several shapes: the same numbers, to float32's rounding."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxferry.export.optimize.candidates import rewritten
from onnxferry.export.optimize.rewrites.upsampling import join_upsampling, split_transposed_convolutions
from onnxferry.runtime.engine.engine import Engine

RNG = np.random.default_rng(0)


def convolution(nodes: list[onnx.NodeProto], channels: int, **arrays: np.ndarray) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", channels, "height", "width"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "outputs", "rows", "columns"])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def prove(before: onnx.ModelProto, after: onnx.ModelProto, channels: int) -> None:
    onnx.checker.check_model(after)
    with Engine(before.SerializeToString(), device="cpu") as a, Engine(after.SerializeToString(), device="cpu") as b:
        for shape in ((1, channels, 4, 5), (2, channels, 7, 3), (3, channels, 2, 3)):
            x = RNG.standard_normal(shape).astype(np.float32)
            expected, actual = a.run({"x": x})["y"], b.run({"x": x})["y"]
            assert actual.shape == expected.shape
            assert np.abs(actual - expected).max() <= 2e-6 * max(1.0, float(np.abs(expected).max()))


@pytest.mark.parametrize("kernel", [2, 3, 4, 5])
@pytest.mark.parametrize(("stride", "pad", "extra"), [(2, 0, 0), (2, 1, 0), (2, 1, 1), (3, 0, 2), (3, 1, 1)])
@pytest.mark.parametrize("bias", [False, True])
def test_transposed_convolution_is_phases(kernel: int, stride: int, pad: int, extra: int, bias: bool) -> None:
    arrays = {"w": RNG.standard_normal((3, 5, kernel, kernel)).astype(np.float32)}
    if bias:
        arrays["b"] = RNG.standard_normal(5).astype(np.float32)
    transposed = helper.make_node("ConvTranspose", ["x", *arrays], ["z"], strides=[stride] * 2, pads=[pad] * 4, output_padding=[extra] * 2)
    before = convolution([transposed, helper.make_node("Relu", ["z"], ["y"])], 3, **arrays)
    after = onnx.ModelProto.FromString(before.SerializeToString())
    assert split_transposed_convolutions(after) == 1
    assert [node.op_type for node in after.graph.node][:3] == ["Conv", "Relu", "DepthToSpace"]
    prove(before, after, 3)


@pytest.mark.parametrize(("kernel", "factor"), [(1, 2), (1, 3), (3, 2), (3, 3), (3, 4), (5, 2), (5, 3)])
def test_convolution_after_upsampling_runs_on_the_small_image(kernel: int, factor: int) -> None:
    arrays = {
        "scales": np.array([1, 1, factor, factor], np.float32),
        "w": RNG.standard_normal((3, 5, kernel, kernel)).astype(np.float32),
        "b": RNG.standard_normal(3).astype(np.float32),
    }
    resize = helper.make_node(
        "Resize", ["x", "", "scales"], ["u"], mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
    )
    before = convolution([resize, helper.make_node("Conv", ["u", "w", "b"], ["y"], pads=[kernel // 2] * 4)], 5, **arrays)
    after = onnx.ModelProto.FromString(before.SerializeToString())
    assert join_upsampling(after) == 1
    assert after.graph.node[0].op_type == "Conv"
    prove(before, after, 5)


def test_what_cannot_be_rewritten_is_left_alone() -> None:
    weight = RNG.standard_normal((4, 2, 3, 3)).astype(np.float32)
    grouped = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], group=2)
    assert rewritten(convolution([grouped], 4, w=weight)) is None
