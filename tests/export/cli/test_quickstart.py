"""The quickstart end to end, twice into one folder."""

from __future__ import annotations

import json
import os
import signal
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image

from onnxferry.export.cli import quickstart
from onnxferry.export.cli.quickstart import _clear
from onnxferry.runtime import Classifier, load
from onnxferry.runtime.cli.main import main
from onnxferry.runtime.errors import InputError
from onnxferry.train.data.images import load_images
from onnxferry.train.families.cnn import CnnLearner


def test_quickstart_leaves_a_model_that_runs_and_runs_again_over_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "quick start"
    assert main(["quickstart", "--out", str(out), "--epochs", "2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["test_images"] == 1000
    assert report["accuracy"] > 0.3  # two epochs of eighteen; chance is 0.1
    assert report["parity"]["largest_difference"] <= 1e-5
    assert report["parity"]["decisions_changed"] == 0
    assert report["latency"]["1"]["onnxferry"] > 0
    assert json.loads((out / "report.json").read_text())["accuracy"] == report["accuracy"]
    with Image.open(out / "predictions.png") as image:
        assert image.size[0] >= 600
    with load(out / "digits.onnx") as model:
        assert isinstance(model, Classifier)
        assert len(model.predict([str(p) for p in sorted((out / "samples").iterdir())])) == 10

    (out / "mine.txt").write_text("keep me")
    assert main(["quickstart", "--out", str(out), "--epochs", "1"]) == 0
    text = capsys.readouterr().out
    assert "accuracy" in text
    assert "onnxferry predict" in text
    assert (out / "mine.txt").read_text() == "keep me"


def test_one_that_was_interrupted_goes_on_with_resume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "quick start"
    assert main(["quickstart", "--out", str(out), "--resume"]) == 1
    assert f"nothing to resume in {out}" in capsys.readouterr().err
    step, seen = CnnLearner.step, []

    def interrupted(self: CnnLearner, batch: object) -> object:
        seen.append(batch)
        if len(seen) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(CnnLearner, "step", interrupted)
    monkeypatch.setattr(quickstart, "load_images", partial(load_images, limit=700))
    assert main(["quickstart", "--out", str(out), "--epochs", "1", "--seed", "3"]) == 130
    assert f"go on with onnxferry quickstart --out '{out}' --resume" in capsys.readouterr().err
    done = torch.load(out / "run" / "last.pt", weights_only=True)["state"]["step"]
    assert done == 10  # of 14: the signal is acted on every ten
    assert main(["quickstart", "--out", str(out), "--epochs", "2", "--resume"]) == 1
    assert "was begun with --seed 3 --epochs 1" in capsys.readouterr().err
    seen[:] = [None] * 5
    assert main(["quickstart", "--out", str(out), "--resume", "--json"]) == 0
    assert len(seen) - 5 == 14 - done
    assert json.loads(capsys.readouterr().out)["test_images"] == 1000
    assert json.loads((out / "run" / "run.json").read_text())["seed"] == 3
    assert (out / "report.json").exists()


def test_a_folder_of_somebody_elses_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("precious")
    assert main(["quickstart", "--out", str(tmp_path)]) == 1
    assert "already holds run, which no quickstart made" in capsys.readouterr().err
    assert (tmp_path / "run" / "thesis.txt").exists()
    file = tmp_path / "file"
    file.write_text("")
    assert main(["quickstart", "--out", str(file)]) == 1
    assert "is a file" in capsys.readouterr().err


def test_only_what_a_quickstart_wrote_is_taken_away(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "0.png").write_text("precious")
    (tmp_path / "report.json").write_text("precious")
    with pytest.raises(InputError, match="already holds samples, which no quickstart made"):
        _clear(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(json.dumps({"command": "onnxferry train cnn"}, indent=2))
    with pytest.raises(InputError, match="already holds run"):
        _clear(tmp_path)
    (tmp_path / "run" / "run.json").write_text(json.dumps({"command": "onnxferry quickstart"}, indent=2)[:-2])
    (tmp_path / "run" / "last.pt").write_text("")
    (tmp_path / "run" / "notes.txt").write_text("precious")
    (tmp_path / "samples" / "mine.png").write_text("precious")
    _clear(tmp_path)
    assert {p.name for p in tmp_path.rglob("*") if p.is_file()} == {"notes.txt", "mine.png"}


def test_one_that_was_cut_off_is_repeated(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    _clear(tmp_path)
    (tmp_path / "run" / ".run.json.1234.tmp").write_text("{")
    (tmp_path / "run" / "run.json").write_text("")
    _clear(tmp_path)
    assert (tmp_path / "run").is_dir()
