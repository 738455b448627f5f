"""A .pt2 file that would run code is refused before torch reads it, and honest ones are not."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from onnxferry.export.sources.pytorch.program import program_from_file
from onnxferry.export.sources.pytorch.pt2_archive import weights_only
from onnxferry.runtime.artifact.zoo import zoo_model
from onnxferry.runtime.cli.main import main
from onnxferry.runtime.errors import ExportError

SAMPLES = "data/sample_inputs/model.pt"


class Scale(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, options: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        y = torch.einsum("ij,jk->ik", x, self.linear.weight) + options["bias-1"]
        return {"out": torch.cat([y, y]) if x.shape[0] % 2 == 0 else y}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program with symbolic sizes, guards, names that are no identifiers, and nested inputs and outputs."""
    path = tmp_path_factory.mktemp("pt2") / "good.pt2"
    shapes = {"x": {0: torch.export.Dim.AUTO}, "options": {"bias-1": None}}
    torch.export.save(torch.export.export(Scale(), (torch.ones(4, 4), {"bias-1": torch.ones(4)}), dynamic_shapes=shapes), path)
    return path


class Evil:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def rewritten(source: Path, target: Path, change: Callable[[str, bytes], bytes | None], **more: bytes) -> Path:
    """A copy of an archive: each record as ``change(name, content)`` gives it, None for unchanged; and ``more`` records."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            content = old.read(name)
            changed = change(name.partition("/")[2], content)
            new.writestr(name, content if changed is None else changed)
        top = old.namelist()[0].partition("/")[0]
        for name, content in more.items():
            new.writestr(f"{top}/{name}", content)
    return target


def evil(kind: str, source: Path, target: Path, ran: Path) -> Path:
    code = f"__import__('pathlib').Path({str(ran)!r}).touch()"

    def program(change: Callable[[Any, str], None]) -> Path:
        def changed(name: str, content: bytes) -> bytes | None:
            if name != "models/model.json":
                return None
            text = content.decode()
            model = json.loads(text)
            change(model, text)
            return json.dumps(model).encode()

        return rewritten(source, target, changed)

    def renamed(model: dict[str, Any], text: str, old: str, new: str) -> None:
        model.update(json.loads(text.replace(json.dumps(old), json.dumps(new))))

    match kind:
        case "pickle":
            pickled = io.BytesIO()
            torch.save((Evil(f"touch {ran}"),), pickled)
            return rewritten(source, target, lambda name, _: pickled.getvalue() if name == SAMPLES else None)
        case "legacy pickle":
            return rewritten(source, target, lambda name, _: pickle.dumps(Evil(f"touch {ran}")) if name == SAMPLES else None)
        case "use_pickle":
            return rewritten(source, target, lambda _, content: content.replace(b'"use_pickle": false', b'"use_pickle": true'))
        case "library":
            return rewritten(source, target, lambda name, _: None, **{"data/aotinductor/model/model.so": b"\x7fELF"})
        case "expression":
            return program(
                lambda model, text: model["graph_module"]["graph"]["tensor_values"]["x"]["sizes"].__setitem__(
                    0, {"as_expr": {"expr_str": code, "hint": None}}
                )
            )
        case "guard":
            return program(lambda model, text: model.update(guards_code=[code]))
        case "name":
            return program(lambda model, text: renamed(model, text, "x", f"x={code}"))
        case "key":
            return program(lambda model, text: model.update(json.loads(text.replace("bias-1", "print(1)"))))
        case "file":
            return program(lambda model, text: renamed(model, text, "torch.ops.aten.einsum.default", "torch.ops.aten.from_file.default"))
    raise AssertionError(kind)


def test_an_honest_program_is_loaded(good: Path) -> None:
    program = program_from_file(good)
    assert program.module()(torch.ones(6, 4), {"bias-1": torch.ones(4)})["out"].shape == (12, 4)
    with zipfile.ZipFile(good) as archive:
        model = json.loads(archive.read("good/models/model.json"))
    assert model["guards_code"]  # so that the test sees one


REFUSED = {
    "pickle": "is no program of torch.export",
    "legacy pickle": "is no program of torch.export",
    "use_pickle": "asks for pickle",
    "library": "holds a compiled library",
    "expression": "more than arithmetic",
    "guard": "more than arithmetic",
    "name": "is no plain name",
    "key": "is no plain name",
    "file": "opens a file",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_program_that_would_run_code_is_refused(kind: str, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = tmp_path / "ran"
    path = evil(kind, good, tmp_path / "evil.pt2", ran)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(ExportError, match=REFUSED[kind]):
        program_from_file(path)
    assert not ran.exists()
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


@pytest.mark.parametrize("kind", ["pickle", "expression", "guard"])
@pytest.mark.filterwarnings("ignore")
def test_torch_alone_runs_the_code(kind: str, good: Path, tmp_path: Path) -> None:
    """So that the test above could fail. Where a later torch does not, this says so and the check may go."""
    ran = tmp_path / "ran"
    path = evil(kind, good, tmp_path / "evil.pt2", ran)
    with contextlib.suppress(Exception):  # most end in an error, after the code has run
        torch.export.load(path).module()(torch.ones(4, 4), {"bias-1": torch.ones(4)})
    assert ran.exists()


def test_both_commands_refuse_it(good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = evil("pickle", good, tmp_path / "evil.pt2", tmp_path / "ran")
    assert main(["export", str(path), "-o", str(tmp_path / "out.onnx")]) == 1
    assert main(["check", str(zoo_model("digits").path), "--against", str(path)]) == 1
    assert not (tmp_path / "ran").exists()
    assert "evil.pt2 is no program of torch.export" in capsys.readouterr().err


def test_weights_only_holds_for_one_thread_at_a_time() -> None:
    inside: list[int] = []

    def work() -> None:
        with weights_only():
            inside.append(1)
            assert os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] == "1"
            assert len(inside) == 1
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
