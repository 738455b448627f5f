"""Ranges for 8 bits: the square error is least, and they are used only where the outputs come nearer."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxferry.export.optimize.candidates import ranges_that_pay
from onnxferry.export.optimize.rewrites.quantize import inner_tensors, static_int8, with_names, with_weights_of
from onnxferry.export.optimize.rewrites.ranges import BINS, Histogram, clipped_ranges, seen_values, whole_ranges
from onnxferry.runtime.engine.engine import Engine


def error(values: np.ndarray, low: float, high: float) -> float:
    """Mean square error in 8 bits."""
    step = (high - low) / 255
    return float(np.square(np.clip(np.rint((values - low) / step), 0, 255) * step + low - values).mean())


def histogram_of(*parts: np.ndarray) -> Histogram:
    rng = np.random.default_rng(0)
    found = Histogram()
    for part in parts:
        found.add(part, rng)
    return found


@pytest.mark.parametrize("name", ["laplace", "normal", "rectified", "uniform", "one far out", "negative"])
def test_no_other_range_has_a_much_smaller_error(name: str) -> None:
    rng = np.random.default_rng(1)
    values = {
        "laplace": rng.laplace(size=50_000),
        "normal": rng.standard_normal(50_000),
        "rectified": np.maximum(0, rng.standard_normal(50_000) - 1),
        "uniform": rng.uniform(-1, 3, 50_000),
        "one far out": np.append(rng.uniform(0, 1, 50_000), 4.0),
        "negative": -rng.exponential(size=50_000),
    }[name]
    found = histogram_of(*np.array_split(values, 7)).best()
    assert found is not None
    low, high = found
    assert min(0.0, values.min()) <= low <= 0 <= high <= max(0.0, values.max())
    here = error(values, low, high)
    low_end, high_end = min(0.0, values.min()), max(0.0, values.max())
    others = [
        error(values, low_end * a, high_end * b)
        for a in np.linspace(0.05, 1, 40)
        for b in np.linspace(0.05, 1, 40)
        if a * low_end < b * high_end
    ]
    assert here <= 1.05 * min(others)  # the histogram's bins, and 8 of them between two ends that are tried
    assert here <= 1.05 * error(values, low_end, high_end)


def test_a_histogram_grows_and_keeps_what_it_counted() -> None:
    found = histogram_of(np.linspace(-1, 1, 1000), np.linspace(-5, 30, 1000), np.zeros(24))
    assert found.counts.sum() == 2000  # zero costs nothing
    assert len(found.counts) == BINS
    assert (found.low, found.high) == (-5, 30)
    assert found.width == 32


def test_nothing_seen_and_numbers_that_are_not_finite_give_no_range() -> None:
    assert Histogram().best() is None
    assert histogram_of(np.zeros(10), np.zeros(0), np.array([1, np.nan]), np.array([np.inf])).best() is None


def network(outlier: bool) -> onnx.ModelProto:
    """Two convolutions. With ``outlier``, for inputs of which a few pixels are far brighter, a sigmoid behind them."""
    rng = np.random.default_rng(3)
    first = rng.standard_normal((8, 1, 3, 3)).astype(np.float32) / 3
    second = rng.standard_normal((4, 8, 3, 3)).astype(np.float32) / 9
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"], pads=[1] * 4),
        helper.make_node("Sigmoid" if outlier else "Identity", ["c"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 8, 8])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4, 8, 8])]
    graph = helper.make_graph(nodes, "two", inputs, outputs, [numpy_helper.from_array(first, "w1"), numpy_helper.from_array(second, "w2")])
    return with_names(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9))


def inputs(outlier: bool) -> dict[str, np.ndarray]:
    x = np.random.default_rng(1).standard_normal((64, 1, 8, 8)).astype(np.float32)
    if outlier:
        x[::16, 0, 0, 0] = 60
    return {"x": x}


@pytest.mark.parametrize("outlier", [True, False])
def test_they_are_used_where_outputs_come_nearer(outlier: bool) -> None:
    model, feeds = network(outlier), inputs(outlier)
    chosen = ranges_that_pay(model, feeds)
    seen = seen_values(model, inner_tensors(model), feeds)
    whole, clipped = whole_ranges(seen), clipped_ranges(seen)
    assert set(whole) == set(clipped) == {"x", "a", "b", "c"}
    off = {}
    for label, ranges in (("whole", whole), ("clipped", clipped), ("chosen", chosen)):
        with (
            Engine(model.SerializeToString(), device="cpu") as engine,
            Engine(with_weights_of(model, static_int8(model, feeds, moments={}, ranges=ranges)).SerializeToString(), device="cpu") as eight,
        ):
            off[label] = float(np.square(engine.run(feeds)["y"] - eight.run(feeds)["y"]).mean())
    assert off["chosen"] == min(off["whole"], off["clipped"])
    assert chosen == (clipped if off["clipped"] < off["whole"] else whole)
    assert ranges_that_pay(model, feeds, clip=False) == whole
