"""Files in other operator sets, up and down: what is written does the same, and what cannot be converted is named."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from foreign_files import block, node, save, value, weights, whole
from onnx import helper

from onnxferry.export import convert_file, export_model
from onnxferry.export.sources.foreign import versions
from onnxferry.export.sources.foreign.adapters import STEPS
from onnxferry.export.sources.foreign.targets import parsed_target
from onnxferry.runtime import Engine
from onnxferry.runtime.errors import ExportError, InputError, ParityError


def opset_of(path: Path) -> int:
    return versions.opset_of(onnx.load(path))


@pytest.mark.parametrize("opset", [13, 16, 17, 18, 19, 21, 23])
def test_up_and_down(tmp_path: Path, opset: int) -> None:
    """Gelu and LayerNormalization are written out where the set does not have them."""
    file, out = block(tmp_path / "model.onnx"), tmp_path / "out.onnx"
    report = convert_file(file, out, opset=opset)
    assert report.passed
    assert opset_of(out) == opset
    operators = {each.op_type for each in onnx.load(out).graph.node}
    assert ("Gelu" in operators) == (opset >= 20)
    assert ("LayerNormalization" in operators) == (opset >= 17)
    x = np.random.default_rng(3).standard_normal((3, 5, 8)).astype(np.float32) * 30
    with Engine(file, device="cpu") as old, Engine(out, device="cpu") as new:
        np.testing.assert_allclose(new.run({"x": x})["y"], old.run({"x": x})["y"], rtol=1e-5, atol=1e-5)


def test_target_lowers_what_is_needed_and_no_more(tmp_path: Path) -> None:
    file, out = block(tmp_path / "model.onnx"), tmp_path / "out.onnx"
    assert convert_file(file, out, target="ort>=1.17").fixes == []
    assert opset_of(out) == 20
    model = onnx.load(file)
    model.ir_version = 11
    onnx.save(model, tmp_path / "new.onnx")
    report = convert_file(tmp_path / "new.onnx", out, target="onnxruntime >= 1.15.1")
    assert report.fixes == ["operator set 20, now 19", "IR version 11, now 9"]
    assert (opset_of(out), onnx.load(out).ir_version) == (19, 9)


def test_softmax_of_older_sets_means_another_axis(tmp_path: Path) -> None:
    """Its default and its meaning changed in operator set 13: only the number of the set would be wrong without a word."""
    file = save(
        tmp_path / "old.onnx",
        [node("Softmax", ["x"], ["y"])],
        [value("x", ["batch", 4, 5])],
        [value("y", ["batch", 4, 5])],
        opset=11,
        ir_version=6,
    )
    convert_file(file, tmp_path / "new.onnx", opset=18)
    x = np.random.default_rng(0).standard_normal((2, 4, 5)).astype(np.float32)
    with Engine(tmp_path / "new.onnx", device="cpu") as engine:
        y = engine.run({"x": x})["y"]
    np.testing.assert_allclose(y.sum(axis=(1, 2)), 1, atol=1e-5)  # over both axes, as the old set has it


def test_a_wrong_conversion_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a step were wrong: the comparison finds it, however the graph was made."""
    monkeypatch.setitem(STEPS, ("ReduceMean", 18, 17), lambda each, around: each.input.__delitem__(slice(1, None)))
    monkeypatch.setattr(versions.version_converter, "convert_version", lambda model, opset: model)
    with pytest.raises(ParityError, match="ReduceMean"):
        convert_file(block(tmp_path / "model.onnx"), tmp_path / "out.onnx", opset=17)
    assert not (tmp_path / "out.onnx").exists()


def test_subgraphs_are_converted_too(tmp_path: Path) -> None:
    """onnx.version_converter leaves them as they were."""
    scalar = value("m", [])
    body = helper.make_graph([node("ReduceMax", ["x", "axes"], ["m"], keepdims=0)], "then", [], [scalar])
    other = helper.make_graph([node("ReduceMin", ["x", "axes"], ["m"], keepdims=0)], "else", [], [scalar])
    nodes = [
        node("ReduceSum", ["x"], ["s"], keepdims=0),
        node("Greater", ["s", "zero"], ["up"]),
        node("If", ["up"], ["m"], then_branch=body, else_branch=other),
    ]
    zero = onnx.numpy_helper.from_array(np.float32(0), "zero")
    file = save(tmp_path / "m.onnx", nodes, [value("x", ["batch", 4])], [scalar], [zero, whole("axes", 0, 1)])
    convert_file(file, tmp_path / "out.onnx", opset=17)
    with Engine(tmp_path / "out.onnx", device="cpu") as engine:
        assert engine.run({"x": np.array([[1, 2, 3, 9]], np.float32)})["m"] == 9
        assert engine.run({"x": -np.array([[1, 2, 3, 9]], np.float32)})["m"] == -9


@pytest.mark.parametrize(
    ("nodes", "now", "then", "words"),
    [
        ([node("Resize", ["x", "", "scales"], ["y"], antialias=1, mode="linear")], 18, 17, "Resize has antialias=1"),
        ([node("ScatterND", ["x", "i", "u"], ["y"], reduction="mul")], 16, 15, "ScatterND has reduction=b'mul'"),
        ([node("BitwiseNot", ["n"], ["m"]), node("Cast", ["m"], ["y"], to=1)], 18, 17, "no operator BitwiseNot"),
        ([node("Shape", ["x"], ["s"], start=1), node("Cast", ["s"], ["y"], to=1)], 15, 14, "Shape has start=1"),
    ],
)
def test_an_operator_that_cannot_be_converted_is_named(
    tmp_path: Path, nodes: list[onnx.NodeProto], now: int, then: int, words: str
) -> None:
    given = [
        onnx.numpy_helper.from_array(np.array([1, 1, 0.5, 0.5], np.float32), "scales"),
        onnx.numpy_helper.from_array(np.zeros((1, 4), np.int64), "i"),
        weights("u", 1),
        whole("n", 1, 2),
    ]
    used = {name for each in nodes for name in each.input}
    file = save(
        tmp_path / "m.onnx",
        nodes,
        [value("x", [1, 2, 8, 8])],
        [value("y", YS[nodes[0].op_type])],
        [tensor for tensor in given if tensor.name in used],
        opset=now,
    )
    with pytest.raises(ExportError, match=words):
        convert_file(file, tmp_path / "out.onnx", opset=then)
    assert not (tmp_path / "out.onnx").exists()


YS: dict[str, list[int]] = {"Resize": [1, 2, 4, 4], "ScatterND": [1, 2, 8, 8], "BitwiseNot": [2], "Shape": [3]}


def test_every_step_is_between_two_schemas_that_differ() -> None:
    """A step for an operator that did not change, or that is not there, would never run."""
    for operator, now, then in STEPS:
        assert abs(now - then) == 1
        assert versions.schema(operator, now) is not None, operator
        assert versions.schema(operator, then) is not None, operator
        assert not versions._alike(operator, now, then), (operator, now, then)


def test_a_contract_is_kept(tmp_path: Path) -> None:
    import torch

    export_model(
        torch.nn.Linear(4, 2), torch.ones(2, 4), tmp_path / "a.onnx", dynamic_shapes={"x": {0: "rows"}} and [{0: "rows"}], license="MIT"
    )
    convert_file(tmp_path / "a.onnx", tmp_path / "b.onnx", opset=15)
    with Engine(tmp_path / "b.onnx", device="cpu") as engine:
        assert engine.contract is not None
        assert engine.contract.license == "MIT"
        assert len(engine.contract.goldens) == 2


def test_the_new_file_runs_in_another_runtime_before_it_is_written(tmp_path: Path) -> None:
    file = block(tmp_path / "model.onnx")
    assert convert_file(file, tmp_path / "out.onnx", opset=18, python=sys.executable).passed


def test_bad_input(tmp_path: Path) -> None:
    file, out = block(tmp_path / "model.onnx"), tmp_path / "out.onnx"
    for options, words in (
        ({}, "say what to convert to"),
        ({"opset": 3}, "operator sets 7 to"),
        ({"opset": 99}, "operator sets 7 to"),
        ({"target": "tensorrt>=8"}, "a target is ort>=VERSION"),
        ({"target": "ort>=1.2"}, "the oldest ONNX Runtime"),
        ({"target": "ort>=1.17", "opset": 21}, "reads operator sets up to 20"),
    ):
        with pytest.raises(InputError, match=words):
            convert_file(file, out, **options)  # type: ignore[arg-type]
    assert not out.exists()


def test_targets() -> None:
    assert parsed_target("ort>=1.17").opset == 20
    assert parsed_target("ort>=1.31") == parsed_target("ort>=1.30").__class__("ONNX Runtime 1.31", 26, 5, 13)
