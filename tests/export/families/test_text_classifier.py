"""The whole-task graph of a text classifier against PyTorch: cells, lengths, batches, empty texts, bytes that are no text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from onnxferry.export import export_checkpoint
from onnxferry.export.families.text_classifier.export import text_cases
from onnxferry.export.families.text_classifier.graph import text_classifier_graph
from onnxferry.export.families.text_classifier.source import TextClassifierSource
from onnxferry.export.optimize.score import outputs_of
from onnxferry.export.parity.tolerances import TEXT_CLASSES
from onnxferry.runtime.artifact.metadata import contract_from_metadata
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.engine.replay import replay_goldens
from onnxferry.runtime.errors import CheckpointError, InputError, ParityError
from onnxferry.runtime.tasks.loading import load
from onnxferry.runtime.tasks.text_classifier import ByteTextClassifier, text_feeds
from onnxferry.train.families.text_classifier import TextClassifierConfig, TextNetwork, rounded
from onnxferry.train.loop.checkpoint import Checkpoint

TEXTS = [b"A lovely film, really!", "房间很干净，下次还来".encode(), b"not what I paid for"]


def network(cell: str = "gru", classes: int = 2, small: bool = True) -> TextNetwork:
    torch.manual_seed(0)
    labels = tuple("abcdefg"[:classes])
    made = TextNetwork(TextClassifierConfig(labels=labels, cell=cell, width=12, embedding=7, buckets=300, linear_buckets=999, small=small))
    with torch.no_grad():
        made.linear.normal_(0, 0.5)
        made.embed.mul_(5)
        made.head.bias.normal_()
        if small:
            for table in (made.linear, made.embed):
                table.copy_(rounded(table))
    return made.eval()


def checkpoint(made: TextNetwork, **changes: object) -> Checkpoint:
    import dataclasses

    example = torch.frombuffer(bytearray(b"\n".join(TEXTS)), dtype=torch.uint8)
    parts = {"config": dataclasses.asdict(made.config), "weights": made.state_dict(), "examples": {"text": example}, **changes}
    return Checkpoint(family="text-classifier", **parts)  # type: ignore[arg-type]


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_the_graph_gives_what_pytorch_gives(cell: str, classes: int) -> None:
    made = network(cell, classes)
    source = TextClassifierSource(made, text_feeds([b"x"]))
    rng = np.random.default_rng(0)
    cases = text_cases(TEXTS)
    cases["random bytes"] = text_feeds([rng.integers(0, 256, n, dtype=np.uint8).tobytes() for n in (1, 5, 64, 200)])
    with Engine(text_classifier_graph(made).SerializeToString(), device="cpu", threads=1) as engine:
        for name, feeds in cases.items():
            expected, actual = source.run(feeds), engine.run(feeds)
            assert actual["starts"].tolist() == expected["starts"].tolist(), name
            assert actual["class_index"].tolist() == expected["class_index"].tolist(), name
            for output, tolerance in TEXT_CLASSES.items():
                np.testing.assert_allclose(actual[output], expected[output], rtol=tolerance.rtol, atol=tolerance.atol, err_msg=name)


def test_a_text_gets_the_same_answer_alone_and_in_a_batch() -> None:
    """Also from a text behind it whose first bytes belong to no word of their own."""
    texts = [*TEXTS, b"", b" \x80\x80", b"\xbf tail", b"  spaces before"]
    with Engine(text_classifier_graph(network()).SerializeToString(), device="cpu", threads=1) as engine:
        together = engine.run(text_feeds(texts))
        for row, text in enumerate(texts):
            alone = engine.run(text_feeds([text]))
            count = alone["starts"].shape[1]
            assert together["starts"][row, :count].tolist() == alone["starts"][0].tolist()
            for name, tolerance in TEXT_CLASSES.items():
                found = together[name][row] if name == "probabilities" else together[name][row, :count]
                np.testing.assert_allclose(found, alone[name][0], rtol=tolerance.rtol, atol=tolerance.atol, err_msg=name)


def test_bytes_behind_a_texts_length_do_not_matter() -> None:
    feeds = text_feeds(TEXTS)
    dirty = {**feeds, "text": feeds["text"].copy()}
    for row, length in enumerate(feeds["text_length"].tolist()):
        dirty["text"][row, length:] = 65 + row
    with Engine(text_classifier_graph(network()).SerializeToString(), device="cpu", threads=1) as engine:
        clean, other = engine.run(feeds), engine.run(dirty)
    assert all(np.array_equal(clean[name], other[name]) for name in clean)


def test_a_checkpoint_becomes_a_file_that_verifies_itself(tmp_path: Path) -> None:
    made = network()
    checkpoint(made).save(tmp_path / "best.pt")
    report = export_checkpoint(tmp_path / "best.pt", tmp_path / "m.onnx", with_labels=True)
    assert report.passed
    assert report.summary()["untraced_shapes"] > 3
    with load(tmp_path / "m.onnx") as model:
        assert isinstance(model, ByteTextClassifier)
        assert model.contract is not None
        assert replay_goldens(model.run, model.contract).passed
        found = model.classify([text.decode() for text in TEXTS])
        expected = TextClassifierSource(made, text_feeds([b"x"])).run(text_feeds(TEXTS))
        assert [each.index for each in found] == expected["class_index"].tolist()
        assert model.run(text_feeds(TEXTS))["label"].tolist() == [each.label for each in found]


def test_weights_are_stored_in_eight_bits_and_lose_nothing() -> None:
    small, large = (text_classifier_graph(network(small=small)) for small in (True, False))
    types = {tensor.name: tensor.data_type for tensor in small.graph.initializer}
    assert types["embed_columns_int8"] == types["linear_columns_int8"] == onnx.TensorProto.INT8
    assert len(small.SerializeToString()) < len(large.SerializeToString())


def test_a_broken_graph_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxferry.export.families.text_classifier.graph.PREFIX", 4)
    checkpoint(network()).save(tmp_path / "best.pt")
    with pytest.raises(ParityError, match=r"probabilities|evidence|attention"):
        export_checkpoint(tmp_path / "best.pt", tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


def test_what_is_no_checkpoint_of_one_is_refused(tmp_path: Path) -> None:
    checkpoint(network(), examples={}).save(tmp_path / "best.pt")
    with pytest.raises(CheckpointError, match="no examples 'text'"):
        export_checkpoint(tmp_path / "best.pt", tmp_path / "m.onnx")
    checkpoint(network()).save(tmp_path / "best.pt")
    with pytest.raises(InputError, match="bits"):
        export_checkpoint(tmp_path / "best.pt", tmp_path / "m.onnx", bits=8)


def test_outputs_of_batches_with_other_numbers_of_tokens_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `optimize` scores them: the second batch has longer texts than the first."""
    monkeypatch.setattr("onnxferry.export.optimize.score.SCORE_BATCH_SIZE", 1)
    feeds = text_feeds([b"a", TEXTS[1]])
    with Engine(text_classifier_graph(network()).SerializeToString(), device="cpu", threads=1) as engine:
        whole, joined = engine.run(feeds), outputs_of(engine, feeds)
    assert {name: array.shape for name, array in joined.items()} == {name: array.shape for name, array in whole.items()}
    assert joined["class_index"].tolist() == whole["class_index"].tolist()


def test_the_contract_says_what_it_is(tmp_path: Path) -> None:
    checkpoint(network(classes=3)).save(tmp_path / "best.pt")
    export_checkpoint(tmp_path / "best.pt", tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    contract = contract_from_metadata({each.key: each.value for each in model.metadata_props})
    assert contract is not None
    assert (contract.kind, contract.family, contract.labels) == ("text-classifier", "text-classifier", ("a", "b", "c"))
    assert contract.defaults["text_length"].tolist() == [-1]
