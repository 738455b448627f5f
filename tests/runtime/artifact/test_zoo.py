from __future__ import annotations

import json
from pathlib import Path

import pytest

from onnxferry.runtime.artifact import zoo as catalog
from onnxferry.runtime.artifact.zoo import find_model, zoo_model, zoo_names
from onnxferry.runtime.errors import ArtifactError


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A zoo of two models, in place of the shipped one."""
    folder = tmp_path / "zoo"
    for name in ("digits", "fashion"):
        (folder / name).mkdir(parents=True)
        (folder / name / f"{name}.onnx").write_bytes(b"123")
        (folder / name / "card.json").write_text(json.dumps({"description": f"about {name}"}))
    (folder / "__pycache__").mkdir()
    (folder / "NOTICE").touch()
    monkeypatch.setattr(catalog, "_zoo", lambda: folder)
    monkeypatch.chdir(tmp_path)
    return folder


def test_the_zoo_by_name(zoo: Path) -> None:
    assert zoo_names() == ("digits", "fashion")
    model = zoo_model("digits")
    assert (model.name, model.path, model.size, model.card) == ("digits", zoo / "digits/digits.onnx", 3, {"description": "about digits"})


def test_every_shipped_model_has_a_card() -> None:
    for name in zoo_names():
        assert zoo_model(name).card["description"]


@pytest.mark.parametrize("content", ["", "[1]", "{"])
def test_a_broken_card_is_an_error(zoo: Path, content: str) -> None:
    (zoo / "digits/card.json").write_text(content)
    with pytest.raises(ArtifactError, match=r"card\.json"):
        zoo_model("digits")


def test_a_file_comes_before_a_name_and_a_name_before_a_folder(zoo: Path, tmp_path: Path) -> None:
    assert find_model("digits") == zoo / "digits/digits.onnx"
    (tmp_path / "digits").mkdir()
    assert find_model("digits") == zoo / "digits/digits.onnx"
    (tmp_path / "fashion").touch()
    assert find_model("fashion") == Path("fashion")
    (tmp_path / "my.onnx").touch()
    assert find_model("my.onnx") == Path("my.onnx")
    assert find_model(tmp_path / "my.onnx") == tmp_path / "my.onnx"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("digitz", "no model named 'digitz' is shipped, did you mean 'digits'"),
        ("unknown", "shipped are: digits, fashion"),
        ("digits.onnx", "no such file: digits.onnx"),
        ("modle.onnx", "no such file: modle.onnx; did you mean model.onnx?"),
        ("deep/down/x.onnx", "no such file: deep/down/x.onnx"),
        ("deep/digits", "no such file: deep/digits"),
        (Path("digits"), "no such file: digits"),
        ("run", "run is a folder, expected an .onnx file, such as run/a.onnx in it"),
    ],
)
def test_what_is_not_there_is_named_with_what_may_be_meant(zoo: Path, tmp_path: Path, name: str | Path, says: str) -> None:
    (tmp_path / "model.onnx").touch()
    (tmp_path / "run").mkdir()
    (tmp_path / "run/a.onnx").touch()
    with pytest.raises(ArtifactError) as caught:
        find_model(name)
    assert says in str(caught.value)


@pytest.mark.parametrize("name", ["x" * 5000, "x" * 5000 + ".onnx", "a/" * 3000 + "m.onnx", "\0", "digits\0.onnx"])
def test_names_that_no_file_can_have(name: str) -> None:
    with pytest.raises(ArtifactError):
        find_model(name)
