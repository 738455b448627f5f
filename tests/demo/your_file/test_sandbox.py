"""A stranger's model in a process of its own: answers, limits, and that nothing is left."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from onnxferry.demo.your_file import sandbox as untrusted
from onnxferry.demo.your_file.sandbox import Request, SandboxLimits, ask
from onnxferry.runtime.artifact.contract import Contract, Golden, Tolerance
from onnxferry.runtime.artifact.metadata import metadata_from_contract
from onnxferry.runtime.errors import ArtifactError, InputError, MissingExtraError, OnnxFerryError, UntrustedModelError

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
    with pytest.raises(UntrustedModelError, match="126 B, and at most 10 B"):
        ask(Request(scale_model, "inspect"), SandboxLimits(model_bytes=10))
    with pytest.raises(InputError, match=r"the inputs hold \d+ B, and at most"):
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
    with pytest.raises(UntrustedModelError, match=r"the model is refused: reading and running it took more than 0\.05 s"):
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


def test_where_the_file_lies_is_not_told(scale_model: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for request in (Request(b"plain words", "inspect"), Request(b"plain words", "run"), Request(scale_model[:50], "check")):
        with pytest.raises(ArtifactError, match="the model") as caught:
            ask(request)
        assert str(tmp_path) not in str(caught.value)
        assert "model.onnx" not in str(caught.value)


def test_an_error_of_whoever_looks_on_goes_up_as_it_is(scale_model: bytes) -> None:
    error = MissingExtraError("rich", "cli", "looking on")

    def tick(_: float) -> None:
        raise error

    with pytest.raises(MissingExtraError) as caught:
        ask(Request(scale_model, "run", {"x": X}), tick=tick)
    assert caught.value is error


def test_outputs_beyond_the_limit_are_refused(scale_model: bytes) -> None:
    x = np.ones((20_000, 3), np.float32)
    with pytest.raises(UntrustedModelError, match=r"the model is refused: what it gives takes 240\.\d kB, and at most 131\.1 kB are taken"):
        ask(Request(scale_model, "run", {"x": x}), SandboxLimits(answer_bytes=2**17))


def test_names_and_kinds_of_outputs_are_the_strangers(build_onnx) -> None:
    """Strings and sequences are told of, not shipped; a name that the runtime's own JSON has a meaning for is a name."""
    from onnx import TensorProto, helper

    model = build_onnx(
        [
            helper.make_node("Mul", ["dtype", "dtype"], ["array/base64"]),
            helper.make_node("Identity", ["words"], ["said"]),
            helper.make_node("SequenceConstruct", ["dtype"], ["shape"]),
        ],
        [("dtype", TensorProto.FLOAT, [2])],
        [("array/base64", TensorProto.FLOAT, [2]), ("said", TensorProto.STRING, [1])],
        [helper.make_tensor("words", TensorProto.STRING, [1], [b"to be"])],
    )
    model.graph.output.append(helper.make_tensor_sequence_value_info("shape", TensorProto.FLOAT, [2]))
    answer = ask(Request(model.SerializeToString(), "run", {"dtype": np.array([2, np.nan], np.float32)}))
    assert answer.outputs.keys() == {"array/base64"}
    np.testing.assert_array_equal(answer.outputs["array/base64"], np.array([4, np.nan], np.float32))
    assert list(map(tuple, answer.report["others"])) == [("said", "object (1,), the first: to be"), ("shape", "list")]


@pytest.mark.parametrize("given", [np.nan, np.inf])
def test_a_difference_that_is_not_finite_is_none(build_onnx, given: float) -> None:
    from onnx import TensorProto, helper

    contract = Contract(
        kind="model",
        name="broken",
        tolerances={"y": Tolerance(1e-4, 1e-5)},
        goldens=(Golden({"x": np.ones(2, np.float32)}, {"y": np.ones(2, np.float32)}),),
        provenance={"framework": ["no", "text"]},
    )
    model = build_onnx(
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        [("x", TensorProto.FLOAT, [2])],
        [("y", TensorProto.FLOAT, [2])],
        [helper.make_tensor("factor", TensorProto.FLOAT, [], [given])],
        metadata=metadata_from_contract(contract),
    ).SerializeToString()
    (found,) = ask(Request(model, "check")).report["comparisons"]
    assert not found["passed"]
    assert found["max_abs"] is None
    shown = ask(Request(model, "inspect")).report["contract"]
    assert (shown["name"], shown["goldens"], shown["framework"]) == ("broken", 1, "")


def test_rows_that_must_run_alone_are_checked_alone(build_onnx) -> None:
    from onnx import TensorProto, helper

    feeds = {"prompt": np.zeros((2, 0), np.uint8), "uniforms": np.array([[0.25], [0.75]], np.float32)}
    golden = Golden(feeds, {"y": np.zeros((2, 1), np.float32)})
    contract = Contract(kind="text-generator", name="mixed", goldens=(golden,), options={"rows_alone": True})
    model = build_onnx(
        [helper.make_node("ReduceMax", ["uniforms"], ["most"], keepdims=0), helper.make_node("Sub", ["uniforms", "most"], ["y"])],
        [("prompt", TensorProto.UINT8, ["batch", "n"]), ("uniforms", TensorProto.FLOAT, ["batch", "m"])],
        [("y", TensorProto.FLOAT, ["batch", "m"])],
        metadata=metadata_from_contract(contract),
    ).SerializeToString()
    (found,) = ask(Request(model, "check")).report["comparisons"]
    assert found["passed"], found["problem"]


@pytest.mark.parametrize("answer", [None, [], {"outputs": ["y"], "arrays": []}, {"outputs": ["y"], "arrays": [3]}, {"outputs": 3}])
def test_an_answer_of_somebody_else_is_refused(scale_model: bytes, answer: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(untrusted.sandbox, "call", lambda *_, **__: answer)
    with pytest.raises(UntrustedModelError, match="no answer that can be understood"):
        ask(Request(scale_model, "run", {"x": X}))
