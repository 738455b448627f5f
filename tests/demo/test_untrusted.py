"""A stranger's model in a process of its own: answers, limits, and that nothing is left."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from onnxferry.demo.untrusted import Request, SandboxLimits, ask
from onnxferry.runtime.errors import ArtifactError, InputError, OnnxFerryError, UntrustedModelError

X = np.ones((2, 3), np.float32)


def test_it_runs_and_times(scale_model: bytes) -> None:
    answer = ask(Request(scale_model, "run", {"x": X}, repeats=3))
    np.testing.assert_array_equal(answer.outputs["y"], 2 * X)
    assert answer.report["runs"] == 3
    assert answer.report["median_seconds"] > 0


def test_what_the_runtime_says_comes_back(scale_model: bytes) -> None:
    with pytest.raises(InputError, match="input 'x' must be float32, got float64"):
        ask(Request(scale_model, "run", {"x": X.astype(np.float64)}))
    with pytest.raises(ArtifactError, match="is text"):
        ask(Request(b"plain words", "inspect"))


def test_what_is_too_large_is_never_sent(scale_model: bytes) -> None:
    with pytest.raises(UntrustedModelError, match="MB"):
        ask(Request(scale_model, "inspect"), SandboxLimits(model_bytes=10))
    with pytest.raises(InputError, match="MB"):
        ask(Request(scale_model, "run", {"x": X}), SandboxLimits(feed_bytes=10))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_memory_is_limited(build_onnx) -> None:
    from onnx import TensorProto, helper

    def wants(elements: int) -> bytes:
        return build_onnx(
            [helper.make_node("ConstantOfShape", ["n"], ["zeros"]), helper.make_node("ReduceSum", ["zeros"], ["y"])],
            [("x", TensorProto.FLOAT, [])],
            [("y", TensorProto.FLOAT, ["one"])],
            [helper.make_tensor("n", TensorProto.INT64, [1], [elements])],
        ).SerializeToString()

    limits = SandboxLimits(memory_bytes=2 * 2**30)
    feeds = {"x": np.zeros((), np.float32)}
    assert ask(Request(wants(1000), "run", feeds), limits).outputs["y"].tolist() == [0.0]
    with pytest.raises(OnnxFerryError):
        ask(Request(wants(2**30), "run", feeds), limits)  # 4 GB


def test_time_is_limited(scale_model: bytes) -> None:
    with pytest.raises(UntrustedModelError, match="took longer than"):
        ask(Request(scale_model, "run", {"x": X}), SandboxLimits(seconds=0.05))


def test_who_looks_on_can_stop_it_and_nothing_is_left(scale_model: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class LeftError(Exception):
        pass

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seen: list[float] = []

    def tick(seconds: float) -> None:
        seen.append(seconds)
        raise LeftError

    with pytest.raises(LeftError):
        ask(Request(scale_model, "run", {"x": X}), tick=tick)
    assert len(seen) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_child_gets_no_secrets(scale_model: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxferry.demo.untrusted import _environment

    monkeypatch.setenv("API_TOKEN", "secret")
    assert "API_TOKEN" not in _environment()
