"""``onnxferry bench --profile``: the profiler's trace is valid, and times inside loops are not counted twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxferry.export.bench.profile import profile as bench_profile
from onnxferry.export.bench.profile.profile import open_as_tuned, profile, read_trace, summed
from onnxferry.runtime.artifact.describe import describe
from onnxferry.runtime.cli.main import main
from onnxferry.runtime.engine.ort import ONE_NODE_MODEL
from onnxferry.runtime.errors import DeviceError
from onnxferry.runtime.tuning.plan import Plan, Setting, Tuning
from onnxferry.runtime.tuning.tuned_engine import TunedEngine


def kernel(name: str, operator: str, start: int, duration: int) -> dict[str, object]:
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": start, "dur": duration, "args": {"op_name": operator}}


def run(start: int, duration: int) -> dict[str, object]:
    return {"cat": "Session", "name": "model_run", "ts": start, "dur": duration, "args": {}}


def test_what_runs_inside_an_operator_is_not_its_own_time() -> None:
    events = [
        *(run(0, 1000), kernel("scan", "Scan", 0, 900)),  # to warm up: not counted
        *(run(2000, 110), kernel("scan", "Scan", 2000, 100), kernel("a", "Gemm", 2010, 30), kernel("b", "Gemm", 2050, 20)),
        *(run(3000, 130), kernel("scan", "Scan", 3000, 120), kernel("a", "Gemm", 3010, 50), kernel("b", "Gemm", 3065, 20)),
    ]
    found = summed(events, 1, 1e-4)
    assert found.runs == 2
    assert found.session_s == pytest.approx(120e-6)
    assert {share.name: round(share.seconds * 1e6) for share in found.operators} == {"Gemm": 60, "Scan": 50}
    assert {share.name: round(share.seconds * 1e6) for share in found.nodes} == {"scan (Scan)": 50, "a (Gemm)": 40, "b (Gemm)": 20}
    assert next(share.calls for share in found.operators if share.name == "Gemm") == 2
    assert found.between_s == pytest.approx(10e-6)


def test_the_command_prints_shares_and_keeps_a_valid_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ONNXFERRY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ONNXFERRY_HOME", str(tmp_path / "home"))
    trace = tmp_path / "trace.json"
    path = tmp_path / "square.onnx"
    path.write_bytes(ONE_NODE_MODEL)
    assert main(["bench", str(path), "--batch", "1", "--threads", "1", "--profile", "--trace", str(trace)]) == 0
    printed = capsys.readouterr().out
    assert "Mul" in printed
    assert "100.0%" in printed
    events = json.loads(trace.read_text())
    assert {"ph", "ts", "dur", "pid", "tid"} <= set(events[-1])
    assert read_trace(trace) == events


def test_rows_between_the_tuned_sizes_are_profiled_as_they_are_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build_onnx: Callable[..., onnx.ModelProto]
) -> None:
    path = tmp_path / "double.onnx"
    x, y = (("x", TensorProto.FLOAT, ["batch", 3]), ("y", TensorProto.FLOAT, ["batch", 3]))
    onnx.save(build_onnx([helper.make_node("Add", ["x", "x"], ["y"])], [x], [y]), path)
    setting = Setting(threads=1, sizes=(("batch", 64),))
    tuning = Tuning(path, {64: Plan(64, setting, 1e-3, 2e-3, 2.0, ())}, "a CPU", files={"": describe(path)})
    monkeypatch.setattr(bench_profile, "open_tuned", lambda path, **settings: TunedEngine(tuning, device="cpu"))
    for rows, batch in ((64, 64), (8, "batch")):
        feeds = {"x": np.ones((rows, 3), np.float32)}
        with open_as_tuned(path, feeds, 1) as engine:
            assert engine.inputs[0].shape == (batch, 3)
            assert profile(engine, [feeds]).operators[0].name == "Add"


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"cat": "Session", "name": "model_run"}]'])
def test_a_trace_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(DeviceError, match="profiler"):
        read_trace(tmp_path / "t.json")
