from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from onnxferry.runtime.artifact import zoo as catalog
from onnxferry.runtime.artifact.zoo import find_model, zoo_model, zoo_names
from onnxferry.runtime.errors import ArtifactError, ArtifactNotFoundError, InputError
from onnxferry.runtime.tasks.loading import load


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


def test_every_shipped_file_has_its_sha256(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a shipped model has changed: python tests/bench/release.py --sums"""
    zoo = zoo_model("digits").path.parents[1]
    files = {path.relative_to(zoo).as_posix() for path in zoo.glob("*/*") if path.suffix in (".onnx", ".json", ".npz")}
    assert catalog.shipped_sums().keys() == files
    assert catalog.changed_files() == []
    copy = tmp_path / "zoo"
    shutil.copytree(zoo, copy)
    monkeypatch.setattr(catalog, "_zoo", lambda: copy)
    with (copy / "digits" / "digits.onnx").open("ab") as file:
        file.write(b"\x08\x09")
    (copy / "fashion" / "card.json").unlink()
    changed, missing = catalog.changed_files()
    assert changed.startswith("digits/digits.onnx is not the file that was shipped: SHA-256 ")
    assert missing == "the shipped file fashion/card.json cannot be read (No such file or directory); install onnxferry again"
    (copy / "SHA256SUMS").unlink()
    with pytest.raises(ArtifactError, match="SHA256SUMS, cannot be read"):
        catalog.changed_files()


def test_a_load_can_verify_that_a_model_is_the_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load("digits-ae", verify=True, device="cpu").close()
    load("digits-ae", verify=True, variant="int8").close()
    zoo = zoo_model("digits").path.parents[1]
    own = tmp_path / "own.onnx"
    shutil.copy(zoo / "digits" / "digits.onnx", own)
    with pytest.raises(InputError, match="is not a shipped file, so its SHA-256 is not known; onnxferry verify-signature"):
        load(own, verify=True)
    copy = tmp_path / "zoo"
    shutil.copytree(zoo, copy)
    monkeypatch.setattr(catalog, "_zoo", lambda: copy)
    shutil.copy(copy / "digits-gan" / "digits-gan.onnx", copy / "digits-ae" / "digits-ae.decoder.onnx")
    for isolated in (False, True):
        with pytest.raises(ArtifactError, match=r"digits-ae.decoder.onnx is not the file that was shipped: SHA-256 .*, expected "):
            load("digits-ae", verify=True, isolated=isolated)
    shutil.copy(copy / "fashion" / "fashion.int8.onnx", copy / "digits" / "digits.int8.onnx")
    with pytest.raises(ArtifactError):
        load("digits", verify=True, variant="int8")


def test_what_is_no_file_is_described(tmp_path: Path) -> None:
    link = tmp_path / "m.onnx"
    try:
        link.symlink_to("gone.onnx")
    except OSError:
        pytest.skip("links cannot be made here")
    with pytest.raises(ArtifactNotFoundError, match=r"m.onnx is a link to gone.onnx, and no file is there"):
        find_model(link)
    with pytest.raises(ArtifactNotFoundError, match=r"no such file: ~/m.onnx; ~ is not expanded here: give the whole path"):
        find_model("~/m.onnx")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.onnx")
        with pytest.raises(ArtifactError, match=r"pipe.onnx is not a regular file"):
            find_model(tmp_path / "pipe.onnx")
