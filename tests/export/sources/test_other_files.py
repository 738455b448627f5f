"""Files that are not exported say the way, and names that make no trained model say so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from onnxferry.export import export_model
from onnxferry.export.sources.choose import choose
from onnxferry.export.sources.other_files import WAYS
from onnxferry.runtime.errors import CheckpointError, ExportError, InputError


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("m.h5", r"save it as \.keras, keras\.models\.load_model\('m\.h5'\)"),
        ("w.safetensors", r"--weights w\.safetensors"),
    ],
)
def test_the_way_from_other_files(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / name).write_bytes(b"tree")
    with pytest.raises(InputError, match=words):
        choose(tmp_path / name)


def test_no_ending_stands_twice() -> None:
    endings = [ending for each in WAYS for ending in each]
    assert len(set(endings)) == len(endings)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_pickled_modules_are_said_whatever_the_options(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pth")
    for examples in (None, torch.zeros(1, 2)):
        with pytest.raises(CheckpointError, match=r"torch\.save\(model\.state_dict\(\), FILE\).*--weights FILE"):
            export_model(tmp_path / "whole.pth", examples, tmp_path / "a.onnx")


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nets_of_mine.py").write_text(
        "import torch\ndef unet():\n    return torch.nn.Linear(2, 2)\n"
        "def trained():\n    torch.manual_seed(0)\n    return torch.nn.Linear(2, 2)\nloaded = torch.nn.Linear(2, 2)\n"
    )
    with pytest.raises(ExportError, match=r"no 'unett'; did you mean 'unet'\?"):
        choose("nets_of_mine:unett")
    (note,) = choose("nets_of_mine:unet").notes
    assert "never trained" in note
    assert choose("nets_of_mine:trained").notes == choose("nets_of_mine:loaded").notes == ()


@pytest.mark.parametrize(
    ("package", "words"),
    [
        ("paddle.nn", r"paddle2onnx"),
        ("onnx", r"onnx\.save"),
    ],
)
def test_the_way_from_objects_of_other_packages(tmp_path: Path, package: str, words: str) -> None:
    booster = type("Booster", (), {"__module__": package})()
    with pytest.raises(InputError, match=rf"got Booster; .*{words}"):
        export_model(booster, None, tmp_path / "a.onnx")


def test_a_state_dict_says_what_to_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"weights alone: name what makes the model"):
        export_model(torch.nn.Linear(2, 2).state_dict(), None, tmp_path / "a.onnx")
