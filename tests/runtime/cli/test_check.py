from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxferry.runtime.artifact.contract import Contract, Golden
from onnxferry.runtime.artifact.describe import describe
from onnxferry.runtime.artifact.metadata import metadata_from_contract
from onnxferry.runtime.artifact.tolerances import Tolerance
from onnxferry.runtime.artifact.zoo import find_model
from onnxferry.runtime.cli.main import main


def test_a_sound_file_passes(recogniser: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(recogniser)]) == 0
    out, err = capsys.readouterr()
    assert "passed: 6 of 6 on cpu" in out
    assert f"onnxferry predict {recogniser}" in out.replace("\n", " ")
    assert err == ""


def test_a_sound_file_as_json(recogniser: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(recogniser), "--json", "--threads", "1"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["passed"], document["samples"], document["device"]) == (True, 2, "cpu")
    assert [(c["sample"], c["output"], c["passed"]) for c in document["comparisons"]] == [
        (sample, output, True) for sample in (0, 1) for output in ("class_index", "features", "probabilities")
    ]
    probabilities = document["comparisons"][2]
    assert (probabilities["rtol"], probabilities["atol"]) == (1e-4, 1e-5)
    assert probabilities["max_abs"] <= 1e-5
    assert probabilities["actual"] == pytest.approx(probabilities["expected"], rel=1e-3)


def test_a_file_that_does_something_else_fails(make_recogniser: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    path = make_recogniser(sharpness=190)
    assert main(["check", str(path)]) == 1
    out, err = capsys.readouterr()
    assert "failed" in out
    assert "passed: " not in out
    assert err.startswith(f"error: {path} does not give what it should on this machine: 2 of 6 comparisons failed, first sample 0, ")
    assert "output 'probabilities': [0, 1] is 0.0892" in err

    assert main(["check", str(path), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["passed"] is False
    assert [c["output"] for c in document["comparisons"] if not c["passed"]] == ["probabilities"] * 2


def test_not_a_number_fails_and_is_valid_json(make_recogniser: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    path = make_recogniser(sharpness=float("nan"))
    assert main(["check", str(path), "--json"]) == 1
    comparison = json.loads(capsys.readouterr().out)["comparisons"][2]
    assert comparison["passed"] is False
    assert comparison["actual"] is None
    assert "nan" in comparison["problem"]


def test_an_output_that_is_gone(doubler: Path, make_model: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    x = np.ones((1, 3), np.float32)
    contract = Contract("model", "doubler", goldens=(Golden({"x": x}, {"y": 2 * x, "z": x}),))
    path = make_model(onnx.load(doubler).graph, metadata_from_contract(contract))
    assert main(["check", str(path)]) == 1
    assert "output 'z': the model has no such output" in capsys.readouterr().err


def test_a_file_without_golden_samples(make_recogniser: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    path = make_recogniser(Contract("recogniser", "bare", labels=("a", "b")))
    assert main(["check", str(path)]) == 1
    assert "carries no golden samples" in capsys.readouterr().err
    assert main(["check", str(path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["passed"] is False
    assert main(["check", str(path), "--allow-none"]) == 0
    assert "nothing was compared" in capsys.readouterr().out
    assert main(["check", str(path), "--allow-none", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["comparisons"] == []


def test_a_foreign_file(doubler: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(doubler)]) == 1
    assert "carries no onnxferry contract" in capsys.readouterr().err
    assert main(["check", str(doubler), "--allow-none"]) == 0


def test_allow_none_excuses_no_failure(make_recogniser: Callable[..., Path]) -> None:
    assert main(["check", str(make_recogniser(sharpness=190)), "--allow-none"]) == 1


def test_a_missing_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["check", str(tmp_path / "absent.onnx")]) == 1
    assert capsys.readouterr().err.startswith("error: no such file: ")


def test_says_why_it_ran_where_it_ran(recogniser: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxferry.runtime.engine.ort.cuda_problem", lambda: "there is no GPU in this test")
    assert main(["check", str(recogniser)]) == 0
    assert "GPU" not in capsys.readouterr().out  # where there is none, that is no news
    monkeypatch.setattr("onnxferry.runtime.cli.check.cuda_devices", lambda: 1)
    assert main(["check", str(recogniser)]) == 0
    assert "the GPU was not used: CUDA cannot be used: there is no GPU in this test" in capsys.readouterr().out
    assert main(["check", str(recogniser), "--device", "cpu"]) == 0
    assert "GPU" not in capsys.readouterr().out
    assert main(["check", str(recogniser), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["device_reason"] == "CUDA cannot be used: there is no GPU in this test"


@pytest.mark.parametrize("more", [[], ["--untrusted"]])
def test_an_autoencoder_is_checked_in_both_halves(more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("digits-ae.onnx", "digits-ae.decoder.onnx"):
        shutil.copy(find_model("digits-ae").with_name(name), tmp_path)
    path, decoder = str(tmp_path / "digits-ae.onnx"), tmp_path / "digits-ae.decoder.onnx"
    assert main(["check", path, "--json", *more]) == 0
    both = json.loads(capsys.readouterr().out)
    model = onnx.load(decoder)
    kept = [entry for entry in model.metadata_props if entry.key != "onnxferry.goldens"]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    onnx.save(model, decoder)
    assert main(["check", path, "--json", *more]) == 1
    shown = capsys.readouterr()
    one = json.loads(shown.out)
    assert (both["passed"], one["passed"]) == (True, False)
    assert 0 < one["samples"] < both["samples"]
    assert "digits-ae.decoder.onnx carries no golden samples, so half of digits-ae.onnx is unverified" in shown.err
    assert main(["check", path, "--allow-none", *more]) == 0


@pytest.mark.parametrize("more", [[], ["--untrusted"]])
def test_a_tolerance_of_the_outputs_own_size_says_little(
    recogniser: Path, make_recogniser: Callable[..., Path], capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    own = describe(recogniser).contract
    assert own is not None
    contract = dataclasses.replace(own, tolerances={**own.tolerances, "probabilities": Tolerance(0.5, 0.0)})
    path = str(make_recogniser(contract))
    assert main(["check", path, *more]) == 1
    said = capsys.readouterr()
    assert "its tolerance (rtol 0.5, atol 0) is more than 10% of its largest value" in said.err
    assert "--allow-loose passes it" in said.err
    assert main(["check", path, "--allow-loose", *more]) == 0
