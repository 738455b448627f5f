"""``onnxferry diff``: graph, weights and contract of two files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxferry.export.graphs.diff import WeightChange, diff_files
from onnxferry.runtime.artifact.contract import Contract, Golden
from onnxferry.runtime.artifact.metadata import metadata_from_contract
from onnxferry.runtime.cli.main import main
from onnxferry.runtime.errors import UntrustedModelError

WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3)
CONTRACT = Contract(
    "model", "tiny", metrics={"accuracy": 0.5}, goldens=(Golden({"x": np.ones((1, 4), np.float32)}, {"y": np.ones((1, 3), np.float32)}),)
)


def write(path: Path, *, weight=WEIGHT, name="fc.weight", inner="h", relu=True, opset=18, x=4, extra=(), contract=CONTRACT) -> Path:
    nodes = [helper.make_node("MatMul", ["x", name], [inner]), *extra]
    nodes.append(helper.make_node("Relu" if relu else "Tanh", [nodes[-1].output[0]], ["y"], name=f"node_of_{inner}"))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", x])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(weight, name)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    helper.set_model_props(model, metadata_from_contract(contract) if contract else {})
    path.write_bytes(model.SerializeToString())
    return path


def words(changes) -> list[str]:
    return [change.words() for change in changes]


def test_equal_files_and_inner_names_do_not_count(tmp_path: Path) -> None:
    a = write(tmp_path / "a.onnx")
    found = diff_files(a, write(tmp_path / "b.onnx", inner="another_name"))
    assert found.same
    assert (found.graph, found.weights, found.contract, found.equal_weights) == ((), (), (), 1)


def test_one_weight(tmp_path: Path) -> None:
    weight = WEIGHT.copy()
    weight[1, 2] += 0.5
    found = diff_files(write(tmp_path / "a.onnx"), write(tmp_path / "b.onnx", weight=weight))
    assert not found.same
    assert found.graph == ()
    (change,) = found.weights
    assert isinstance(change, WeightChange)
    assert (change.what, change.differing, change.elements, change.max_abs) == ("fc.weight", 1, 12, 0.5)


def test_not_a_number_is_a_difference_on_one_side_only(tmp_path: Path) -> None:
    broken = WEIGHT.copy()
    broken[0, 0] = np.nan
    a, b = write(tmp_path / "a.onnx"), write(tmp_path / "b.onnx", weight=broken)
    (change,) = diff_files(a, b).weights
    assert isinstance(change, WeightChange)
    assert change.differing == 1
    assert np.isnan(change.max_abs)
    assert diff_files(b, write(tmp_path / "c.onnx", weight=broken)).same


def test_shape_and_dtype_of_a_weight(tmp_path: Path) -> None:
    a = write(tmp_path / "a.onnx")
    b = write(tmp_path / "b.onnx", weight=WEIGHT[:2], x=2)
    found = diff_files(a, b)
    assert words(found.weights) == ["fc.weight: was float32[4, 3], is float32[2, 3]"]
    assert words(found.graph) == ["input x: was float32 (batch, 4), is float32 (batch, 2)"]


def test_a_renamed_weight_is_the_same_weight(tmp_path: Path) -> None:
    found = diff_files(write(tmp_path / "a.onnx"), write(tmp_path / "b.onnx", name="head.weight"))
    assert found.renamed == (("fc.weight", "head.weight"),)
    assert found.same
    found = diff_files(write(tmp_path / "a.onnx"), write(tmp_path / "b.onnx", name="head.weight", weight=WEIGHT + 1))
    assert words(found.weights) == ["fc.weight: only in the first: float32[4, 3]", "head.weight: only in the second: float32[4, 3]"]


def test_another_operator(tmp_path: Path) -> None:
    found = diff_files(write(tmp_path / "a.onnx"), write(tmp_path / "b.onnx", relu=False, opset=17))
    assert words(found.graph) == [
        "opset ai.onnx: was 18, is 17",
        "operator ai.onnx::Relu: only in the first: 1 times",
        "operator ai.onnx::Tanh: only in the second: 1 times",
        "node 1: was Relu(^1) → y, is Tanh(^1) → y",
    ]
    assert found.weights == ()


def test_one_more_node_shifts_no_other(tmp_path: Path) -> None:
    extra = [helper.make_node("LeakyRelu", ["h"], ["leaky"], alpha=0.5)]
    found = diff_files(write(tmp_path / "a.onnx"), write(tmp_path / "b.onnx", extra=extra))
    assert words(found.graph) == [
        "operator ai.onnx::LeakyRelu: only in the second: 1 times",
        "node 1: only in the second: LeakyRelu(^1, alpha=0.5)",
    ]


def test_an_attribute_and_a_branch(tmp_path: Path) -> None:
    def branch(path: Path, factor: float) -> Path:
        sides = [
            helper.make_graph([helper.make_node("Mul", ["h", f"f{n}"], [f"o{n}"])], f"g{n}", [],
                              [helper.make_tensor_value_info(f"o{n}", TensorProto.FLOAT, None)],
                              [numpy_helper.from_array(np.float32(value), f"f{n}")])
            for n, value in enumerate((2.0, factor))
        ]  # fmt: skip
        nodes = [
            helper.make_node("ReduceSum", ["h"], ["sum"], keepdims=0),
            helper.make_node("Cast", ["sum"], ["flag"], to=TensorProto.BOOL),
            helper.make_node("If", ["flag"], ["chosen"], then_branch=sides[0], else_branch=sides[1]),
        ]
        return write(path, extra=nodes)

    a, b = branch(tmp_path / "a.onnx", 3.0), branch(tmp_path / "b.onnx", 4.0)
    assert diff_files(a, a).same
    (change,) = diff_files(a, b).graph
    assert "float32 3.0" in str(change.a)
    assert "float32 4.0" in str(change.b)


def test_contract(tmp_path: Path) -> None:
    changed = CONTRACT.replace(metrics={"accuracy": 0.75, "n": 4}, license="MIT", goldens=())
    found = diff_files(write(tmp_path / "a.onnx"), write(tmp_path / "b.onnx", contract=changed))
    assert (found.graph, found.weights) == ((), ())
    text = words(found.contract)
    assert "metrics.accuracy: was 0.5, is 0.75" in text
    assert "metrics.n: only in the second: 4" in text
    assert "license: only in the second: MIT" in text
    assert any(line.startswith("goldens: only in the first: 1 samples") for line in text)
    assert len(text) == 4
    assert not diff_files(write(tmp_path / "a.onnx"), write(tmp_path / "b.onnx", contract=None)).same


def test_long_graphs_are_compared_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxferry.export.graphs.diff.MAX_ALIGNED_NODES", 1)
    found = diff_files(write(tmp_path / "a.onnx"), write(tmp_path / "b.onnx", relu=False))
    assert words(found.graph)[-1] == "node 1, the first that differs: was Relu(^1) → y, is Tanh(^1) → y"


def test_a_strangers_file_is_looked_at_first(tmp_path: Path) -> None:
    a = write(tmp_path / "a.onnx")
    model = onnx.load(a)
    model.graph.node[0].domain = "com.evil"
    (tmp_path / "b.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UntrustedModelError, match="custom operator"):
        diff_files(a, tmp_path / "b.onnx")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write(tmp_path / "a.onnx"), write(tmp_path / "b.onnx", weight=WEIGHT + 1, relu=False)
    assert main(["diff", str(a), str(a), "--exit-code"]) == 0
    out = capsys.readouterr().out
    assert out.count("the same") == 3
    assert main(["diff", str(a), str(b)]) == 0
    out = capsys.readouterr().out
    assert "fc.weight: 12 of 12 values differ, by 1 at most" in out
    assert "node 1: was Relu(^1) → y, is Tanh(^1) → y" in out
    assert main(["diff", str(a), str(b), "--exit-code", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["same"] is False
    assert document["weights"] == [
        {"what": "fc.weight", "a": "float32[4, 3]", "b": "float32[4, 3]", "differing": 12, "elements": 12, "max_abs": 1.0}
    ]
    assert main(["diff", str(a), str(tmp_path / "absent.onnx")]) == 1
    assert capsys.readouterr().err.startswith("error: no such file: ")
