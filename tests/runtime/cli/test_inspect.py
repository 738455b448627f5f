from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from onnxferry.runtime.artifact.describe import describe
from onnxferry.runtime.cli.main import main


def test_one_of_ours(recogniser: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(recogniser)]) == 0
    out = capsys.readouterr().out
    for expected in (
        "recogniser (cnn): brightness 1. Tells how bright an image is.",
        "black, dark, light, white",
        "ai.onnx 18  (IR version 10)",
        "(batch, height, width, 1)",
        "probabilities",
        "2 samples",
        "accuracy",
        "0.9975",
        "Parity with the source",
        "by hand",
        f"onnxferry check {recogniser}",
    ):
        assert expected in out.replace("\n", " ") or expected in out, expected


def test_one_of_ours_as_json(recogniser: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(recogniser), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["bytes"] == recogniser.stat().st_size
    assert document["opsets"] == {"ai.onnx": 18}
    assert document["operators"]["ai.onnx::Softmax"] == 1
    assert document["nodes"] == 7
    assert document["parameters"] == {"float32": 9, "int64": 5}
    assert document["inputs"] == [{"name": "image", "dtype": "uint8", "shape": ["batch", "height", "width", 1]}]
    assert document["optional_inputs"] == []
    assert [output["name"] for output in document["outputs"]] == ["probabilities", "class_index", "features"]
    contract = document["contract"]
    assert contract["labels"] == ["black", "dark", "light", "white"]
    assert contract["tolerances"]["probabilities"] == {"rtol": 1e-4, "atol": 1e-5}
    assert contract["goldens"] == 2
    assert document["metadata"]["task"] == "recogniser"
    assert not [key for key in document["metadata"] if key.startswith("onnxferry.")]


def test_a_foreign_file(make_model: Callable[..., Path], doubler: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import onnx

    path = make_model(onnx.load(doubler).graph, {"author": "somebody", "evil": "\x1b[2J[bold]"})
    assert main(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert "without an onnxferry contract" in out
    assert "somebody" in out
    assert "\\x1b[2J[bold]" in out
    assert "\x1b" not in out
    assert main(["inspect", str(path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["contract"] is None
    assert document["metadata"]["author"] == "somebody"


def test_optional_inputs_and_external_weights_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "scale"], ["s"]), helper.make_node("Add", ["s", "offset"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, [None, 2]), value("scale", TensorProto.FLOAT, [2])],
        [value("y", TensorProto.FLOAT, [None, 2])],
        [numpy_helper.from_array(np.ones(2, np.float32), "scale"), numpy_helper.from_array(np.ones(2, np.float32), "offset")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    assert main(["inspect", str(tmp_path / "m.onnx"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [spec["name"] for spec in document["inputs"]] == ["x"]
    assert [spec["name"] for spec in document["optional_inputs"]] == ["scale"]
    assert main(["inspect", str(tmp_path / "m.onnx")]) == 0
    out = capsys.readouterr().out
    assert "2 tensors lie in files of their own" in out.replace("\n", " ")
    assert "(?, 2)" in out


def test_runs_nothing_and_needs_no_onnxruntime(recogniser: Path) -> None:
    code = "import sys; sys.modules['onnxruntime'] = None; from onnxferry.runtime.cli.main import main; sys.exit(main(sys.argv[1:]))"
    result = subprocess.run(
        [sys.executable, "-c", code, "inspect", str(recogniser)], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "brightness" in result.stdout


def test_broken_files_and_contracts(
    recogniser: Path, doubler: Path, make_model: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    import onnx

    recogniser.write_bytes(recogniser.read_bytes()[:500])
    broken = make_model(onnx.load(doubler).graph, {"onnxferry.schema": "1", "onnxferry.contract": "{"})
    for path, says in [(recogniser, "not a readable ONNX file"), (broken, "contract is broken")]:
        assert main(["inspect", str(path)]) == 1
        err = capsys.readouterr().err
        assert says in err
        assert [line.partition(" ")[0] for line in err.splitlines()] == ["error:", "help:"]


def test_placement_names_the_device_and_every_node(recogniser: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(recogniser), "--placement", "--device", "cpu", "--json"]) == 0
    placed = json.loads(capsys.readouterr().out)["placement"]
    assert (placed["device"], placed["reason"]) == ("cpu", "as asked for")
    assert {node["operator"] for node in placed["nodes"]} >= {"Gemm", "Softmax", "ArgMax"}
    assert {node["provider"] for node in placed["nodes"]} == {"cpu"}
    assert main(["inspect", str(recogniser), "--placement"]) == 0
    out = capsys.readouterr().out
    assert "Gemm" in out
    assert f"{len(placed['nodes'])} on cpu" in out
    assert main(["inspect", str(recogniser), "--json"]) == 0
    assert "placement" not in json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_metadata_nested_deep_is_one_clear_error(
    make_model: Callable[..., Path], recogniser: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    import onnx

    model = onnx.load(recogniser)
    metadata = {each.key: each.value for each in model.metadata_props} | {"onnxferry.metrics": '{"a":' * 500 + "1" + "}" * 500}
    path = make_model(model.graph, metadata)
    assert main(["inspect", str(path), *options]) == 1
    said = capsys.readouterr()
    assert "onnxferry.metrics: lists and objects in each other more than 64 deep" in said.out + said.err
    assert "Traceback" not in said.err


def test_the_comparison_in_the_words_of_the_export(
    recogniser: Path, make_recogniser: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    own = describe(recogniser).contract
    assert own is not None
    output = {"elements": 40, "max_abs": 5.07e-07, "rtol": 0.0001, "atol": 1e-05, "decisions": 10, "decisions_changed": 0}
    parity = {
        "passed": True,
        "strategy": "torch.export",
        "cases": 52,
        "untraced_shapes": 32,
        "dropped": 3,
        "outputs": {"last_hidden_state_of_all_the_words_in_a_sentence": output, "index": {**output, "rtol": 0, "atol": 0}},
        "nonfinite": {"index": "same"},
    }
    assert main(["inspect", str(make_recogniser(replace(own, parity=parity)))]) == 0
    out = capsys.readouterr().out
    for words in (
        "passed: 52 inputs compared, 32 at sizes never traced",
        "3 generated inputs, which the model itself",
        "as the source does",
    ):
        assert words in " ".join(out.split()), words
    assert "1e-05 + 0.0001 |x|" in out
    assert "equal" in out
    assert "0 of 10" in out
    assert "decisions_changed" not in out
    assert max(len(line) for line in out.splitlines() if "0.0001 |x|" in line) <= 80
    broken = {**parity, "outputs": {"y": {"elements": "many"}}}  # not as the export writes it
    assert main(["inspect", str(make_recogniser(replace(own, parity=broken)))]) == 0
    assert "outputs.y.elements" in capsys.readouterr().out
