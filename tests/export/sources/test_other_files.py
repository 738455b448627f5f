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
        ("m.tflite", r"tf2onnx"),
        ("lgb.txt", r"onnxmltools"),
        ("xgb.json", r"onnxmltools"),
        ("w.safetensors", r"--weights w\.safetensors"),
    ],
)
def test_the_way_from_other_files(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / name).write_bytes(b"tree")
    with pytest.raises(InputError, match=words):
        choose(tmp_path / name)


def test_a_folder_of_tensorflow_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(InputError, match=r"SavedModel.*tf2onnx"):
        choose(tmp_path)


def test_no_ending_stands_twice() -> None:
    endings = [ending for each in WAYS for ending in each]
    assert len(set(endings)) == len(endings)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_and_pickled_modules_are_said_whatever_the_options(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "script.pt")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pth")
    for examples in (None, torch.zeros(1, 2)):
        with pytest.raises(InputError, match=r"TorchScript archive.*export the nn\.Module"):
            export_model(tmp_path / "script.pt", examples, tmp_path / "a.onnx")
        with pytest.raises(CheckpointError):
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
