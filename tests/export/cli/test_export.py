"""``onnxferry export`` on everybody's models: factories, weights, programs, foreign .onnx files, samples and reports."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from onnxferry.export.sources.input_spec import parsed_inputs
from onnxferry.runtime.cli.main import main
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.errors import InputError

MODULE = """
import torch
from torch import nn
import torch.nn.functional as F

class Words(nn.Module):
    def __init__(self, size=20):
        super().__init__()
        self.table = nn.Embedding(size, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, ids, weight):
        return {"scores": self.head((self.table(ids) * weight[..., None]).mean(1))}

def make():
    torch.manual_seed(0)
    return Words()

def program():
    inputs = (torch.zeros(2, 3, dtype=torch.int64), torch.rand(2, 3))
    batch = torch.export.Dim("batch")
    return torch.export.export(make().eval(), inputs, dynamic_shapes=({0: batch}, {0: batch}))

def no_model():
    return 3

def breaks():
    raise RuntimeError("no weights here")

def row():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh())

class Nested(nn.Module):
    def forward(self, batch, state):
        return batch["image"] * batch["scale"] + state[0] - state[1]

class Keeps(nn.Module):
    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, ids, weight):
        self.seen.append(weight)
        return sum(self.seen)

class Random(Words):
    def forward(self, ids, weight):
        return F.dropout(super().forward(ids, weight)["scores"], 0.5, training=True)
"""

INPUTS = ["--input", "ids:int64[batch,time]=0..19", "--input", "weight:float32[batch,time]"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with ``words.py`` in it, of which Python has not heard."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "words", raising=False)
    (tmp_path / "words.py").write_text(MODULE)
    return tmp_path


def export(*arguments: object) -> int:
    return main(["export", *map(str, arguments)])


def made() -> torch.nn.Module:
    return sys.modules["words"].make().eval()


def test_a_factory_with_inputs_on_the_command_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export("words:make", *INPUTS, "-o", "m.onnx", "--json", "--license", "MIT", "--description", "words") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["passed"] is True
    assert document["bytes"] == Path("m.onnx").stat().st_size
    assert sum(not case["traced"] and case["compared"] for case in document["cases"]) >= 8
    assert document["files"] == ["m.onnx"]
    assert not any("training mode" in note for note in document["notes"])  # nobody has the model in hand
    with Engine("m.onnx", device="cpu") as engine:
        assert [str(spec) for spec in engine.inputs] == ["ids: int64 (batch, time)", "weight: float32 (batch, time)"]
        assert engine.contract is not None
        assert (engine.contract.license, engine.contract.description) == ("MIT", "words")
        ids, weight = np.array([[1, 19, 0, 4]]), np.ones((1, 4), np.float32)
        got = engine.run({"ids": ids, "weight": weight})["scores"]
    with torch.no_grad():
        want = made()(torch.from_numpy(ids), torch.from_numpy(weight))["scores"].numpy()
    np.testing.assert_allclose(got, want, atol=1e-6)
    assert str(place).encode() not in Path("m.onnx").read_bytes()
    assert main(["check", "m.onnx"]) == 0


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_weights(place: Path, capsys: pytest.CaptureFixture[str], suffix: str) -> None:
    assert export("words:make", *INPUTS, "-o", "plain.onnx") == 0
    model = made()
    with torch.no_grad():
        model.head.bias += 10
    if suffix == "pt":
        torch.save(model.state_dict(), "w.pt")
    else:
        from safetensors.torch import save_file

        save_file(model.state_dict(), "w.safetensors")
    assert export("words:make", "--weights", f"w.{suffix}", *INPUTS, "-o", "m.onnx", "--golden", "none") == 0
    feeds = {"ids": np.array([[1, 2]]), "weight": np.ones((1, 2), np.float32)}
    with Engine("m.onnx", device="cpu") as engine, Engine("plain.onnx", device="cpu") as plain:
        assert engine.contract is not None
        assert engine.contract.goldens == ()
        np.testing.assert_allclose(engine.run(feeds)["scores"], plain.run(feeds)["scores"] + 10, atol=1e-5)
    capsys.readouterr()
    torch.save({"head.bias": torch.zeros(3)}, "few.pt")
    assert export("words:make", "--weights", "few.pt", *INPUTS, "-o", "x.onnx") == 1
    assert "few.pt" in capsys.readouterr().err.splitlines()[0]
    assert not Path("x.onnx").exists()


def test_a_pickle_that_runs_code_is_not_loaded(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Harm:
        def __reduce__(self):
            return Path.touch, (Path("harm"),)

    torch.save({"head.bias": Harm()}, "w.pt")
    assert export("words:make", "--weights", "w.pt", *INPUTS, "-o", "x.onnx") == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert not Path("harm").exists()


def test_samples_are_traced_with_compared_and_carried(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for number, batch in enumerate((2, 3)):
        np.savez(f"s{number}.npz", ids=rng.integers(0, 20, (batch, 4)), weight=rng.random((batch, 4), np.float32))
    assert export("words:make", *INPUTS, "--samples", "s0.npz", "--samples", "s1.npz", "--golden", "s1.npz", "-o", "m.onnx", "--json") == 0
    cases = json.loads(capsys.readouterr().out)["cases"]
    assert cases[0]["shapes"]["ids"] == [2, 4]
    assert [case["shapes"]["ids"] for case in cases if case["name"].startswith("sample")] == [[3, 4]]
    with Engine("m.onnx", device="cpu") as engine:
        assert engine.contract is not None
        (golden,) = engine.contract.goldens
        assert golden.inputs["ids"].shape == (3, 4)
    assert export("words:make", "--samples", "missing.npz", "-o", "x.onnx") == 1
    assert "there is no file missing.npz" in capsys.readouterr().err


def test_programs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export("words:program", "-o", "a.onnx") == 0
    torch.export.save(sys.modules["words"].program(), "program.pt2")
    assert export("program.pt2", "-o", "b.onnx") == 0
    for name in ("a.onnx", "b.onnx"):
        with Engine(name, device="cpu") as engine:
            assert engine.run({"ids": np.zeros((5, 3), np.int64), "weight": np.ones((5, 3), np.float32)})["scores"].shape == (5, 3)


def foreign(path: Path, seed: int = 0) -> Path:
    """Another tool's file: a stack trace in its nodes, a declared shape that is wrong, no contract."""
    weight = np.random.default_rng(seed).normal(size=(4, 3)).astype(np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="n", doc_string="/somewhere/secret.py line 3")
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_a_foreign_file_is_checked_and_wrapped(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign(Path("theirs.onnx"))
    assert export("theirs.onnx", "-o", "ours.onnx", "--name", "theirs") == 0
    data = Path("ours.onnx").read_bytes()
    assert b"secret.py" not in data
    assert main(["check", "ours.onnx"]) == 0
    x = np.random.default_rng(1).normal(size=(7, 4)).astype(np.float32)
    with Engine("ours.onnx", device="cpu") as ours, Engine("theirs.onnx", device="cpu") as theirs:
        assert ours.contract is not None
        assert (ours.contract.kind, ours.contract.name, len(ours.contract.goldens)) == ("model", "theirs", 2)
        np.testing.assert_array_equal(ours.run({"x": x})["y"], theirs.run({"x": x})["y"])
    capsys.readouterr()
    assert export("theirs.onnx", "-o", "theirs.onnx") == 1
    assert "over its own source" in capsys.readouterr().err


def test_a_foreign_file_that_draws_random_numbers_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = helper.make_graph(
        [helper.make_node("RandomNormalLike", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "random.onnx")
    assert export("random.onnx", "-o", "ours.onnx") == 1
    assert "from run to run" in capsys.readouterr().err.splitlines()[0]
    assert not Path("ours.onnx").exists()


def test_reports(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export("words:make", *INPUTS, "-o", "m.onnx", "--report", "r.html") == 0
    assert "the report: r.html" in capsys.readouterr().out
    page = Path("r.html").read_text()
    assert "passed" in page
    assert "<svg" in page
    assert re.findall(r"(?:src|href)=|url\(|@import|https?:", page) == [], "one page that loads nothing"
    assert export("words:make", *INPUTS, "-o", "x.onnx", "--rtol", "0", "--atol", "0", "--report", "r.json") == 1
    assert "the report: r.json" in capsys.readouterr().err
    report = json.loads(Path("r.json").read_text())
    assert report["passed"] is False
    assert report["failures"][0]["kind"] == "difference"
    assert report["located"]["try"]
    assert not Path("x.onnx").exists()
    assert export("words:make", *INPUTS, "-o", "x.onnx", "--report", "r.txt") == 1
    assert "--report takes a name ending in .html or .json" in capsys.readouterr().err
    assert export("words:make", *INPUTS, "-o", "x.onnx", "--report", "nowhere/r.html") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["words:make"], "say what the model takes"),
        (["words:absent", *INPUTS], "has no 'absent'; it has"),
        (["words:no_model", *INPUTS], "gave int, expected a torch.nn.Module"),
        (["words:breaks", *INPUTS], "no weights here"),
        (["nowhere:make", *INPUTS], "cannot import 'nowhere'"),
        (["absent.pt2"], "absent.pt2"),
        (["words.py"], "words.py cannot be exported; expected a torch.nn.Module"),
        (["absent"], "there is no absent"),
        (["words:Random", *INPUTS], "changes from run to run"),
        (["words:make", *INPUTS, "--with-labels"], "the option with_labels does not apply to a torch.nn.Module"),
        (["words:make", *INPUTS, "--bits", "8"], "it is for text generators"),
        (["model.pkl"], "may run code when it is read"),
        (["words:make", "--input", "ids:int64[2,3]=0..19"], "forward("),
        (
            ["words:make", INPUTS[0], INPUTS[1], "--input", "wieght:float32[batch,time]"],
            "'wieght' is no argument of the model's forward(ids, weight)",
        ),
        (["words:Nested", "--input", "image:float32[2]", "--input", "scale:float32[2]"], "what is inside one by state_0 or batch_image"),
        (["words:Keeps", *INPUTS], "the second time (RuntimeError: The size of tensor"),
    ],
)
def test_what_is_refused_is_refused_in_words(place: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    assert export(*arguments, "-o", "m.onnx") == 1
    error = capsys.readouterr().err
    assert words in error.splitlines()[0]
    assert "Traceback" not in error
    assert sorted(p.name for p in place.iterdir() if p.name != "__pycache__") == ["words.py"]


def test_a_single_input_may_go_by_any_name(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """nn.Sequential calls its argument ``input``, which stands nowhere in its user's code."""
    for number in range(2):
        np.savez(f"s{number}.npz", x=np.full((2, 4), number, np.float32))
    more = ["--samples", "s0.npz", "--samples", "s1.npz", "--golden", "s1.npz"]
    assert export("words:row", "--input", "x:float32[batch,4]", *more, "-o", "m.onnx") == 0
    assert "the input 'x' is called 'input' in the file, as in forward()" in capsys.readouterr().out
    with Engine("m.onnx", device="cpu") as engine:
        assert [str(spec) for spec in engine.inputs] == ["input: float32 (batch, 4)"]
    assert main(["check", "m.onnx", "--against", "words:row"]) == 0
    assert export("words:row", "--input", "input:float32[batch,4]", "-o", "n.onnx") == 0
    assert "is called" not in capsys.readouterr().out


def test_inputs_inside_a_dict_and_a_tuple(place: Path) -> None:
    names = ("batch_image", "batch_scale", "state_0", "state_1")
    inputs = [word for name in names for word in ("--input", f"{name}:float32[batch,3]")]
    assert export("words:Nested", *inputs, "-o", "m.onnx") == 0
    with Engine("m.onnx", device="cpu") as engine:
        assert tuple(spec.name for spec in engine.inputs) == names
        feeds = {name: np.full((5, 3), value, np.float32) for name, value in zip(names, (2, 3, 4, 1), strict=True)}
        np.testing.assert_array_equal(engine.run(feeds)["output"], np.full((5, 3), 9))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x", "is not of the form"),
        ("x:float12[3]", "unknown dtype 'float12'"),
        ("x:float32[3,b-c]", "the axis 'b-c' is neither a size nor a name"),
        ("x:float32[n=3,n=4]", "two sizes"),
    ],
)
def test_inputs_that_cannot_be_read(text: str, words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        parsed_inputs([text])


def test_inputs_are_drawn_as_described() -> None:
    image, ids, flag, one = parsed_inputs(["image:uint8[batch,8]", "ids:int64[batch,time=5]=3..4", "flag:bool[2]", "one:float32"])
    assert (image.shape, image.axes) == ((2, 8), {0: "batch"})
    assert (ids.shape, ids.axes) == ((2, 5), {0: "batch", 1: "time"})
    assert set(ids.example().ravel()) <= {3, 4}
    assert image.example().dtype == np.uint8
    assert flag.example().dtype == bool
    assert one.example().shape == ()
    np.testing.assert_array_equal(image.example(), image.example())


@pytest.mark.parametrize("option", [["--opset", "20"], ["--rtol", "0"]])
def test_options_that_a_run_brings_itself_are_refused_and_not_ignored(
    place: Path, option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "run").mkdir()
    assert export("run", "-o", "x.onnx", *option) == 1
    assert capsys.readouterr().err.startswith(f"error: the option {option[0][2:]} does not apply to a run folder or checkpoint")


def test_the_operator_set_of_a_file_is_its_own(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export("words:make", *INPUTS, "-o", "words.onnx", "--opset", "20") == 0
    assert onnx.load("words.onnx").opset_import[0].version == 20
    assert export("words.onnx", "-o", "again.onnx", "--opset", "18") == 1
    assert "the option opset does not apply to an .onnx file" in capsys.readouterr().err
