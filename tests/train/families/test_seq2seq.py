"""The translator and how it learns: padding that is not read, teaching, resuming, and the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from onnxferry.runtime.cli.main import main
from onnxferry.runtime.errors import InputError
from onnxferry.train.data.pairs.tsv import PairSplits
from onnxferry.train.families.seq2seq import (
    Seq2Seq,
    Seq2SeqConfig,
    Seq2SeqLearner,
    Seq2SeqOptions,
    mean_loss,
    padded,
    places_of,
    teaching,
    translate,
)
from onnxferry.train.loop.checkpoint import load_checkpoint
from onnxferry.train.loop.loop import LoopConfig, fit

SMALL = {"embedding": 8, "encoder": 12, "decoder": 14, "attention": 6}


def network() -> Seq2Seq:
    torch.manual_seed(0)
    made = Seq2Seq(Seq2SeqConfig(**SMALL, half=False)).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        made.head.weight.normal_(0, 0.7)
    return made


def reversed_words(count: int) -> PairSplits:
    """A task that a tiny network learns: two letters, in the other order."""
    letters = "abcdef"
    pairs = [(f"{a}{b}".encode(), f"{b}{a}".encode()) for a in letters for b in letters] * count
    return PairSplits("swap", pairs, pairs[:36], pairs[:36], "0" * 64, "a test's", {"first": tuple(range(10))})


def test_only_bytes_of_the_training_translations_are_written() -> None:
    pairs = [(bytes([97 + at % 26]), b"42" if at % 2 else b"-") for at in range(60)]
    data = PairSplits("few", pairs, pairs, [(b"a", b"9")], "0" * 64, "a test's")
    learner = Seq2SeqLearner(data, Seq2SeqConfig(**SMALL), Seq2SeqOptions(), seed=0)  # type: ignore[arg-type]
    assert learner.config.alphabet == (0, *b"-24")
    made = Seq2Seq(learner.config).eval()
    assert made(torch.zeros(2, 3, dtype=torch.uint8), torch.tensor([3, 1]), torch.zeros(2, 5, dtype=torch.int64)).shape == (2, 5, 4)
    assert set(b"".join(translate(made, [bytes([at]) for at in range(1, 200)]))) <= set(b"-24")
    assert places_of(learner.config, torch.tensor([0, 50, 57, -1])).tolist() == [0, 2, -1, -1]
    assert np.isfinite(mean_loss(made, data.test))  # its 9 does not count, its end does


@pytest.mark.parametrize("alphabet", [(1, 2), (0, 5, 3), (0, 3, 3), (0, 256)])
def test_an_alphabet_that_is_none(alphabet: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="alphabet"):
        Seq2SeqConfig(alphabet=alphabet)


def test_a_text_alone_and_in_a_padded_batch_are_the_same() -> None:
    made = network()
    texts = [b"3 mars 2019", b"", "2019年3月3日".encode(), b"x"]
    text, lengths = padded(texts)
    garbage = torch.where(torch.arange(text.shape[1]) < lengths[:, None], text, torch.randint(1, 256, text.shape, dtype=torch.uint8))
    with torch.inference_mode():
        together, dirty = made.encode(text, lengths), made.encode(garbage, lengths)
        assert torch.equal(together.values, dirty.values)
        assert torch.equal(together.state, dirty.state)
        before = torch.tensor([[0, 50, 48]] * 4)
        logits = made(text, lengths, before)
        for row, each in enumerate(texts):
            alone = made(*padded([each]), before[:1])
            # Products of other shapes sum in another order: some roundings of float32.
            torch.testing.assert_close(alone[0], logits[row], rtol=1e-5, atol=1e-5)
    assert translate(made, texts) == [translate(made, [each])[0] for each in texts]


def test_a_change_of_any_byte_is_seen() -> None:
    made = network()
    with torch.inference_mode():
        first = made.encode(*padded([b"abcdefgh"]))
        for place in range(8):
            other = made.encode(*padded([b"abcdefgh"[:place] + b"Z" + b"abcdefgh"[place + 1 :]]))
            assert not torch.equal(first.values[:, :place], other.values[:, :place]) or place == 0  # by the backward direction
            assert not torch.equal(first.values[:, place:], other.values[:, place:])


def test_teaching_gives_the_byte_before_and_counts_the_end() -> None:
    text, lengths, before, wanted = teaching([(b"ab", b"xy"), (b"c", b"z")])
    assert text.tolist() == [[97, 98], [99, 0]]
    assert lengths.tolist() == [2, 1]
    assert before.tolist() == [[0, 120, 121], [0, 122, 0]]
    assert wanted.tolist() == [[120, 121, 0], [122, 0, -1]]


def test_the_loss_is_that_of_each_pair_alone() -> None:
    made, pairs = network(), [(b"abc", b"x"), (b"d", b"yzyz"), (b"", b"q")]
    total, count = 0.0, 0
    with torch.inference_mode():
        for pair in pairs:
            text, lengths, before, wanted = teaching([pair])
            total += float(F.cross_entropy(made(text, lengths, before)[0], wanted[0], reduction="sum"))
            count += wanted.numel()
    assert mean_loss(made, pairs) == pytest.approx(total / count, rel=1e-5)


def test_it_learns_and_resumes_to_the_same_weights(tmp_path: Path, cut_off: Callable) -> None:
    def learner() -> Seq2SeqLearner:
        options = Seq2SeqOptions(epochs=4, batch=36, learning_rate=0.03, average=0.9, dropout=0.0)
        return Seq2SeqLearner(reversed_words(20), Seq2SeqConfig(**SMALL), options)  # type: ignore[arg-type]

    whole = fit(learner(), LoopConfig(out=tmp_path / "whole", device="cpu"))
    assert whole["test"]["exact"] == 1.0
    assert whole["test"]["exact_first"] == 1.0
    cut_off(learner(), LoopConfig(out=tmp_path / "parts", device="cpu"))
    fit(learner(), LoopConfig(out=tmp_path / "parts", device="cpu", resume=True))
    one, other = (load_checkpoint(tmp_path / name) for name in ("whole", "parts"))
    assert all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)
    assert one.config["max_bytes"] == 5  # twice the longest target, and one
    made = one.model()
    assert isinstance(made, Seq2Seq)
    assert translate(made, [b"ab"]) == [b"ba"]


def test_options_that_make_no_sense_are_refused() -> None:
    for bad in ({"epochs": 0}, {"dropout": 1.0}, {"clip": 0.0}):
        with pytest.raises(InputError):
            Seq2SeqOptions(**bad)  # type: ignore[arg-type]
    with pytest.raises(InputError):
        Seq2SeqConfig(max_bytes=0)


def test_the_command_trains_on_a_file_of_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "swap.tsv"
    path.write_text("\n".join(f"{a}{b}{c}\t{c}{b}{a}" for a in "abcd" for b in "abcd" for c in "abcd"))
    words = ["--encoder", "8", "--decoder", "8", "--attention", "8", "--epochs", "1", "--batch", "16"]
    assert main(["train", "seq2seq", "--data", str(path), "--out", str(tmp_path / "run"), *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["test"]["n"] > 0
    for wrong, said in ((["--limit", "100"], "leave out --limit"), (["--dataset", "dates"], "leave out --dataset")):
        assert main(["train", "seq2seq", "--data", str(path), *wrong]) == 1
        assert said in capsys.readouterr().err
    assert main(["train", "seq2seq", "--dataset", "times"]) == 1
    assert "unknown data set 'times'" in capsys.readouterr().err
