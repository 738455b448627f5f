"""Archives of torch.jit.save: exported like the modules they hold; what reaches files, or is no archive, is refused."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from onnxferry.export import export_model
from onnxferry.runtime import load
from onnxferry.runtime.cli.main import main
from onnxferry.runtime.errors import ExportError, InputError

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning", "ignore:The .grad attribute:UserWarning")

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


class Halves(nn.Module):
    """A loop and a branch on values, which only TorchScript keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        while bool(x.abs().max() > 1.0):  # for ever where x is infinite
            x = x * 0.5
        if bool(x.sum() > 0):
            return self.layer(x) * 2
        return self.layer(x)


def made() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "model.torchscript"])
@pytest.mark.parametrize("script", [True, False])
def test_an_archive_is_exported_as_its_module(tmp_path: Path, name: str, script: bool) -> None:
    module = made()
    archived = torch.jit.script(module) if script else torch.jit.trace(module, X)
    archived.save(tmp_path / name)
    report = export_model(tmp_path / name, {"input": X}, tmp_path / "model.onnx", dynamic_shapes={"input": {0: "batch"}})
    assert report.passed
    assert report.summary()["untraced_shapes"] >= 5
    with load(tmp_path / "model.onnx") as model, torch.no_grad():
        (answer,) = model.run({"input": np.tile(X.numpy(), (3, 1))}).values()
        np.testing.assert_allclose(answer, module(X.repeat(3, 1)).numpy(), rtol=1e-5, atol=1e-6)


def test_loops_and_branches_of_an_archive_are_kept(tmp_path: Path) -> None:
    module = Halves().eval()
    torch.jit.script(module).save(tmp_path / "halves.pt")
    report = export_model(tmp_path / "halves.pt", {"x": X}, tmp_path / "halves.onnx", dynamic_shapes={"x": {0: "batch"}})
    assert report.passed
    assert any("a loop that ends by a value" in note for note in report.notes)
    with load(tmp_path / "halves.onnx") as model, torch.no_grad():
        for x in (X * 100, -X, X * 0.1):
            (answer,) = model.run({"x": x.numpy()}).values()
            np.testing.assert_allclose(answer, module(x).numpy(), rtol=1e-5, atol=1e-6)


def test_the_command_line_takes_one(tmp_path: Path) -> None:
    torch.jit.script(made()).save(tmp_path / "model.pt")
    out = str(tmp_path / "model.onnx")
    assert main(["export", str(tmp_path / "model.pt"), "--input", "input:float32[batch,4]", "-o", out]) == 0
    assert main(["verify", out, str(tmp_path / "model.pt")]) == 0


def test_what_it_takes_must_be_said(tmp_path: Path) -> None:
    torch.jit.script(made()).save(tmp_path / "model.pt")
    with pytest.raises(InputError, match="say what the model takes"):
        export_model(tmp_path / "model.pt", None, tmp_path / "model.onnx")


class Writes(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, "stolen.pt")
        return x


def test_code_that_reaches_files_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.jit.script(Writes()).save("writes.pt")
    with pytest.raises(ExportError, match=r"writes\.pt calls \S*save.*which an export does not run"):
        export_model("writes.pt", {"x": X}, "model.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["writes.pt"]


def test_a_damaged_archive_is_one_clear_error(tmp_path: Path) -> None:
    whole = tmp_path / "whole.pt"
    torch.jit.script(made()).save(whole)
    with zipfile.ZipFile(whole) as archive, zipfile.ZipFile(tmp_path / "cut.pt", "w") as cut:
        for member in archive.infolist():
            if not member.filename.endswith("data.pkl"):
                cut.writestr(member, archive.read(member))
    shutil.copy(tmp_path / "cut.pt", tmp_path / "cut.torchscript")
    for name in ("cut.pt", "cut.torchscript"):
        with pytest.raises(ExportError, match=r"is no TorchScript archive that this torch"):
            export_model(tmp_path / name, {"input": X}, tmp_path / "model.onnx")
    (tmp_path / "text.torchscript").write_text("hello")
    with pytest.raises(ExportError, match=r"text\.torchscript is no TorchScript archive"):
        export_model(tmp_path / "text.torchscript", {"input": X}, tmp_path / "model.onnx")
