"""The text classifier: padding changes nothing, evidence sums to the answer, it learns, resumes, and weighs classes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from onnxferry.runtime.errors import CheckpointError, InputError
from onnxferry.runtime.tables.labelled_text import LabelledTexts
from onnxferry.train.data.text_sets import TextClassSplits, split_texts
from onnxferry.train.data.text_tokens import tokens
from onnxferry.train.families.baselines import bag_of_words
from onnxferry.train.families.text_classifier import (
    TextClassifierConfig,
    TextClassifierLearner,
    TextClassifierOptions,
    TextNetwork,
    model_from_config,
    padded,
    rounded,
)
from onnxferry.train.loop.checkpoint import load_checkpoint
from onnxferry.train.loop.loop import InterruptedTrainingError, LoopConfig, Observer, fit
from onnxferry.train.presets import text_classifier_learner

TINY = {"width": 8, "embedding": 6, "buckets": 256, "linear_buckets": 512}
TEXTS = ["a lovely film", "房间很好", "", "not good at all, not at all " * 9, "!"]


def network(cell: str = "gru", classes: int = 3) -> TextNetwork:
    torch.manual_seed(0)
    made = TextNetwork(TextClassifierConfig(labels=tuple("abcdef"[:classes]), cell=cell, **TINY)).eval()
    with torch.no_grad():
        made.linear.normal_(0, 0.5)
        made.embed.mul_(5)
    return made


def splits(count: int = 60, rare: int = 0) -> TextClassSplits:
    """Two classes that one word distinguishes: whether it comes before or after another one, which a bag of words cannot see."""
    generator = np.random.default_rng(0)
    pairs = []
    for label in ("no", "yes"):
        for i in range(rare if rare and label == "yes" else count):
            middle = " ".join(f"w{n}" for n in generator.integers(0, 30, 4))
            word = "not good" if label == "no" else "very good"
            pairs.append((f"{middle} {word} {i}", label))
    return split_texts("made", LabelledTexts([text for text, _ in pairs], [label for _, label in pairs], ""), "made")


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_a_text_gets_the_same_answer_alone_and_padded(cell: str) -> None:
    made = network(cell)
    read = [tokens(text.encode()).hashes for text in TEXTS]
    with torch.inference_mode():
        together = made(*padded(read))
        for row, each in enumerate(read):
            alone = made(*padded([each]))
            count = len(each)
            for name in ("logits", "recurrent", "linear"):
                torch.testing.assert_close(getattr(together, name)[row], getattr(alone, name)[0], msg=name)
            torch.testing.assert_close(together.attention[row, :count], alone.attention[0])
            torch.testing.assert_close(together.evidence[row, :count], alone.evidence[0])
            assert not together.attention[row, count:].any()
            assert not together.evidence[row, count:].any()


def test_what_stands_in_the_padding_does_not_matter() -> None:
    made = network()
    hashes, counts = padded([tokens(text.encode()).hashes for text in TEXTS])
    dirty = hashes.clone()
    for row, count in enumerate(counts.tolist()):
        dirty[row, count:] = 12345
    with torch.inference_mode():
        for clean, other in zip(made(hashes, counts), made(dirty, counts), strict=True):
            assert torch.equal(clean, other)


def test_evidence_sums_to_the_logits_and_attention_to_one() -> None:
    made = network()
    with torch.inference_mode():
        answer = made(*padded([tokens(text.encode()).hashes for text in TEXTS]))
        torch.testing.assert_close(answer.evidence.sum(dim=1) + made.bias, answer.logits)
        torch.testing.assert_close(answer.logits, made.mix[0] * answer.recurrent + made.mix[1] * answer.linear)
        torch.testing.assert_close(answer.attention.sum(dim=1), torch.ones(len(TEXTS)))


def test_rounding_keeps_eight_bits_and_is_done_once() -> None:
    table = torch.randn(5, 300, generator=torch.Generator().manual_seed(0))
    table[2] = 0
    once = rounded(table)
    assert torch.equal(rounded(once), once)
    assert all(len(row.unique()) <= 255 for row in once)
    assert float((once - table).abs().max()) <= float(table.abs().max()) / 127 / 2 + 1e-6


def test_it_learns_the_order_of_words_and_is_exported_as_it_was_scored(tmp_path: Path) -> None:
    learner = text_classifier_learner(splits(), "quick", epochs=12, batch=16, learning_rate=1e-2, average=0.9, **TINY)
    result = fit(learner, LoopConfig(out=tmp_path / "run", device="cpu"))
    assert result["test"]["accuracy"] == 1.0
    assert result["baseline"]["bag_of_words"] > 0.7
    checkpoint = load_checkpoint(tmp_path / "run")
    assert checkpoint.metrics["test"] == result["test"]
    deployed = checkpoint.model()
    assert isinstance(deployed, TextNetwork)
    assert torch.equal(rounded(deployed.linear), deployed.linear)
    data = learner.data.test
    with torch.inference_mode():
        logits = deployed(*padded([tokens(text).hashes for text in data.texts])).logits
    assert logits.argmax(dim=1).tolist() == data.labels.tolist()


class _StopsAt(Observer):
    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def validated(self, record, best: bool, shown: str) -> None:
        if record["epoch"] == self.epoch:
            raise InterruptedTrainingError("stopped")


def test_an_interrupted_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    def learner() -> TextClassifierLearner:
        return TextClassifierLearner(splits(20), TextClassifierOptions(epochs=3, batch=8), **TINY)

    fit(learner(), LoopConfig(out=tmp_path / "whole", device="cpu"))
    with pytest.raises(InterruptedTrainingError):
        fit(learner(), LoopConfig(out=tmp_path / "cut", device="cpu"), _StopsAt(2))
    fit(learner(), LoopConfig(out=tmp_path / "cut", device="cpu", resume=True))
    whole, cut = (load_checkpoint(tmp_path / name).weights for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_it_stops_early(tmp_path: Path) -> None:
    learner = TextClassifierLearner(splits(20), TextClassifierOptions(epochs=40, batch=16, learning_rate=3e-2), **TINY)
    fit(learner, LoopConfig(out=tmp_path / "run", device="cpu", patience=2))
    epochs = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(epochs) < 40


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    from lightning_fabric import Fabric

    learner = TextClassifierLearner(splits(40, rare=10), TextClassifierOptions(class_weights="balanced"), **TINY)
    learner.setup(Fabric(accelerator="cpu", devices=1), total_steps=1)
    counts = np.bincount(learner.data.train.labels)
    assert learner.class_weights is not None
    np.testing.assert_allclose(learner.class_weights.numpy(), counts.sum() / (2 * counts), rtol=1e-6)


def test_every_epoch_reads_every_text_once_in_another_order() -> None:
    from lightning_fabric import Fabric

    learner = TextClassifierLearner(splits(), TextClassifierOptions(batch=10), **TINY)
    learner.setup(Fabric(accelerator="cpu", devices=1), total_steps=1)
    orders = []
    for epoch in (0, 1):
        read = [tuple(row[:count].flatten().tolist()) for h, c, *_ in learner.batches(epoch, 0) for row, count in zip(h, c, strict=True)]
        assert len(set(read)) == len(learner.train) == len(read)
        orders.append(read)
    assert orders[0] != orders[1]
    later = [labels.tolist() for _, _, labels, *_ in learner.batches(1, 3)]
    assert later == [labels.tolist() for _, _, labels, *_ in learner.batches(1, 0)][3:]


def test_long_texts_are_cut_in_the_middle_for_training() -> None:
    learner = TextClassifierLearner(splits(), TextClassifierOptions(most_tokens=8), **TINY)
    assert {len(each) for each in learner.train} == {8}  # the whole texts have more
    text = learner.data.train.texts[0]
    assert learner.train[0].tolist() == [*tokens(text).hashes[:4].tolist(), *tokens(text).hashes[-4:].tolist()]


def test_a_bag_of_words_learns_words() -> None:
    data = splits()
    share = bag_of_words(data.train.texts, data.train.labels, data.test.texts, data.test.labels, 2)
    assert share == 1.0


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"cell": "rnn"}, "unknown cell 'rnn'"),
        ({"labels": ("a",)}, "at least 2 labels, got 1"),
        ({"buckets": 0}, "buckets must be at least 1"),
    ],
)
def test_configurations_that_make_no_network(values: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        TextClassifierConfig(**{"labels": ("a", "b"), **values})  # type: ignore[arg-type]


def test_options_out_of_range() -> None:
    with pytest.raises(InputError, match="unknown class weights 'some'"):
        TextClassifierOptions(class_weights="some")
    with pytest.raises(InputError, match="dropout must be at least 0 and below 1"):
        TextClassifierOptions(dropout=1.0)


def test_a_configuration_of_another_kind_is_refused() -> None:
    with pytest.raises(CheckpointError, match="width"):
        model_from_config({**dataclasses.asdict(TextClassifierConfig(labels=("a", "b"))), "width": "wide"})
