"""Rounding that compensates: nearer in what a layer gives, on the same grid, and the patches are those that a convolution reads."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxferry.export.optimize.rewrites import calibration, gptq
from onnxferry.export.optimize.rewrites.calibration import InnerValues
from onnxferry.export.optimize.rewrites.gptq import compensate, round_rows
from onnxferry.export.optimize.rewrites.quantize import static_int8
from onnxferry.runtime.engine.engine import Engine


def correlated(rows: int, inputs: int, seed: int) -> np.ndarray:
    """As images are: neighbours are alike, and none is negative."""
    rng = np.random.default_rng(seed)
    return np.abs(np.cumsum(rng.standard_normal((rows, inputs)), axis=1)).astype(np.float32)


@pytest.mark.parametrize("inputs", [5, 128, 300])
def test_the_sum_is_nearer_than_with_the_nearest_numbers(inputs: int) -> None:
    rng = np.random.default_rng(inputs)
    weights = rng.standard_normal((6, inputs))
    scales = np.abs(weights).max(axis=1, keepdims=True) / 64
    seen, unseen = (correlated(2000, inputs, seed).astype(np.float64) for seed in (1, 2))
    rounded = round_rows(weights, scales, seen.T @ seen / len(seen), 64)
    nearest = np.rint(weights / scales)
    assert np.array_equal(rounded, np.rint(rounded))
    assert np.abs(rounded).max() <= 64
    off = [float(np.square(unseen @ (q * scales - weights).T).mean()) for q in (rounded, nearest)]
    assert off[0] < off[1] / 2


def test_inputs_that_are_always_zero_leave_their_weights_nearest() -> None:
    weights = np.array([[0.26, -0.74, 1.0]])
    moments = np.diag([1.0, 0.0, 1.0])
    np.testing.assert_array_equal(round_rows(weights, np.array([[0.5]]), moments, 64), [[1, -1, 2]])
    np.testing.assert_array_equal(round_rows(weights, np.array([[0.5]]), 0 * moments, 64), [[1, -1, 2]])
    np.testing.assert_array_equal(round_rows(weights, np.array([[0.01]]), moments, 64), [[26, -64, 64]])


@pytest.mark.parametrize(
    ("stride", "pads", "kernel"), [(1, [1, 1, 1, 1], 3), (2, [0, 1, 2, 0], 3), (2, [0, 0, 0, 0], 1), (1, [2, 2, 2, 2], 5)]
)
def test_patches_are_what_a_convolution_multiplies(stride: int, pads: list[int], kernel: int) -> None:
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((3, 2, 7, 6), (4, 2, kernel, kernel)))
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=pads, strides=[stride] * 2)
    graph = helper.make_graph(
        [node],
        "conv",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, 7, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(w, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    with Engine(model.SerializeToString(), device="cpu") as engine:
        y = engine.run({"x": x})["y"]
    rows = gptq._inputs(node, (kernel, kernel), x, 10**6, rng)
    found = np.sort(rows @ w.reshape(4, -1).T, axis=0)
    np.testing.assert_allclose(found, np.sort(y.transpose(0, 2, 3, 1).reshape(-1, 4), axis=0), atol=1e-4)
    assert len(gptq._inputs(node, (kernel, kernel), x, 5, rng)) == 5


def network() -> onnx.ModelProto:
    """x float32 (batch, 3, 8, 8) → convolution, one in groups, one with stride, dense layer: y (batch, 5)."""
    rng = np.random.default_rng(3)
    shapes = {"a": (8, 3, 3, 3), "g": (8, 4, 3, 3), "s": (6, 8, 3, 3), "d": (96, 5)}
    weights = [numpy_helper.from_array((rng.standard_normal(s) / np.sqrt(np.prod(s[1:]))).astype(np.float32), n) for n, s in shapes.items()]
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["p"], pads=[1] * 4, name="plain"),
        helper.make_node("Relu", ["p"], ["q"], name="relu"),
        helper.make_node("Conv", ["q", "g"], ["r"], pads=[1] * 4, kernel_shape=[3, 3], group=2, name="groups"),
        helper.make_node("Conv", ["r", "s"], ["t"], pads=[1] * 4, kernel_shape=[3, 3], strides=[2, 2], name="stride"),
        helper.make_node("Flatten", ["t"], ["u"], name="flat"),
        helper.make_node("Gemm", ["u", "d"], ["y"], name="dense"),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_a_network_is_nearer_and_its_scales_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    feeds, unseen = ({"x": correlated(96, 3 * 64, seed).reshape(-1, 3, 8, 8)} for seed in (1, 2))
    compensated = static_int8(model, feeds, gemm=True)
    monkeypatch.setattr("onnxferry.export.optimize.rewrites.quantize.compensate", lambda *arguments: 0)
    nearest = static_int8(model, feeds, gemm=True)
    pairs = zip(nearest.graph.initializer, compensated.graph.initializer, strict=True)
    changed = {a.name for a, b in pairs if not np.array_equal(numpy_helper.to_array(a), numpy_helper.to_array(b))}
    assert changed == {f"{name}_quantized" for name in "asd"}, "groups are not touched, nor is a scale"
    copy = onnx.ModelProto.FromString(nearest.SerializeToString())
    assert compensate(copy, model, gptq.layer_moments(model, feeds)) == 3
    assert compensate(copy, model, {}) == 0
    off = []
    with Engine(model.SerializeToString(), device="cpu") as engine:
        expected = engine.run(unseen)["y"]
    for each in (compensated, nearest):
        with Engine(each.SerializeToString(), device="cpu") as engine:
            off.append(float(np.square(engine.run(unseen)["y"] - expected).mean()))
    assert off[0] < off[1]


def test_what_was_rounded_for_one_way_to_quantize_is_not_rounded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    feeds = {"x": correlated(96, 3 * 64, 1).reshape(-1, 3, 8, 8)}
    moments, known = gptq.layer_moments(model, feeds), {}
    whole = static_int8(model, feeds, gemm=True, moments=moments, rounded=known)
    assert {name for name, _ in known} == {"plain", "stride", "dense"}
    monkeypatch.setattr(gptq, "round_rows", lambda *arguments: pytest.fail("rounded again"))
    part = static_int8(model, feeds, skip=["plain"], gemm=True, moments=moments, rounded=known)
    weights = [{t.name: numpy_helper.to_array(t) for t in each.graph.initializer} for each in (whole, part)]
    for name in "sd":
        np.testing.assert_array_equal(*(each[f"{name}_quantized"] for each in weights))


def test_memory_of_moments_is_known_before_they_are() -> None:
    model = network()
    feeds = {"x": correlated(96, 3 * 64, 1).reshape(-1, 3, 8, 8)}
    kept, largest = gptq.moments_bytes(model)
    assert kept == sum(each.nbytes for each in gptq.layer_moments(model, feeds).values())
    assert largest == 3 * 8 * 96**2  # the dense layer's


def test_inner_values_come_in_parts_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    feeds = {"x": correlated(10, 3 * 64, 1).reshape(-1, 3, 8, 8)}
    together = InnerValues(model, ["q", "t"], feeds, 16)
    assert len(together) == 1
    row = (8 * 8 * 8 + 6 * 4 * 4) * 4
    monkeypatch.setattr(calibration, "ROOM", 3 * row + 1)
    parts = InnerValues(model, ["q", "t"], feeds, 16)
    assert [len(each["q"]) for each in parts] == [3, 3, 3, 1]
    assert len(parts) == 4
    for name in "qt":
        np.testing.assert_allclose(np.concatenate([each[name] for each in parts]), next(iter(together))[name], atol=1e-5)
    assert list(InnerValues(model, [], feeds, 16)) == []
