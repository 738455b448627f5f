"""The quickstart end to end, twice into one folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from onnxferry.runtime import Classifier, load
from onnxferry.runtime.cli import main


def test_quickstart_leaves_a_model_that_runs_and_runs_again_over_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "quick start"
    assert main(["quickstart", "--out", str(out), "--epochs", "2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["test_pictures"] == 1000
    assert report["accuracy"] > 0.3  # two epochs of eighteen; chance is 0.1
    assert report["parity"]["largest_difference"] <= 1e-5
    assert report["parity"]["decisions_changed"] == 0
    assert report["latency"]["1"]["onnxferry"] > 0
    assert json.loads((out / "report.json").read_text())["accuracy"] == report["accuracy"]
    with Image.open(out / "predictions.png") as picture:
        assert picture.size[0] >= 600
    with load(out / "digits.onnx") as model:
        assert isinstance(model, Classifier)
        assert len(model.predict([str(p) for p in sorted((out / "samples").iterdir())])) == 10

    (out / "mine.txt").write_text("keep me")
    assert main(["quickstart", "--out", str(out), "--epochs", "1"]) == 0
    text = capsys.readouterr().out
    assert "accuracy" in text
    assert "onnxferry predict" in text
    assert (out / "mine.txt").read_text() == "keep me"


def test_a_folder_of_somebody_elses_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("precious")
    assert main(["quickstart", "--out", str(tmp_path)]) == 1
    assert "not a training run" in capsys.readouterr().err
    assert (tmp_path / "run" / "thesis.txt").exists()
    file = tmp_path / "file"
    file.write_text("")
    assert main(["quickstart", "--out", str(file)]) == 1
    assert "is a file" in capsys.readouterr().err
