"""``onnxferry verify``: an existing file against the model that it was exported from."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from onnxferry.export import export_model
from onnxferry.export.pipeline.verify import verify_file
from onnxferry.runtime.cli.main import main
from onnxferry.runtime.errors import ArtifactError, InputError
from onnxferry.runtime.onnx_file.summary import Limits

MODULE = '''
import torch
from torch import nn

class Step(nn.Module):
    """A recurrent step with nested states, and a number that is fixed in the graph."""
    def __init__(self, shift=0.0, wide=False):
        super().__init__()
        torch.manual_seed(0)
        self.lstm = nn.LSTM(4, 5, batch_first=True)
        self.head = nn.Linear(5, 3)
        self.shift = shift

    def forward(self, x, state, scale=1.0):
        y, state = self.lstm(x, state)
        return {"y": torch.relu(self.head(y)) * scale + self.shift, "state": state}

def make():
    return Step()

def shifted():
    return Step(0.25)

def other_weights():
    model = Step()
    with torch.no_grad():
        model.head.weight[1, 2] += 0.5
    return model

class Less(Step):
    def forward(self, x, state):
        return super().forward(x, state)["y"]

class NoState(Step):
    def forward(self, x):
        return self.lstm(x)[0]
'''

AXES = {"x": {0: "batch", 1: "time"}, "state": ({1: "batch"}, {1: "batch"})}


@pytest.fixture
def step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The exported file of ``steps:make``, in the current folder, where ``steps.py`` lies too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "steps", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "steps.py").write_text(MODULE)
    import importlib

    steps = importlib.import_module("steps")
    inputs = (torch.randn(2, 6, 4), (torch.randn(1, 2, 5), torch.randn(1, 2, 5)))
    export_model(steps.make(), inputs, "step.onnx", dynamic_shapes=AXES)
    return tmp_path / "step.onnx"


def test_the_model_it_came_from(step: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "step.onnx", "steps:make", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["passed"] is True
    assert set(document["outputs"]) == {"y", "state_0_out", "state_1_out"}
    assert sum(case["compared"] and not case["traced"] for case in document["cases"]) >= 8
    assert {"the example", "golden sample 1"} <= {case["name"] for case in document["cases"]}
    assert main(["verify", "step.onnx", "steps:make", "--report", "same.html"]) == 0
    out = capsys.readouterr().out
    assert "step.onnx does what steps:make does" in out.replace("\n", " ")
    assert "the report: same.html" in out


def test_check_against_is_the_same_under_its_older_name(step: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "step.onnx", "--against", "steps:make", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["source"] == "steps:make"
    assert main(["check", "step.onnx", "--against", "steps:Less"]) == 1


def test_other_weights_are_found_at_their_node(step: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = step.with_name("report.html")
    assert main(["verify", "step.onnx", "steps:other_weights", "--report", str(report)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: step.onnx does not do what steps:other_weights does: output 'y' differs at ")
    assert "first difference: " in error
    assert "steps.py, line" in error
    assert "likely cause: the file was exported with other weights (SHA-256 " in error
    assert error.index("likely cause") < error.index("  output 'y' differs")
    assert f"the report: {report}" in error
    assert len(error.splitlines()) < 25
    page = report.read_text()
    assert "failed" in page
    assert "<svg" in page


def test_a_model_that_does_more_is_told_from_a_fault_of_the_runtime(step: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "step.onnx", "steps:shifted", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["passed"] is False
    assert "the model has changed since" in document["located"]["cause"]


def test_other_outputs_and_inputs(step: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "step.onnx", "steps:Less"]) == 1
    assert "step.onnx does not do what steps:Less does: the file lacks the output 'output'" in capsys.readouterr().err
    assert main(["verify", "step.onnx", "steps:NoState"]) == 1
    assert "input 'state_0' is no argument of the model's forward(x)" in capsys.readouterr().err


def test_weights_and_samples(step: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import steps

    torch.save(steps.other_weights().state_dict(), "other.pt")
    rng = np.random.default_rng(1)
    feeds = {"x": rng.normal(size=(3, 4, 4)), "state_0": rng.normal(size=(1, 3, 5)), "state_1": rng.normal(size=(1, 3, 5))}
    np.savez("real.npz", **{name: array.astype(np.float32) for name, array in feeds.items()})
    assert main(["verify", "step.onnx", "steps:make", "--samples", "real.npz", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cases"][0]["shapes"]["x"] == [3, 4, 4]
    assert main(["verify", "step.onnx", "steps:make", "--weights", "other.pt"]) == 1
    np.savez("wrong.npz", x=np.zeros((3, 4, 9), np.float32), state_0=feeds["state_0"], state_1=feeds["state_1"])
    capsys.readouterr()
    assert main(["verify", "step.onnx", "steps:make", "--samples", "wrong.npz"]) == 1
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("steps", "there is no steps; expected a torch.nn.Module"),
        ("steps:absent", "has no 'absent'"),
        ("nowhere:make", "cannot import 'nowhere'"),
        ("missing.pt2", "missing.pt2"),
    ],
)
def test_sources_that_are_none(step: Path, capsys: pytest.CaptureFixture[str], source: str, words: str) -> None:
    assert main(["verify", "step.onnx", source]) == 1
    assert words in capsys.readouterr().err


def test_a_program(step: Path) -> None:
    import steps

    inputs = (torch.randn(2, 6, 4), (torch.randn(1, 2, 5), torch.randn(1, 2, 5)))
    program = torch.export.export(Flat(steps.make()).eval(), (inputs[0], *inputs[1]), dynamic_shapes=None)
    export_model(program, None, "program.onnx")
    torch.export.save(program, "program.pt2")
    assert main(["verify", "program.onnx", "program.pt2"]) == 0


class Named(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Flat(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> Tensor:
        y: Tensor = self.inner(x, (h, c))["y"]
        return y


def test_a_file_without_contract_and_with_other_names(tmp_path: Path) -> None:
    """What another exporter made: no goldens, and outputs under names of its own."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    path = tmp_path / "theirs.onnx"
    torch.onnx.export(
        model, (torch.randn(2, 3),), path, dynamo=False, input_names=["input"], output_names=["scores"], dynamic_axes={"input": {0: "n"}}
    )
    report = verify_file(path, model)
    assert report.passed, report.explain()
    assert "scores" in report.outputs
    assert any(not case.traced for case in report.compared)


def test_classes_that_the_export_put_behind_rows(tmp_path: Path) -> None:
    """As for images: the file's labels say that its classes are made of the model's output."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh())
    path = tmp_path / "m.onnx"
    export_model(model, (torch.randn(5, 4),), path, dynamic_shapes=({0: "batch"},), labels=["a", "b", "c"])
    report = verify_file(path, model)
    assert report.passed
    assert report.summary()["untraced_shapes"] >= 2
    with torch.no_grad():
        model[0].bias += 0.1
    assert not verify_file(path, model).passed


def test_limits_hold_where_values_are_drawn_too(tmp_path: Path) -> None:
    """A file without golden samples, and with a name that is longer than a stranger's may be."""
    model, path = nn.Linear(3, 2).eval(), tmp_path / "long.onnx"
    export_model(model, {"input": torch.randn(2, 3)}, path, golden=False)
    proto = onnx.load(path)
    weight, proto.graph.initializer[0].name = proto.graph.initializer[0].name, "x" * 20_000
    for node in proto.graph.node:
        node.input[:] = ["x" * 20_000 if name == weight else name for name in node.input]
    onnx.save(proto, path)
    with pytest.raises(ArtifactError, match="has 20000 bytes, more than"):
        verify_file(path, model)
    assert verify_file(path, model, limits=Limits(name_bytes=30_000)).passed


def test_a_wider_tolerance_that_the_export_was_told_holds_here_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    path = tmp_path / "m.onnx"
    export_model(model, torch.randn(2, 3), path, atol=0.5, rtol=0.0)
    with torch.no_grad():
        model.bias += 0.1
    assert verify_file(path, model).passed
    with torch.no_grad():
        model.bias += 1.0
    assert not verify_file(path, model).passed


def test_arguments_that_make_no_sense(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError):
        verify_file(tmp_path / "absent.onnx", nn.Linear(2, 2))
    export_model(nn.Linear(2, 2), torch.randn(1, 2), tmp_path / "m.onnx")
    with pytest.raises(InputError, match=r"expected a torch\.nn\.Module.*, got int"):
        verify_file(tmp_path / "m.onnx", 3)
    with pytest.raises(InputError, match=r"input 'x' is no input of m\.onnx"):
        verify_file(tmp_path / "m.onnx", Named())


def test_without_torch_the_install_line_is_shown(recogniser_file: Path) -> None:
    program = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('torch', 'onnx'): raise ModuleNotFoundError(name=name.partition('.')[0])\n"
        "sys.meta_path.insert(0, Block())\n"
        "from onnxferry.runtime.cli.main import main\n"
        f"sys.exit(main(['verify', {str(recogniser_file)!r}, 'a:b']))\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "which is not installed: pip install " in result.stderr


@pytest.fixture
def recogniser_file() -> Path:
    from onnxferry.runtime.artifact.zoo import zoo_model

    return zoo_model("digits").path


def _saved(path: Path, *nodes: onnx.NodeProto) -> Path:
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 3]) for name in "xy")
    thousand = onnx.helper.make_tensor("thousand", onnx.TensorProto.FLOAT, [], [1000.0])
    graph = onnx.helper.make_graph(nodes, "g", [x], [y], initializer=[thousand])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def test_an_onnx_source_is_compared_at_special_values_and_at_nan(tmp_path: Path) -> None:
    """Drawn inputs are below 1000, where the first two files agree."""
    make = onnx.helper.make_node
    plain = _saved(tmp_path / "plain.onnx", make("Abs", ["x"], ["y"]))
    capped = _saved(tmp_path / "capped.onnx", make("Abs", ["x"], ["a"]), make("Min", ["a", "thousand"], ["y"]))
    hidden = _saved(
        tmp_path / "hidden.onnx", make("Abs", ["x"], ["a"]), make("IsNaN", ["x"], ["b"]), make("Where", ["b", "thousand", "a"], ["y"])
    )
    assert verify_file(plain, plain, strict_nonfinite=True).passed
    assert "probe 'values: " in verify_file(capped, plain).first_line()
    noted = verify_file(hidden, plain)
    assert noted.passed
    assert any("NaN" in note for note in noted.notes)
    assert not verify_file(hidden, plain, strict_nonfinite=True).passed
    assert main(["verify", str(hidden), str(plain), "--strict-nonfinite"]) == 1
