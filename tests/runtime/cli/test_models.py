from __future__ import annotations

import json
from pathlib import Path

import pytest

from onnxferry.runtime.artifact import zoo as catalog
from onnxferry.runtime.cli.main import main


@pytest.fixture
def zoo(recogniser: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "zoo"
    (folder / "brightness").mkdir(parents=True)
    recogniser.rename(folder / "brightness" / "brightness.onnx")
    card = {
        "description": "Tells how bright an image is: light or dark.",
        "figures": {"images": 400, "accuracy": 0.997512},
        "data": "none",
        "parity": {"passed": True, "outputs": {"image": {"max_abs": 0.5, "decisions": 3}, "label": {"max_abs": 0}}},
        "validation": {},
    }
    (folder / "brightness" / "card.json").write_text(json.dumps(card))
    monkeypatch.setattr(catalog, "_zoo", lambda: folder)
    return folder


def test_lists_name_size_and_the_main_figure(zoo: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    for expected in ("brightness", "Tells how bright an image is", "predict", "accuracy 0.99751", "2.1 kB", "onnxferry models brightness"):
        assert expected in out
    assert "images" not in out
    assert "light or dark" not in out
    assert main(["models", "--json"]) == 0
    (model,) = json.loads(capsys.readouterr().out)["models"]
    assert model["name"] == "brightness"
    assert model["bytes"] == Path(model["path"]).stat().st_size
    assert model["card"]["figures"]["images"] == 400


def test_the_shipped_models_make_a_short_list_at_80_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["models"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert max(map(len, rows)) <= 80
    assert len(rows) <= 8 + 3 * len(catalog.zoo_names())
    assert any(row.split()[0:1] == ["digits"] and row.rstrip().endswith("accuracy 0.9965") for row in rows)


def test_a_card_is_shown_whole(zoo: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["models", "brightness"]) == 0
    rows = [row.split(maxsplit=1) for row in capsys.readouterr().out.splitlines() if row]
    for expected in (
        ["kind", "recogniser"],
        ["description", "Tells how bright an image is: light or dark."],
        ["figures"],
        ["images", "400"],
        ["accuracy", "0.99751"],
        ["outputs", "image (max_abs 0.5, decisions 3), label (max_abs 0)"],
        ["onnxferry", "predict brightness IMAGE.png"],
    ):
        assert expected in [[word.strip() for word in row] for row in rows]
    assert main(["models", "brightness", "--json"]) == 0
    one = json.loads(capsys.readouterr().out)
    assert main(["models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == one
    assert main(["models", "brigthness"]) == 1
    assert "did you mean 'brightness'?" in capsys.readouterr().err


def test_an_empty_zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(catalog, "_zoo", lambda: tmp_path)
    assert main(["models"]) == 0
    assert "No models are shipped" in capsys.readouterr().out
    assert main(["models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"models": []}


@pytest.mark.parametrize("verb", ["check", "inspect"])
def test_a_shipped_model_goes_by_its_name(zoo: Path, capsys: pytest.CaptureFixture[str], verb: str) -> None:
    assert main([verb, "brightness"]) == 0
    assert "onnxferry predict brightness IMAGE.png" in capsys.readouterr().out
