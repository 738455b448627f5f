"""A translator as its user sees it: translate, explain, lists, the commands, and what is refused.

The model is made by hand, without torch: it gives the text back as it is, in as many beams as are asked for.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxferry.runtime.artifact.contract import Contract
from onnxferry.runtime.artifact.metadata import metadata_from_contract
from onnxferry.runtime.cli import main as cli
from onnxferry.runtime.errors import ArtifactError, DataError, InputError
from onnxferry.runtime.evaluation.pairs import read_pairs
from onnxferry.runtime.tasks.loading import load
from onnxferry.runtime.tasks.translator import Translator, search_feeds


def write_echo(path: Path, without: str = "") -> Path:
    """A graph with the inputs and outputs of a translator; ``without`` names one that is left out."""
    nodes = [
        helper.make_node("Shape", ["text"], ["shape"]),
        helper.make_node("Gather", ["shape", "first"], ["batch"]),
        helper.make_node("Concat", ["batch", "one"], ["column"], axis=0),
        helper.make_node("ConstantOfShape", ["column"], ["end"], value=numpy_helper.from_array(np.zeros(1, np.uint8))),
        helper.make_node("Concat", ["text", "end"], ["ended"], axis=1),
        helper.make_node("Unsqueeze", ["ended", "one"], ["single"]),
        helper.make_node("Unsqueeze", ["beam", "first"], ["beams_1"]),
        helper.make_node("Concat", ["one", "beams_1", "one"], ["times"], axis=0),
        helper.make_node("Tile", ["single", "times"], ["bytes"]),
        helper.make_node("Concat", ["batch", "beams_1"], ["pair"], axis=0),
        helper.make_node("ConstantOfShape", ["pair"], ["log_probability"], value=numpy_helper.from_array(np.full(1, -0.5, np.float32))),
        helper.make_node("Cast", ["bytes"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["numbers", "three"], ["deep"]),
        helper.make_node("Shape", ["ended"], ["places"], start=1),
        helper.make_node("Concat", ["one", "one", "one", "places"], ["across"], axis=0),
        helper.make_node("Tile", ["deep", "across"], ["attention"]),
    ]
    constants = {"first": np.array([0]), "one": np.array([1]), "three": np.array([3])}
    defaults = {"text_length": np.array([-1]), "beam": np.array(1), "max_bytes": np.array(9), "length_penalty": np.array(1, np.float32)}
    inputs = {
        "text": (TensorProto.UINT8, ["batch", "length"]), "text_length": (TensorProto.INT64, ["batch_or_1"]),
        "beam": (TensorProto.INT64, []), "max_bytes": (TensorProto.INT64, []), "length_penalty": (TensorProto.FLOAT, []),
    }  # fmt: skip
    outputs = {
        "bytes": (TensorProto.UINT8, ["batch", "beams", "steps"]), "log_probability": (TensorProto.FLOAT, ["batch", "beams"]),
        "attention": (TensorProto.FLOAT, ["batch", "beams", "steps", "places"]),
    }  # fmt: skip
    ends = [[helper.make_tensor_value_info(n, *of) for n, of in side.items() if n != without] for side in (inputs, outputs)]
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    initializers += [numpy_helper.from_array(array, name) for name, array in defaults.items() if name == without]
    graph = helper.make_graph(nodes, "echo", *ends, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    kept = {name: array for name, array in defaults.items() if name != without}
    helper.set_model_props(model, metadata_from_contract(Contract(kind="translator", name="echo", defaults=kept)))
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_echo(tmp_path_factory.mktemp("echo") / "echo.onnx")


@pytest.fixture
def model(echo: Path):
    with load(echo) as opened:
        assert isinstance(opened, Translator)
        yield opened


def test_a_text_gives_a_text_and_a_list_a_list_in_its_order(model: Translator) -> None:
    assert model.translate("año") == "año"
    assert model.translate(b"bytes") == "bytes"
    texts = [f"{'long ' * (number % 7)}{number} 日" for number in range(150)]
    assert model.translate(texts) == texts
    assert model.translate(texts, beam=3) == texts
    assert model.translate([]) == []
    assert model.translate("a\xff".encode("latin-1")) == "a\ufffd"


def test_explain_gives_every_beam_with_its_attention(model: Translator) -> None:
    best, *others = model.explain("abc", beam=3)
    assert [best.text, *(each.text for each in others)] == ["abc"] * 3
    assert best.finished
    assert best.attention.shape == (4, 4)
    assert best.attention.dtype == np.float32
    assert best.probability == pytest.approx(np.exp(-0.5))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("",), "the text is empty"),
        ((["a", ""],), "the text 2 is empty"),
        ((7,), "a text or a list of texts, got int"),
        (("a" * 10_001,), "has 10,001 bytes, at most 10,000"),
        (("a", 0), "beam must be a whole number >= 1"),
        (("a", 257), "beam must be 1 … 256"),
        (("a", 1, 0), "max_bytes must be a whole number >= 1"),
        (("a", 1, 20_000), "max_bytes must be 1 … 10,000"),
        (("\ud800",), "half a character"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(model: Translator, arguments: tuple, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        model.translate(*arguments)
    assert "\n" not in str(caught.value)


def test_a_penalty_is_a_number() -> None:
    for bad in (-1, float("nan"), True, "1"):
        with pytest.raises(InputError, match="length_penalty"):
            search_feeds(length_penalty=bad)  # type: ignore[arg-type]
    assert search_feeds(4, 20, 0.5)["length_penalty"].dtype == np.float32
    assert search_feeds() == {}


@pytest.mark.parametrize("without", ["attention", "beam", "bytes"])
def test_a_graph_that_is_no_translator_is_refused(tmp_path: Path, without: str) -> None:
    with pytest.raises(ArtifactError, match=f"says that it is a translator, which has an .*{without}"):
        load(write_echo(tmp_path / "x.onnx", without))


def run(*words: str) -> int:
    return cli.main(list(words))


def test_the_command_translates_arguments_files_and_stdin(
    echo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("translate", str(echo), "one", "deux 日") == 0
    assert capsys.readouterr().out == "one\ndeux 日\n"
    lines = tmp_path / "lines.txt"
    lines.write_bytes("\ufeffa\r\n\nb b\n".encode())
    assert run("translate", str(echo), "--data", str(lines)) == 0
    assert capsys.readouterr().out == "a\n\nb b\n"  # a line for a line
    with lines.open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert run("translate", str(echo), "-") == 0
    assert capsys.readouterr().out == "a\n\nb b\n"
    assert run("translate", str(echo), "x", "--beam", "2", "--top", "2") == 0
    assert capsys.readouterr().out == "x\tx\t0.6065\n\tx\t0.6065\n"
    assert run("translate", str(echo), "x", "--beam", "2", "--top", "2", "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)["translations"]
    assert (found["text"], found["translation"], len(found["others"])) == ("x", "x", 1)


def test_the_command_s_mistakes_are_one_line(echo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.txt").write_bytes(b"\n\n")
    (tmp_path / "latin.txt").write_bytes(b"f\xe9vrier")
    for words, said in (
        ([], "nothing to translate"),
        (["a", "--data", "x"], "not both"),
        ([""], "the text is empty"),
        (["a", "--top", "2"], "--top must be 1"),
        (["--data", str(tmp_path / "gone.txt")], "there is no file"),
        (["--data", str(tmp_path)], "is a folder"),
        (["--data", str(tmp_path / "empty.txt")], "empty.txt is empty"),
        (["--data", str(tmp_path / "latin.txt")], "latin.txt is not UTF-8 (byte 1)"),
    ):
        assert run("translate", str(echo), *words) == 1, words
        assert said in capsys.readouterr().err.splitlines()[0]


def test_a_model_of_another_kind_is_named(echo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("translate", "digits", "a") == 1
    assert "digits is not a translator" in capsys.readouterr().err
    assert run("generate", str(echo), "a") == 1
    assert "its contract says translator" in capsys.readouterr().err


def test_evaluate_counts_exact_translations(echo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "pairs.tsv.gz"
    path.write_bytes(gzip.compress("a\ta\nb\tc\n\n日\t日\n".encode()))
    assert run("evaluate", str(echo), "--data", str(path), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["pairs"], found["exact"]) == (3, 2)
    assert found["wrong"] == [{"text": "b", "expected": "c", "translation": "b"}]
    assert run("evaluate", str(echo), "--data", str(path)) == 0
    assert "66.67%  (2 of 3)" in capsys.readouterr().out
    assert run("evaluate", str(echo), "--data", str(path), "--target", "x") == 1
    assert "--target does not apply to a translator" in capsys.readouterr().err
    path.write_bytes(b"no tab")
    assert run("evaluate", str(echo), "--data", str(path)) == 1
    assert "line 1 of pairs.tsv.gz has no tab" in capsys.readouterr().err


def test_pairs_of_a_file_without_any(tmp_path: Path) -> None:
    path = tmp_path / "empty.tsv"
    path.write_bytes(b"\n")
    with pytest.raises(DataError, match="is empty"):
        read_pairs(path)
    path.write_bytes(b"a\xff\tb")
    with pytest.raises(DataError, match="is not UTF-8"):
        read_pairs(path)
