"""A text classifier as its user sees it: classify, explain, the commands, and what is refused.

The model is made by hand, without torch: each byte is a token, and "+" speaks for one class, "-" for the other.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxferry.runtime.artifact.contract import Contract
from onnxferry.runtime.artifact.metadata import metadata_from_contract
from onnxferry.runtime.cli import main as cli
from onnxferry.runtime.errors import ArtifactError, InputError
from onnxferry.runtime.tasks.loading import load
from onnxferry.runtime.tasks.text_classifier import MAX_BYTES, ByteTextClassifier, TextClassifier, text_feeds


def write_counter(path: Path, without: str = "", labels: tuple[str, ...] = ("bad", "good"), kind: str = "text-classifier") -> Path:
    """A graph with the inputs and outputs of a text classifier; ``without`` names one that is left out."""
    table = np.zeros((256, 2), np.float32)
    table[ord("+"), 1] = table[ord("-"), 0] = 1
    nodes = [
        helper.make_node("Shape", ["text"], ["shape"]),
        helper.make_node("Gather", ["shape", "first"], ["batch"]),
        helper.make_node("Gather", ["shape", "one"], ["length"]),
        helper.make_node("Concat", ["batch", "one"], ["column"], axis=0),
        helper.make_node("ConstantOfShape", ["column"], ["end"], value=numpy_helper.from_array(np.zeros(1, np.uint8))),
        helper.make_node("Concat", ["text", "end"], ["ended"], axis=1),
        helper.make_node("Cast", ["ended"], ["places"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "places"], ["evidence"]),
        helper.make_node("ReduceSum", ["evidence", "one"], ["logits"], keepdims=0),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["logits"], ["class_index"], axis=1, keepdims=0),
        helper.make_node("Cast", ["ended"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Softmax", ["numbers"], ["attention"], axis=1),
        helper.make_node("CumSum", ["ones", "axis"], ["counted"], exclusive=1),
        helper.make_node("Mul", ["places", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "one"], ["ones"]),
        helper.make_node("Unsqueeze", ["text_length", "one"], ["lengths"]),
        helper.make_node("Min", ["counted", "lengths"], ["starts"]),
    ]
    nodes = [nodes[i] for i in (*range(13), 14, 15, 13, 16, 17)]
    constants = {"first": np.array([0]), "one": np.array([1]), "zero": np.array([0]), "axis": np.array(1), "table": table}
    inputs = {"text": (TensorProto.UINT8, ["batch", "length"]), "text_length": (TensorProto.INT64, ["batch_or_1"])}
    outputs = {
        "probabilities": (TensorProto.FLOAT, ["batch", 2]), "class_index": (TensorProto.INT64, ["batch"]),
        "attention": (TensorProto.FLOAT, ["batch", "tokens"]), "evidence": (TensorProto.FLOAT, ["batch", "tokens", 2]),
        "starts": (TensorProto.INT64, ["batch", "tokens"]),
    }  # fmt: skip
    ends = [[helper.make_tensor_value_info(n, *of) for n, of in side.items() if n != without] for side in (inputs, outputs)]
    defaults = {"text_length": np.array([-1], np.int64)}
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    initializers += [numpy_helper.from_array(array, name) for name, array in defaults.items() if name == without]
    graph = helper.make_graph(nodes, "counter", *ends, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    contract = Contract(kind=kind, name="counter", labels=labels, defaults={} if without == "text_length" else defaults)
    helper.set_model_props(model, metadata_from_contract(contract))
    onnx.save(model, path)
    return path


@pytest.fixture
def counter(tmp_path: Path) -> Path:
    return write_counter(tmp_path / "counter.onnx")


def test_a_text_gives_a_prediction_and_a_list_gives_a_list(counter: Path) -> None:
    with load(counter) as model:
        assert isinstance(model, ByteTextClassifier)
        assert isinstance(model, TextClassifier)
        assert model.classify("++-").label == "good"
        texts = ["+", "-" * 400, "好 +", "---+"]
        found = model.classify(texts)
        assert [each.label for each in found] == ["good", "bad", "good", "bad"]
        assert [model.classify(text).probability for text in texts] == [each.probability for each in found]
        assert model.classify([]) == []
        assert model.classify(("+",))[0].to_dict(top=2)["top"][1]["label"] == "bad"


def test_an_explanation_has_the_words_and_where_they_are(counter: Path) -> None:
    with load(counter) as model:
        assert isinstance(model, ByteTextClassifier)
        found = model.explain("a +\n-b")
    assert found.prediction.probability == pytest.approx(0.5)
    assert [(word.text, word.start, word.end) for word in found.words] == [
        ("a", 0, 1), ("", 1, 1), ("+", 2, 3), ("", 3, 3), ("-", 4, 5), ("b", 5, 6),
    ]  # fmt: skip
    assert found.words[2].evidence.tolist() == [0, 1]
    assert [word.text for word in found.deciding(1, "good")] == ["+"]
    assert [word.text for word in found.deciding(1, "bad")] == ["-"]
    with pytest.raises(InputError, match="the model has no label 'fine'; it has bad, good"):
        found.deciding(label="fine")


@pytest.mark.parametrize("text", ["", "  \n", 3, [None], ["+", ""], ["+", 3], "\ud800"])
def test_what_is_no_text_is_refused(counter: Path, text: object) -> None:
    with load(counter) as model, pytest.raises(InputError, match=r"the text (is empty|must be|holds half a character)|expected") as caught:
        model.classify(text)  # type: ignore[attr-defined]
    assert "\n" not in str(caught.value)


def test_a_text_that_is_too_long_is_refused(counter: Path) -> None:
    with load(counter) as model, pytest.raises(InputError, match=f"more than the {MAX_BYTES} that are read"):
        model.classify("+" * (MAX_BYTES + 1))  # type: ignore[attr-defined]


def test_feeds_are_padded() -> None:
    feeds = text_feeds([b"ab", b"", b"abc"])
    assert feeds["text"].tolist() == [[97, 98, 0], [0, 0, 0], [97, 98, 99]]
    assert feeds["text_length"].tolist() == [2, 0, 3]


@pytest.mark.parametrize("without", ["text_length", "evidence", "starts", "probabilities"])
def test_a_graph_that_is_none_is_refused(tmp_path: Path, without: str) -> None:
    with pytest.raises(ArtifactError, match=f"says that it is a text classifier, which has .*{without}"):
        load(write_counter(tmp_path / "m.onnx", without))


def test_a_file_without_names_of_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="names fewer than 2 classes"):
        load(write_counter(tmp_path / "m.onnx", labels=()))


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = cli.main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_predict_takes_texts_files_and_stdin(
    counter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "texts.txt").write_text("++\n\n--\n", encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("+好\n".encode())))
    code, out, _ = run(["predict", str(counter), "a +", str(tmp_path / "texts.txt"), "-", "--json", "--top", "2"], capsys)
    assert code == 0
    found = json.loads(out)["predictions"]
    assert [(each["text"], each["label"]) for each in found] == [("a +", "good"), ("++", "good"), ("--", "bad"), ("+好", "good")]
    code, out, _ = run(["predict", str(counter), "a very long text + that is wrapped", "--threshold", "0.9"], capsys)
    assert code == 0
    assert "not sure (good?)" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([""], "the text is empty"),
        (["+", "--photo"], "--photo is for models of images"),
        (["empty.txt"], "empty.txt holds no text"),
        (["gbk.txt"], "gbk.txt is not UTF-8"),
    ],
)
def test_predict_refuses_in_one_line(
    counter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_text("\n \n")
    Path("gbk.txt").write_bytes("很好".encode("gbk"))
    code, out, err = run(["predict", str(counter), *arguments], capsys)
    assert code != 0
    assert out == ""
    assert said in err


def test_evaluate_counts_and_shows_the_confusion_matrix(counter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "t.csv"
    table.write_text("text,label\n+,good\n-,bad\n-,good\n,good\n", encoding="utf-8")
    code, out, _ = run(["evaluate", str(counter), "--data", str(table), "--json"], capsys)
    assert code == 0
    found = json.loads(out)
    assert (found["texts"], found["correct"], found["confusion"]) == (3, 2, [[1, 0], [1, 1]])
    assert found["notes"] == ["1 empty texts"]
    code, out, _ = run(["evaluate", str(counter), "--data", str(table), "--plot", str(tmp_path / "c.png")], capsys)
    assert code == 0
    assert "Confusion matrix" in out
    assert (tmp_path / "c.png").is_file()


@pytest.mark.parametrize(
    ("content", "more", "said"),
    [
        ("text,label\n+,fine\n", [], "text 1 has the label 'fine', and the model knows bad, good"),
        ("body,label\n+,good\n", [], "has no column 'text': name one with --text"),
        ("text,label\n ,good\n", [], "all texts in t.csv are empty"),
        ("text,label\n+,good\n", ["--target", "class"], "has no column 'class': name one with --target"),
    ],
)
def test_evaluate_refuses_in_one_line(
    counter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, more: list[str], said: str
) -> None:
    (tmp_path / "t.csv").write_text(content, encoding="utf-8")
    code, out, err = run(["evaluate", str(counter), "--data", str(tmp_path / "t.csv"), *more], capsys)
    assert code != 0
    assert out == ""
    assert said in " ".join(err.split())


def test_a_model_of_another_kind_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = write_counter(tmp_path / "m.onnx", kind="model")
    for words in (["predict", str(other), "a text"], ["generate", str(other), "a text"]):
        code, out, err = run(words, capsys)
        assert code != 0
        assert out == ""
        assert "this model classifies rows" in err or "is not a text generator" in err
