"""What bounds a run: multiply-adds and weights counted by hand on tiny graphs, the words, and the peaks' structure, never their times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxferry.export.bench.profile import profile as bench_profile
from onnxferry.export.bench.profile import roofline
from onnxferry.export.bench.profile.op_counts import OpCounts, multiply_adds
from onnxferry.export.bench.profile.profile import Profile, Share, profile
from onnxferry.export.bench.profile.roofline import Peaks, Roofline, last_level_cache, measure_peaks, reading, roofline_of
from onnxferry.export.cli.print_bench import roofline_lines
from onnxferry.runtime.cli.main import main
from onnxferry.runtime.engine.engine import Engine

F = TensorProto.FLOAT


@pytest.fixture(autouse=True)
def short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_profile, "PROFILED_S", 0.0)
    monkeypatch.setattr(roofline, "PEAK_S", 0.0)
    monkeypatch.setattr(roofline, "SIDE", 64)
    monkeypatch.setattr(roofline, "LARGE", 2**20)
    monkeypatch.setattr(roofline, "MIN_TURN", 2**20)


Count = Callable[..., OpCounts]


@pytest.fixture
def count(tmp_path: Path, build_onnx: Callable[..., onnx.ModelProto]) -> Count:
    """``count(node(s), x, weights)``: operations of a graph of nodes that read ``x`` and write ``y``, from ONNX Runtime's trace."""

    def counted(nodes: Any, x: np.ndarray, weights: dict[str, np.ndarray], rank: int) -> OpCounts:
        path = tmp_path / "tiny.onnx"
        kind = helper.np_dtype_to_tensor_dtype(x.dtype)
        made = TensorProto.INT32 if any(node.op_type == "MatMulInteger" for node in nodes) else kind
        stored = [numpy_helper.from_array(array, name) for name, array in weights.items()]
        # "basic" keeps the channels as they are: the blocked layout pads them.
        onnx.save(build_onnx(nodes, [("x", kind, ["batch", *x.shape[1:]])], [("y", made, [None] * rank)], stored), path)
        with Engine(path, device="cpu", threads=1, graph_level="basic") as engine:
            return profile(engine, [{"x": x}]).ops

    return counted


def ones(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.ones(shape, dtype)


def node(kind: str, inputs: Sequence[str], outputs: Sequence[str] = ("y",), **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, list(inputs), list(outputs), **attributes)


def test_a_convolution_with_groups_strides_and_a_batch(count: Count) -> None:
    conv = node("Conv", ["x", "w"], group=2, strides=[2, 2], pads=[1, 1, 1, 1])
    ops = count([conv], ones(2, 4, 9, 9), {"w": ones(6, 2, 3, 3)}, 4)
    # (2, 6, 5, 5) numbers, each of 2 × 3 × 3 products
    assert (ops.float32_ops, ops.int8_ops) == (2 * 300 * 18, 0)
    assert (ops.weight_bytes, ops.distinct_bytes) == (432, 432)
    assert ops.counted == {"Conv_0 (Conv)"}  # it has no name: this is ONNX Runtime's


def test_nodes_without_names_are_told_apart(count: Count) -> None:
    nodes = [node("Conv", ["x", "a"], ["h"]), node("Conv", ["h", "b"])]
    ops = count(nodes, ones(1, 1, 4, 4), {"a": ones(2, 1, 3, 3), "b": ones(5, 2, 1, 1)}, 4)
    assert ops.float32_ops == 2 * (2 * 2 * 2 * 9 + 5 * 2 * 2 * 2)
    assert ops.distinct_bytes == 4 * (18 + 10)


def test_a_transposed_convolution(count: Count) -> None:
    ops = count([node("ConvTranspose", ["x", "w"], strides=[2, 2])], ones(1, 2, 3, 3), {"w": ones(2, 3, 2, 2)}, 4)
    assert ops.float32_ops == 2 * 18 * 12  # each of the 18 numbers that go in meets 3 × 2 × 2 weights


def test_matrix_products(count: Count) -> None:
    # Packed beforehand, and so missing in the trace.
    assert count([node("Gemm", ["x", "w"], transB=1)], ones(5, 3), {"w": ones(7, 3)}, 2) == OpCounts(
        210, 0, 84, 84, frozenset({"Gemm_0 (Gemm)"})
    )
    assert count([node("Gemm", ["x", "w"], transA=1)], ones(3, 5), {"w": ones(3, 7)}, 2).float32_ops == 210
    product = count([node("MatMul", ["x", "w"])], ones(2, 1, 4, 8), {"w": ones(8, 3)}, 4)
    assert (product.float32_ops, product.weight_bytes) == (2 * 24 * 8, 96)
    squared = count([node("MatMul", ["x", "x"])], ones(4, 4), {}, 2)
    assert (squared.float32_ops, squared.weight_bytes) == (128, 0)
    whole = count([node("MatMulInteger", ["x", "w"])], ones(4, 8, dtype=np.uint8), {"w": ones(8, 3, dtype=np.int8)}, 2)
    assert (whole.float32_ops, whole.int8_ops, whole.weight_bytes) == (0, 2 * 12 * 8, 24)


def test_recurrent_layers_read_their_recurrent_weights_each_step(count: Count) -> None:
    lstm = node("LSTM", ["x", "w", "r"], ["y"], hidden_size=5, direction="bidirectional")
    ops = count([lstm], ones(3, 2, 4), {"w": ones(2, 20, 4), "r": ones(2, 20, 5)}, 4)
    assert ops.float32_ops == 2 * (3 * 2 * 2 * 20 * (4 + 5))  # steps, batch, directions, four gates of five, inputs
    assert (ops.weight_bytes, ops.distinct_bytes) == (640 + 3 * 800, 1440)
    gru = count([node("GRU", ["x", "w", "r"], ["y"], hidden_size=5)], ones(3, 2, 4), {"w": ones(1, 15, 4), "r": ones(1, 15, 5)}, 4)
    assert gru.float32_ops == 2 * (3 * 2 * 15 * 9)


def test_an_inner_graph_counts_as_often_as_it_runs(count: Count) -> None:
    body = helper.make_graph(
        [node("MatMul", ["before", "w"], ["after"]), node("Add", ["after", "item"], ["shown"])],
        "body",
        [helper.make_tensor_value_info(name, F, [1, 8]) for name in ("before", "item")],
        [helper.make_tensor_value_info(name, F, [1, 8]) for name in ("after", "shown")],
    )
    ops = count(
        [node("Scan", ["start", "x"], ["last", "y"], body=body, num_scan_inputs=1)],
        ones(6, 1, 8),
        {"start": ones(1, 8), "w": ones(8, 8)},
        3,
    )
    assert (ops.float32_ops, ops.weight_bytes, ops.distinct_bytes) == (6 * 128, 6 * 256, 256)


def test_what_cannot_be_counted_is_not() -> None:
    conv, add = node("Conv", ["x", "w"]), node("Add", ["x", "w"])
    assert multiply_adds(conv, [(1, 1, 3, 3)], [(1, 2, 3, 3)], {}) is None  # weights that neither the trace nor the graph has
    assert multiply_adds(conv, [(1, 1, 3, 3), (2, 1, 1, 1)], [(1, 2, 3, 3)], {}) == 18  # computed ones: the trace has them
    assert multiply_adds(add, [(3,), (3,)], [(3,)], {}) is None
    assert multiply_adds(conv, [], [], {"w": (2, 1, 1, 1)}) is None
    quantised = node("QLinearConv", ["x", "s", "z", "w", "s", "z", "s", "z"])
    assert multiply_adds(quantised, [(1, 1, 3, 3)], [(1, 2, 3, 3)], {"w": (2, 1, 3, 3)}) == 18 * 9


PEAKS = Peaks(2, float32=1e11, int8=2e11, memory=1e10, cache_bytes=2**25)


def a_roofline(**changed: Any) -> Roofline:
    standard = {
        **{"arithmetic_s": 1e-4, "weights_s": 2e-5, "weights_rate": 5e10, "run_s": 4e-4},
        **{"kernels": 40.0, "small": 30.0, "multiplying_s": 3e-4, "other_s": 5e-5, "others": ("TopK", "Sort", "Pad", "Tile")},
    }
    return Roofline(**{**standard, **changed})


@pytest.mark.parametrize(
    ("changed", "bound", "words"),
    [
        ({}, "arithmetic", "arithmetic (operators that multiply and add: up to 75% of a run, at 33% of the peak)"),
        (
            {"weights_s": 2e-4},
            "weights",
            "memory, reading weights (operators that multiply and add: up to 75% of a run, at 67% of the peak)",
        ),
        ({"run_s": 1e-3}, "launches", "launches of 30 small operators (under 20 µs each, and the way between: 65% of a run or more)"),
        ({"multiplying_s": 0.0, "other_s": 4e-4}, "other", "operators without multiply-adds: TopK, Sort, Pad, … (up to 100% of a run)"),
    ],
)
def test_what_bounds_a_run(changed: dict[str, float], bound: str, words: str) -> None:
    found = a_roofline(**changed)
    assert (found.bound, found.words()) == (bound, words)


def test_the_lines() -> None:
    done = OpCounts(10_000_000, 2_000_000_000, 3_000_000, 1_000_000)
    lines = roofline_lines(a_roofline(), done, PEAKS.cache_bytes)
    assert lines[0] == (
        "a run does 10 M operations in float32 and 2 G operations in 8 bits, reading 1.0 MB of weights "
        "(they fit the last-level cache of 33.6 MB) at 50 GB/s, 3.0 MB in all"
    )
    assert lines[1] == "roofline: 100 µs, the larger of 100 µs of arithmetic and 20.0 µs of reading weights; a run takes 4.0 × that"
    assert lines[2].endswith("; 40 operators are launched a run")
    assert lines[3] == "not in the roofline: 50.0 µs of TopK, Sort, Pad, …, and the small operators without multiply-adds"
    assert "last-level" not in roofline_lines(a_roofline(), done, None)[0]
    assert "none" in roofline_lines(a_roofline(arithmetic_s=0.0, weights_s=0.0), OpCounts(), None)[0]


def test_the_roofline_of_a_profile() -> None:
    nodes = (
        Share("scan (Scan)", 1, 9e-4, 0.0),  # nothing of its own, however long
        Share("a (Gemm)", 10, 6e-4, 0.0),
        Share("b (Gemm)", 10, 1e-4, 0.0),  # 10 µs each
        Share("c (TopK)", 1, 1e-4, 0.0),
    )
    ops = OpCounts(200_000_000, 200_000_000, 2_000_000, 1_000_000, frozenset({"a (Gemm)", "b (Gemm)"}))
    found = roofline_of(Profile(1, 1e-3, 2e-3, (), nodes, ops), PEAKS)
    assert found.arithmetic_s == pytest.approx(2e-3 + 1e-3)
    assert found.weights_s == pytest.approx(2_000_000 / found.weights_rate)
    assert (found.kernels, found.small, found.others) == (22, 11, ("TopK",))
    assert (found.multiplying_s, found.other_s, found.launches_s) == pytest.approx((6e-4, 1e-4, 3e-4))


def test_peaks_are_measured() -> None:
    peaks = measure_peaks(1)
    assert peaks.threads == 1
    assert min(peaks.float32, peaks.int8, peaks.memory) > 0
    assert reading(1, 2) > 0


def test_the_last_level_cache(tmp_path: Path) -> None:
    for index, size in enumerate(("32K", "512K", "32M", "odd")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(f"{size}\n")
    assert last_level_cache(tmp_path) == 2**25
    assert last_level_cache(tmp_path / "nothing") is None


def test_the_command_says_what_bounds_a_run(
    tmp_path: Path, build_onnx: Callable[..., onnx.ModelProto], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ONNXFERRY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ONNXFERRY_HOME", str(tmp_path / "home"))
    path = tmp_path / "net.onnx"
    # 16 channels: blocks of 8 or 16, as CPUs have them, pad no more.
    weights = [numpy_helper.from_array(ones(16, 1, 3, 3), "w")]
    onnx.save(build_onnx([node("Conv", ["x", "w"])], [("x", F, ["batch", 1, 8, 8])], [("y", F, ["batch", 16, 6, 6])], weights), path)
    assert main(["bench", str(path), "--batch", "2", "--threads", "1", "--profile"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for words in (
        "1 thread, measured now: ",
        "a run does 20,736 operations in float32, reading 576 B of weights",
        "roofline: ",
        "bounded by: ",
    ):
        assert words in printed, printed
