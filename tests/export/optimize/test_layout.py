"""Rewrites for 8 bits: the same numbers at several shapes, and operators that 8-bit kernels have."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxferry.export.optimize.candidates import arranged
from onnxferry.export.optimize.rewrites.layout import channels_last
from onnxferry.export.optimize.rewrites.quantize import count_int8, static_int8
from onnxferry.runtime.artifact.zoo import zoo_model
from onnxferry.runtime.engine.engine import Engine

RNG = np.random.default_rng(0)


def numbers(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def image(nodes: list[onnx.NodeProto], channels: int, width: int, output: int = TensorProto.FLOAT, **arrays: np.ndarray) -> onnx.ModelProto:
    """x float32 (batch, channels, height, width) and label int64 (batch) → y."""
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", channels, "height", width])]
    if any("label" in node.input for node in nodes):
        inputs.append(helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]))
    graph = helper.make_graph(
        nodes,
        "graph",
        inputs,
        [helper.make_tensor_value_info("y", output, ["batch", "outputs", "rows", "columns"])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def rewritten(before: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    after = onnx.ModelProto.FromString(before.SerializeToString())
    return after, channels_last(after)


def prove(before: onnx.ModelProto, after: onnx.ModelProto, channels: int, width: int) -> None:
    onnx.checker.check_model(after)
    with Engine(before.SerializeToString(), device="cpu") as a, Engine(after.SerializeToString(), device="cpu") as b:
        for batch, height in ((1, 4), (2, 7), (3, 1)):
            feeds = {"x": numbers(batch, channels, height, width)}
            if any(spec.name == "label" for spec in a.inputs):
                feeds["label"] = RNG.integers(0, 5, batch)
            expected, actual = a.run(feeds)["y"], b.run(feeds)["y"]
            assert actual.shape == expected.shape
            difference = np.abs(actual.astype(np.float64) - expected).max()
            assert difference <= 4e-6 * max(1.0, float(np.abs(expected).max()))


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("block", [2, 3])
@pytest.mark.parametrize("width", [1, 5, 6])
def test_interleaving_moves_rows_of_channels(block: int, width: int) -> None:
    nodes = [
        helper.make_node("DepthToSpace", ["x"], ["d"], blocksize=block, mode="DCR"),
        helper.make_node("Slice", ["d", "starts", "ends", "axes"], ["y"]),
    ]
    slices = {"starts": np.array([1, 0]), "ends": np.array([2**40, -1]), "axes": np.array([2, 3])}
    before = image(nodes, 4 * block**2, width, **slices)
    after, changed = rewritten(before)
    assert changed == 1
    assert "DepthToSpace" not in operators(after)
    prove(before, after, 4 * block**2, width)


@pytest.mark.parametrize("factor", [2, 3])
def test_repeated_pixels_come_from_the_convolution(factor: int) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1] * 4),
        helper.make_node(
            "Resize", ["c", "", "scales"], ["y"], mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
        ),
    ]
    before = image(nodes, 3, 5, w=numbers(6, 3, 3, 3), b=numbers(6), scales=np.array([1, 1, factor, factor], np.float32))
    after, changed = rewritten(before)
    assert changed == 2
    assert "Resize" not in operators(after)
    prove(before, after, 3, 5)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
@pytest.mark.parametrize(("block", "kernel"), [(1, 3), (2, 1), (2, 3), (3, 3), (2, 5)])
@pytest.mark.parametrize("norm", [False, True])
def test_a_convolution_to_few_channels_takes_whole_rows(mode: str, block: int, kernel: int, norm: bool) -> None:
    channels, value, nodes = 3, "x", []
    if block > 1:
        nodes.append(helper.make_node("DepthToSpace", ["x"], ["d"], blocksize=block, mode=mode))
        value = "d"
    arrays = {"w": numbers(2, channels, kernel, kernel), "b": numbers(2)}
    if norm:
        nodes += norm_by_label(value, "n")
        arrays |= tables(channels)
        value = "n"
    nodes += [helper.make_node("Conv", [value, "w", "b"], ["c"], pads=[kernel // 2] * 4), helper.make_node("Tanh", ["c"], ["y"])]
    before = image(nodes, channels * block**2, 4, **arrays)
    after, changed = rewritten(before)
    assert changed == 1 + norm
    assert "DepthToSpace" not in operators(after)
    convolution = next(node for node in after.graph.node if node.op_type == "Conv")
    weight = next(t for t in after.graph.initializer if t.name == convolution.input[1])
    assert list(weight.dims)[-1] == 1
    prove(before, after, channels * block**2, 4)


def norm_by_label(source: str, output: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("BatchNormalization", [source, "scale", "shift", "mean", "variance"], ["normed"], epsilon=1e-3),
        helper.make_node("Gather", ["gains", "label"], ["gain"]),
        helper.make_node("Gather", ["biases", "label"], ["bias"]),
        helper.make_node("Unsqueeze", ["gain", "places"], ["gain4"]),
        helper.make_node("Unsqueeze", ["bias", "places"], ["bias4"]),
        helper.make_node("Mul", ["normed", "gain4"], ["scaled"]),
        helper.make_node("Add", ["scaled", "bias4"], ["shifted"]),
        helper.make_node("Relu", ["shifted"], [output]),
    ]


def tables(channels: int) -> dict[str, np.ndarray]:
    made = {name: numbers(channels) for name in ("scale", "shift", "mean")}
    made["variance"] = np.abs(numbers(channels)) + 0.5
    return made | {"gains": numbers(5, channels), "biases": numbers(5, channels), "places": np.array([2, 3])}


def test_a_norm_by_label_is_one_product_and_one_sum() -> None:
    before = image(norm_by_label("x", "y"), 6, 5, **tables(6))
    after, changed = rewritten(before)
    assert changed == 1
    assert "BatchNormalization" not in operators(after)
    assert "Unsqueeze" not in operators(after)
    prove(before, after, 6, 5)


@pytest.mark.parametrize("activation", ["Tanh", "Sigmoid"])
def test_bytes_come_from_a_quantisation(activation: str) -> None:
    steps = [helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1] * 4), helper.make_node(activation, ["c"], ["a"])]
    value = "a"
    if activation == "Tanh":
        steps.append(helper.make_node("Add", ["a", "one"], ["p"]))
        value = "p"
    steps += [
        helper.make_node("Mul", [value, "factor"], ["m"]),
        helper.make_node("Round", ["m"], ["r"]),
        helper.make_node("Clip", ["r", "least", "most"], ["k"]),
        helper.make_node("Cast", ["k"], ["y"], to=TensorProto.UINT8),
    ]
    scalars = {"one": 1.0, "factor": 127.5 if activation == "Tanh" else 255.0, "least": 0.0, "most": 255.0}
    arrays = {name: np.array(number, np.float32) for name, number in scalars.items()}
    before = image(steps, 3, 6, TensorProto.UINT8, w=numbers(6, 3, 3, 3), b=numbers(6), **arrays)
    after, changed = rewritten(before)
    assert changed == 1
    assert operators(after) == ["Conv", "Sigmoid", "QuantizeLinear"]
    with Engine(before.SerializeToString(), device="cpu") as a, Engine(after.SerializeToString(), device="cpu") as b:
        for shape in ((1, 3, 5, 6), (2, 3, 9, 6)):
            x = numbers(*shape)
            expected, actual = a.run({"x": x})["y"].astype(int), b.run({"x": x})["y"].astype(int)
            # Where float32's rounding falls on either side of a half, one level.
            assert np.abs(actual - expected).max() <= 1
            assert (actual != expected).mean() <= 2e-3


def test_what_is_not_the_pattern_is_left_alone() -> None:
    unknown = image([helper.make_node("DepthToSpace", ["x"], ["y"], blocksize=2, mode="DCR")], 8, 3)
    unknown.graph.input[0].type.tensor_type.shape.dim[3].dim_param = "width"
    grouped = image([helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4, group=2)], 2, 3, w=numbers(2, 1, 3, 3))
    for before in (unknown, grouped):
        assert rewritten(before)[1] == 0


@pytest.mark.parametrize(("name", "convolutions"), [("digits-gan", 5), ("fashion-gan", 5), ("digits-ae", 20)])
def test_shipped_models_hold_nothing_that_8_bits_lack(name: str, convolutions: int) -> None:
    model = onnx.load(zoo_model(name).path)
    made = arranged(model)
    assert not {"DepthToSpace", "Resize", "BatchNormalization", "Round"}.intersection(operators(made))
    with Engine(model.SerializeToString(), device="cpu") as a, Engine(made.SerializeToString(), device="cpu") as b:
        generator = any(spec.name == "noise" for spec in a.inputs)
        for batch in (1, 3):
            if generator:
                feeds = {"noise": numbers(batch, 64), "label": np.arange(batch)}
            else:
                feeds = {"image": RNG.integers(0, 256, (batch, 28, 28, 1), np.uint8)}
            expected, actual = a.run(feeds), b.run(feeds)
            for output, array in expected.items():
                assert np.abs(actual[output].astype(np.float64) - array).max() <= (1 if array.dtype == np.uint8 else 1e-4)
        assert count_int8(static_int8(made, feeds)) == convolutions


@pytest.mark.parametrize("factor", [2, 3])
def test_pixels_are_repeated_as_copies(factor: int) -> None:
    facts = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
    scales = {"scales": np.array([1, 1, factor, factor], np.float32)}
    before = image([helper.make_node("Resize", ["x", "", "scales"], ["y"], **facts)], 3, 5, **scales)
    before.graph.input[0].type.tensor_type.shape.dim[3].dim_param = "width"  # of any size
    after, changed = rewritten(before)
    assert changed == 1
    assert "Resize" not in operators(after)
    prove(before, after, 3, 5)
    prove(before, after, 3, 1)
