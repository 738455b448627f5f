"""int64 beyond 2**31 and 2**53: what ONNX Runtime's kernels get wrong is right after the rewrite."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxferry.export.graphs.int64_kernels import rewrite_large_integers

POOL = np.array([3_000_000_000, 5_000_000_000, 7, -3_000_000_000, 2**31, 2**32 - 1, -5, 2**40 + 59, 2**53 + 1, 0, -(2**31) - 1])
AXES = [[0], [1], [0, 2], []]


def run(model: onnx.ModelProto, **feeds: np.ndarray) -> list[np.ndarray]:
    import onnxruntime

    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).choice(POOL, shape)


@pytest.fixture
def build(build_onnx):
    def make(operator: str, inputs: int = 1, constants: tuple[np.ndarray, ...] = (), **attributes: object) -> onnx.ModelProto:
        names = [f"x{i}" for i in range(inputs)]
        fixed = [numpy_helper.from_array(array, f"c{i}") for i, array in enumerate(constants)]
        node = helper.make_node(operator, [*names, *(t.name for t in fixed)], ["y"], **attributes)
        values = [(name, TensorProto.INT64, ["a", "b", "c"]) for name in names]
        return build_onnx([node], values, [("y", TensorProto.INT64, None)], fixed)

    return make


@pytest.mark.parametrize(
    ("operator", "constants", "attributes", "right"),
    [
        ("Max", (), {}, np.maximum),
        ("Min", (), {}, np.minimum),
        ("Mod", (), {"fmod": 1}, np.fmod),
    ],
)
def test_two_inputs(build, operator, constants, attributes, right):
    model = build(operator, 2, constants, **attributes)
    assert rewrite_large_integers(model)
    x, y = drawn(4, 5, 9), drawn(4, 5, 9, seed=1)
    y = np.where(y == 0, 3, y)
    np.testing.assert_array_equal(run(model, x0=x, x1=y)[0], right(x, y))


@pytest.mark.parametrize(
    ("operator", "constants", "right"),
    [
        ("Sign", (), np.sign),
        ("Relu", (), lambda x: np.maximum(x, 0)),
        ("Clip", (np.array(0), np.array(10)), lambda x: np.clip(x, 0, 10)),
        ("Clip", (np.array(-(2**31)), np.array(2**33)), lambda x: np.clip(x, -(2**31), 2**33)),
    ],
)
def test_one_input(build, operator, constants, right):
    model = build(operator, 1, constants)
    assert rewrite_large_integers(model)
    x = drawn(4, 5, 9)
    np.testing.assert_array_equal(run(model, x0=x)[0], right(x))


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize(("operator", "right"), [("ReduceMax", np.max), ("ReduceMin", np.min), ("ReduceSum", np.sum)])
def test_reductions(build, operator, right, axes, keep):
    model = build(operator, 1, (np.array(axes, np.int64),) if axes else (), keepdims=keep)
    assert rewrite_large_integers(model)
    x = drawn(3, 65, 9)
    np.testing.assert_array_equal(run(model, x0=x)[0], right(x, axis=tuple(axes) or None, keepdims=bool(keep)))


def test_small_numbers_are_left_to_the_kernels(build_onnx):
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Constant", [], ["one"], value=numpy_helper.from_array(np.array([1, 1]))),
        helper.make_node("Max", ["shape", "one"], ["sizes"]),
        helper.make_node("Cast", ["flag"], ["flags"], to=TensorProto.INT64),
        helper.make_node("ReduceSum", ["flags"], ["count"]),
    ]
    inputs = [("x", TensorProto.FLOAT, ["a", "b"]), ("flag", TensorProto.BOOL, ["a"])]
    model = build_onnx(nodes, inputs, [("sizes", TensorProto.INT64, None), ("count", TensorProto.INT64, None)])
    before = model.SerializeToString()
    assert rewrite_large_integers(model) == []
    assert model.SerializeToString() == before
