"""Text classifiers and translators as variants: scored by their answers on labelled texts, and 8 bits for the translator's loop."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from onnxferry.export import export_checkpoint
from onnxferry.export.graphs.nodes import all_nodes
from onnxferry.export.graphs.reading import load_onnx
from onnxferry.export.optimize import optimize as module
from onnxferry.export.optimize.budget import parse_budget
from onnxferry.export.optimize.optimize import optimize
from onnxferry.export.optimize.rewrites.quantize_text import eight_bit_loop, eight_bit_reading
from onnxferry.export.optimize.score import score
from onnxferry.export.optimize.timing import Speed
from onnxferry.runtime import load
from onnxferry.runtime.cli.main import main
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.engine.replay import replay
from onnxferry.runtime.errors import DataError, ExportError
from onnxferry.runtime.tasks.translator import Translator
from onnxferry.train.families.seq2seq import Seq2Seq, Seq2SeqConfig, padded
from onnxferry.train.families.text_classifier import TextClassifierConfig, TextNetwork
from onnxferry.train.loop.checkpoint import Checkpoint

TEXTS = [b"3 mars 2019", "2019年3月3日".encode(), b"Mar 3, '19", b"x", b"3. III. 2019"]


@pytest.fixture(scope="module")
def translator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its widths are multiples of a block of 8-bit weights; what it writes has no meaning."""
    folder = tmp_path_factory.mktemp("translator")
    torch.manual_seed(1)
    network = Seq2Seq(Seq2SeqConfig(embedding=8, encoder=16, decoder=32, attention=6, half=True, max_bytes=8)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_((parameter * 1.5).half().float())
        network.head.bias[0] = 2.0
    text, lengths = padded(TEXTS)
    examples = {"text": text, "lengths": lengths}
    Checkpoint("seq2seq", asdict(network.config), dict(network.state_dict()), examples=examples).save(folder / "best.pt")
    export_checkpoint(folder / "best.pt", folder / "words.onnx")
    with load(folder / "words.onnx", device="cpu") as model:
        assert isinstance(model, Translator)
        sources = [f"{day} mars {1900 + day}" for day in range(1, 120)]
        written = model.translate(sources)
    lines = [f"{source}\t{target.strip() or '-'}" for source, target in zip(sources, written, strict=True) if target.isprintable()]
    (folder / "pairs.tsv").write_text("\n".join(lines if len(lines) > 40 else [f"{source}\tx" for source in sources]), encoding="utf-8")
    return folder / "words.onnx"


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classifier")
    torch.manual_seed(0)
    network = TextNetwork(TextClassifierConfig(labels=("bad", "good"), width=12, embedding=7, buckets=300, linear_buckets=999)).eval()
    example = torch.frombuffer(bytearray(b"\n".join(TEXTS)), dtype=torch.uint8)
    Checkpoint("text-classifier", asdict(network.config), dict(network.state_dict()), examples={"text": example}).save(folder / "best.pt")
    export_checkpoint(folder / "best.pt", folder / "moods.onnx")
    rows = [f"{'good' if number % 3 else 'bad'},review number {number}" for number in range(60)]
    (folder / "reviews.csv").write_text("\n".join(["label,text", *rows]), encoding="utf-8")
    return folder / "moods.onnx"


@pytest.fixture
def twice_as_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "compare_speed", lambda *_, **__: Speed(2.0, 0.01, 2e-3, 1e-3))


def test_a_translator_in_8_bits_is_certified_by_its_translations(translator: Path, tmp_path: Path, twice_as_fast: None) -> None:
    data = translator.with_name("pairs.tsv")
    result = optimize(translator, data=data, budget="top1 -100pt", batches=(1,), seconds=0.01, folder=tmp_path)
    rungs = {verdict.rung: verdict for verdict in result.verdicts if verdict.tag == "int8"}
    assert set(rungs) == {"step", "text"}
    for verdict in rungs.values():
        assert verdict.score is not None
        assert (verdict.score.metric, verdict.score.n) == ("top1", verdict.score.n)
        assert "right, the original" in verdict.score.words
    kept = [verdict for verdict in rungs.values() if verdict.kept]
    if not kept:  # rounding may tip a golden sample of weights that mean nothing
        assert all("decision changes" in verdict.words for verdict in rungs.values())
        return
    with Engine(tmp_path / "words.int8.onnx", device="cpu") as engine:
        assert engine.contract is not None
        assert engine.contract.certificate["score"]["metric"] == "top1"
        assert "bytes" not in engine.contract.certificate["rms"]
        replay(engine).raise_if_failed("words.int8.onnx")
    with load(tmp_path / "words.int8.onnx", device="cpu") as model:
        assert isinstance(model, Translator)
        alone = [model.translate(text) for text in TEXTS]
        assert model.translate(TEXTS) == alone, "rows of a batch share no scale"


def test_a_translator_s_products_are_integers(translator: Path) -> None:
    original = load_onnx(translator)
    made = eight_bit_reading(eight_bit_loop(original))
    onnx.checker.check_model(made)
    kinds = [node.op_type for node in all_nodes(made)]
    assert kinds.count("MatMulInteger") == 2  # of the values and of the keys
    assert kinds.count("MatMulNBits") == 4  # of the state and of the output, in both loops
    feeds = {"text": np.frombuffer(b"3 mars 2019", np.uint8)[None]}
    with Engine(original.SerializeToString(), device="cpu") as one, Engine(made.SerializeToString(), device="cpu") as other:
        expected, actual = one.run(feeds), other.run(feeds)
    assert abs(float(expected["log_probability"][0, 0]) - float(actual["log_probability"][0, 0])) < 0.5
    with pytest.raises(ExportError, match="nothing that the model computes of its text"):
        eight_bit_reading(made)


def test_a_text_classifier_is_scored_by_its_classes(classifier: Path, tmp_path: Path, twice_as_fast: None) -> None:
    result = optimize(classifier, data=classifier.with_name("reviews.csv"), batches=(1,), seconds=0.01, folder=tmp_path)
    assert result.data.startswith("texts with labels")
    scored = [verdict for verdict in result.verdicts if verdict.score is not None]
    assert scored
    assert all(verdict.score is not None and verdict.score.metric == "top1" for verdict in scored)
    assert all(path.is_file() for path in result.files)


def test_what_is_no_such_data_is_one_clear_line(classifier: Path, translator: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path, data, words in (
        (classifier, [], "a text classifier is scored on labelled texts"),
        (translator, [], "a translator is scored on pairs"),
        (translator, ["--data", str(classifier.with_name("reviews.csv"))], "has no tab"),
        (classifier, ["--data", str(classifier.with_name("none.csv"))], "none.csv"),
        (translator, ["--data", "dates", "--budget", "nats +0.1"], "does not fit a model of the kind translator"),
    ):
        assert main(["optimize", str(path), *data]) == 1
        error = capsys.readouterr().err
        assert words in error
        assert [line.partition(" ")[0] for line in error.strip().splitlines()] == ["error:", "help:"]
    others = classifier.with_name("others.jsonl")
    others.write_text("\n".join(json.dumps({"text": f"text {number}", "label": f"class {number % 2}"}) for number in range(20)))
    with pytest.raises(DataError, match="has the classes class 0, class 1, and the model knows bad, good"):
        optimize(classifier, data=others)


def test_a_translation_is_right_or_wrong_as_a_whole() -> None:
    def written(*texts: bytes) -> dict[str, np.ndarray]:
        array = np.zeros((len(texts), 1, 6), np.uint8)
        for row, text in zip(array[:, 0], texts, strict=True):
            row[: len(text)] = np.frombuffer(text, np.uint8)
        return {"bytes": array}

    answers = np.empty(4, object)
    answers[:] = [b"one", b"two", b"three", b"four"]
    original, variant = written(b"one", b"two", b"three", b"five"), written(b"one", b"two", b"thre", b"five")
    found = score(parse_budget("top1 -25pt"), original, variant, answers)
    assert (found.source, found.variant, found.n, found.inside) == (75.0, 50.0, 4, True)
    assert not score(parse_budget("top1 -20pt"), original, variant, answers).inside
    assert score(parse_budget("top1 -25pt"), original, variant, None).metric == "agreement"
