from __future__ import annotations

import json
from pathlib import Path

import pytest

from onnxferry.runtime import catalog
from onnxferry.runtime.cli import main


@pytest.fixture
def zoo(recogniser: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "zoo"
    (folder / "brightness").mkdir(parents=True)
    recogniser.rename(folder / "brightness" / "brightness.onnx")
    card = {"description": "Tells how bright a picture is.", "figures": {"accuracy": 0.997512, "pictures": 400}, "data": "none"}
    (folder / "brightness" / "card.json").write_text(json.dumps(card))
    monkeypatch.setattr(catalog, "_zoo", lambda: folder)
    return folder


def test_lists_name_size_and_figures(zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    for expected in (
        "brightness",
        "Tells how bright a picture is.",
        "accuracy: 0.99751",
        "pictures: 400",
        "2.1 kB",
        "onnxferry check brightness",
    ):
        assert expected in out
    assert main(["models", "--json"]) == 0
    (model,) = json.loads(capsys.readouterr().out)["models"]
    assert model["name"] == "brightness"
    assert model["bytes"] == Path(model["path"]).stat().st_size
    assert model["card"]["figures"]["pictures"] == 400


def test_an_empty_zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(catalog, "_zoo", lambda: tmp_path)
    assert main(["models"]) == 0
    assert "No models are shipped" in capsys.readouterr().out
    assert main(["models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"models": []}


@pytest.mark.parametrize("verb", ["check", "inspect"])
def test_a_shipped_model_goes_by_its_name(zoo: Path, capsys: pytest.CaptureFixture[str], verb: str) -> None:
    assert main([verb, "brightness"]) == 0
    assert "onnxferry predict brightness PICTURE.png" in capsys.readouterr().out
