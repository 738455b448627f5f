"""Inputs that may be left out have their defaults in the contract, and none in the graph."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxferry.export.graphs.reading import load_onnx, put_back, take_out
from onnxferry.export.graphs.writer import write_artifact
from onnxferry.runtime.artifact.contract import DEFAULT_BYTES, Contract
from onnxferry.runtime.artifact.describe import describe
from onnxferry.runtime.artifact.metadata import metadata_from_contract
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.engine.replay import replay_goldens
from onnxferry.runtime.errors import ArtifactError, InputError

ROOT = Path(__file__).parents[3]


def affine(**defaults: np.ndarray) -> onnx.ModelProto:
    """``y = x * scale + shift``"""
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "scale"], ["s"]), helper.make_node("Add", ["s", "shift"], ["y"])],
        "g",
        [
            info("x", TensorProto.FLOAT, ["batch", "n"]),
            info("scale", TensorProto.FLOAT, []),
            info("shift", TensorProto.FLOAT, ["n_or_1"]),
        ],
        [info("y", TensorProto.FLOAT, ["batch", "n"])],
        [numpy_helper.from_array(value, name) for name, value in defaults.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


SCALE, SHIFT = np.array(2, np.float32), np.array([0.5], np.float32)
X = np.array([[1, 2, 3]], np.float32)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_artifact(affine(scale=SCALE, shift=SHIFT), Contract("model", "affine"), tmp_path / "affine.onnx")
    return tmp_path / "affine.onnx"


def test_a_file_has_them_in_its_contract(file: Path) -> None:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    assert session.get_overridable_initializers() == []
    assert [value.name for value in session.get_inputs()] == ["x", "scale", "shift"]
    model = describe(file)
    assert model.contract is not None
    assert (model.contract.schema, list(model.contract.defaults)) == (2, ["scale", "shift"])
    assert [spec.name for spec in model.summary.inputs] == ["x"]
    assert [spec.name for spec in model.summary.optional_inputs] == ["scale", "shift"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, [2.5, 4.5, 6.5]),
        ({"scale": np.array(1, np.float32)}, [1.5, 2.5, 3.5]),
        ({"shift": np.array([1, 0, -1], np.float32)}, [3, 4, 5]),
        ({"scale": np.array(0, np.float32), "shift": np.array([7], np.float32)}, [7, 7, 7]),
    ],
    ids=str,
)
def test_every_way_to_run_fills_them_in(file: Path, given: Mapping[str, np.ndarray], expected: list[float]) -> None:
    feeds = {"x": X, **given}
    with Engine(file, device="cpu") as engine:
        assert [spec.name for spec in engine.inputs] == ["x"]
        assert [spec.name for spec in engine.optional_inputs] == ["scale", "shift"]
        answers = [engine.run(feeds)["y"], asyncio.run(engine.arun(feeds))["y"], engine.run_dlpack(feeds)["y"].numpy()]
        out = np.empty((1, 3), np.float32)
        for _ in range(3):  # the second time through a binding that was kept
            out[:] = 0
            engine.run_into(feeds, {"y": out})
            answers.append(out.copy())
    for answer in answers:
        np.testing.assert_array_equal(answer, [expected])


def test_a_run_leaves_the_callers_feeds_and_the_defaults_alone(file: Path) -> None:
    feeds = {"x": X}
    with Engine(file, device="cpu") as engine:
        engine.run({**feeds, "scale": np.array(9, np.float32)})
        engine.run(feeds)
        assert list(feeds) == ["x"]
        with pytest.raises(InputError, match="input 'x' is missing; expected x: float32"):
            engine.run({"scale": SCALE})


def test_reading_puts_them_back_and_writing_takes_them_out(file: Path, tmp_path: Path) -> None:
    model = load_onnx(file)
    assert {tensor.name for tensor in model.graph.initializer} == {"scale", "shift"}
    contract = describe(file).contract
    again = tmp_path / "again.onnx"
    write_artifact(model, contract, again)
    assert again.read_bytes() == file.read_bytes()
    # Without a contract there is nowhere else to keep them.
    write_artifact(model, None, tmp_path / "plain.onnx")
    with Engine(tmp_path / "plain.onnx", device="cpu") as engine:
        assert [spec.name for spec in engine.optional_inputs] == ["scale", "shift"]


def test_what_a_contract_cannot_hold_is_a_constant() -> None:
    half = helper.make_tensor("scale", TensorProto.BFLOAT16, [], [2.0])
    large = np.zeros(DEFAULT_BYTES // 4 + 1, np.float32)
    model = affine(shift=large)
    model.graph.initializer.append(half)
    assert take_out(model) == {}
    assert [value.name for value in model.graph.input] == ["x"]
    assert {tensor.name for tensor in model.graph.initializer} == {"scale", "shift"}
    put_back(model, {"no such input": large})
    assert len(model.graph.initializer) == 2


def test_several_defaults_together_fit_or_the_largest_is_a_constant() -> None:
    model = affine(scale=SCALE, shift=np.zeros(DEFAULT_BYTES // 4, np.float32))
    assert list(take_out(model)) == ["scale"]
    assert [value.name for value in model.graph.input] == ["x", "scale"]


@pytest.mark.parametrize(
    ("defaults", "says"),
    [
        ({"shrift": SHIFT}, "a default for 'shrift', which is not a required input of the graph"),
        ({"scale": SHIFT}, r"does not fit the input scale: float32 \(\), got float32 \(1,\)"),
        ({"scale": np.array(2)}, r"does not fit the input scale: float32 \(\), got int64 \(\)"),
    ],
)
def test_a_contract_that_does_not_fit_its_graph_is_refused(tmp_path: Path, defaults: Mapping[str, np.ndarray], says: str) -> None:
    model = affine()
    helper.set_model_props(model, metadata_from_contract(Contract("model", "affine", defaults=defaults)))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match=says):
        describe(tmp_path / "m.onnx")


@pytest.mark.parametrize("path", sorted((ROOT / "runtime" / "zoo").rglob("*.onnx")), ids=lambda path: path.stem)
def test_a_shipped_file_answers_where_only_required_inputs_are_seen(path: Path) -> None:
    """As ONNX Runtime's bindings for JavaScript see it: they pass on what get_inputs() names, and nothing else."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    contract = describe(path).contract
    assert contract is not None
    assert session.get_overridable_initializers() == []

    def run(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        complete = {**contract.defaults, **feeds}
        outputs = [output.name for output in session.get_outputs()]
        return dict(zip(outputs, session.run(outputs, {value.name: complete[value.name] for value in session.get_inputs()}), strict=True))

    replay_goldens(run, contract).raise_if_failed(path.name)
