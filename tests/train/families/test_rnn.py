"""The recurrent network and how it learns: state, masks, sampling, streams, resuming, and stopping in time."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from onnxferry.runtime.errors import InputError, TrainingError
from onnxferry.train.data.text import TextSplits, load_text
from onnxferry.train.families.rnn import (
    Rnn,
    RnnConfig,
    RnnLearner,
    RnnOptions,
    choose,
    has_bfloat16_lstm,
    nats_per_byte,
    running_weights,
    sample,
)
from onnxferry.train.loop.checkpoint import load_checkpoint
from onnxferry.train.loop.loop import LoopConfig, fit
from onnxferry.train.loop.schedule import one_cycle
from onnxferry.train.presets import rnn_learner

CELLS = ("lstm", "gru")
EndsItself = Callable[[str, int, signal.Signals], Sequence[str]]


def network(cell: str = "gru", depth: int = 2, **more: object) -> Rnn:
    torch.manual_seed(0)
    made = Rnn(RnnConfig(cell=cell, depth=depth, width=24, embedding=6, half=False, **more)).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        made.head.weight.normal_(0, 0.5)
        made.bias.normal_(0, 0.5)
    return made


def splits(text: bytes, validation: int = 0, test: int = 0) -> TextSplits:
    data = np.frombuffer(text, np.uint8)
    first = len(data) - validation - test
    return TextSplits("text", data[:first], data[first : first + validation], data[first + validation :], "0" * 64, "a test's")


def small_learner(text: bytes, **options: object) -> RnnLearner:
    config = RnnConfig(cell="gru", depth=1, width=16, embedding=8)
    return RnnLearner(splits(text, 60, 60), config, dataclasses.replace(RnnOptions(epochs=1, batch=4, steps=16), **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("cell", CELLS)
def test_one_layer_is_torch_s_own(cell: str) -> None:
    ours = network(cell, depth=1)
    theirs = nn.LSTM(6, 24) if cell == "lstm" else nn.GRU(6, 24)
    theirs.load_state_dict(ours.layers[0].state_dict())
    bytes_, state = torch.randint(0, 256, (9, 3)), torch.randn(3, ours.config.slots, 24)
    h = state[:, 0].contiguous()[None]
    with torch.inference_mode():
        outputs, after = theirs(ours.embed(bytes_), (h, state[:, 1].contiguous()[None]) if cell == "lstm" else h)
        logits, mine = ours(bytes_, state)
        torch.testing.assert_close(logits, F.linear(outputs, ours.head.weight, ours.bias))
        torch.testing.assert_close(mine[:, 0], (after[0] if cell == "lstm" else after)[0])


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_a_state_is_all_that_a_continuation_needs(cell: str, tied: bool) -> None:
    made = network(cell, depth=3, tied=tied)
    bytes_ = torch.randint(0, 256, (20, 2))
    with torch.inference_mode():
        whole, end = made(bytes_, made.start(2))
        _, middle = made(bytes_[:7], made.start(2))
        rest, end_again = made(bytes_[7:], middle)
    torch.testing.assert_close(rest, whole[7:])
    torch.testing.assert_close(end_again, end)
    torch.testing.assert_close(made.logits_of(middle), whole[6])


def test_a_tied_head_is_the_embedding() -> None:
    made = network(tied=True)
    assert {name for name in made.state_dict() if "head" in name or "embed" in name} == {"embed.weight", "head.weight"}
    assert made.head.weight.shape == (6, 24)
    assert made.embed.weight.shape == (256, 6)


def test_dropped_places_stay_the_same_over_time_and_differ_between_rows() -> None:
    made = network()
    made.dropout = 0.5
    made.train()
    dropped = made._drop(torch.ones(30, 8, 40))
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert bool((dropped == dropped[:1]).all())
    assert not bool((dropped[0, 0] == dropped[0, 1]).all())
    made.eval()
    assert bool((made._drop(torch.ones(3, 2, 4)) == 1).all())


def test_dropped_places_differ_at_each_byte_where_that_is_asked_for() -> None:
    made = network()
    made.dropout, made.variational = 0.5, False
    made.train()
    dropped = made._drop(torch.ones(30, 8, 40))
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert not bool((dropped[0] == dropped[1]).all())


@pytest.mark.parametrize("cell", CELLS)
def test_without_skip_connections_the_head_reads_the_last_layer_alone(cell: str) -> None:
    made = network(cell, skip=False)
    bytes_, state = torch.randint(0, 256, (5, 3)), torch.randn(3, made.config.slots, 24)
    logits, after = made(bytes_, state)
    stack = (nn.LSTM if cell == "lstm" else nn.GRU)(6, 24, num_layers=2)
    stack.load_state_dict(
        {name.replace("_l0", f"_l{index}"): w for index, layer in enumerate(made.layers) for name, w in layer.state_dict().items()}
    )
    slots = state.transpose(0, 1)
    outputs, _ = stack(made.embed(bytes_), (slots[::2].contiguous(), slots[1::2].contiguous()) if cell == "lstm" else slots.contiguous())
    torch.testing.assert_close(logits, made._head(outputs), rtol=0, atol=1e-5)
    torch.testing.assert_close(made.logits_of(after), logits[-1], rtol=0, atol=1e-5)


def test_weight_dropout_acts_in_training_only_and_gradients_reach_every_weight() -> None:
    made = network("lstm")
    made.weight_dropout = 0.5
    bytes_, state = torch.randint(0, 256, (5, 3)), torch.zeros(3, 4, 24)
    made.train()
    first, second = made(bytes_, state)[0], made(bytes_, state)[0]
    assert not torch.allclose(first, second)
    first.sum().backward()
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in made.parameters())
    made.eval()
    assert torch.equal(made(bytes_, state)[0], made(bytes_, state)[0])


def test_the_score_is_the_mean_cross_entropy_in_chunks_of_any_size() -> None:
    made = network()
    text = np.random.default_rng(0).integers(0, 256, 50, dtype=np.uint8)
    expected = 0.0
    with torch.inference_mode():
        _, state = made(torch.tensor([[10]]), made.start(1))  # the line break that a text is taken to follow
        for byte in text.tolist():
            expected -= float(made.logits_of(state).log_softmax(dim=1)[0, byte])
            _, state = made(torch.tensor([[byte]]), state)
    for chunk in (1, 7, 50, 4096):
        assert nats_per_byte(made, text, chunk) == pytest.approx(expected / 50, rel=1e-5)


def test_sampling_follows_the_distribution() -> None:
    logits = torch.full((1, 256), -30.0)
    logits[0, [65, 66, 67]] = torch.tensor([0.5, 0.25, 0.25]).log()
    uniforms = (torch.arange(1000) + 0.5) / 1000
    drawn = choose(logits.expand(1000, -1), uniforms, 1.0)
    assert torch.bincount(drawn, minlength=256)[[65, 66, 67]].tolist() == [500, 250, 250]
    # In the order of the bytes' values, as the exported graph goes.
    assert drawn.tolist() == sorted(drawn.tolist())


def test_temperature_sharpens_and_zero_takes_the_first_of_the_likeliest() -> None:
    logits = torch.zeros(1, 256)
    logits[0, 200] = logits[0, 100] = 2.0
    for uniform in (0.0, 0.5, 0.999999):
        assert choose(logits, torch.tensor([uniform]), 0.0).item() == 100
    shares = [float(running_weights(logits, t)[0, 100] - running_weights(logits, t)[0, 99]) for t in (2.0, 1.0, 0.5, 0.1)]
    assert shares == sorted(shares)
    assert shares[1] == pytest.approx(np.exp(2) / (2 * np.exp(2) + 254), rel=1e-5)
    assert shares[-1] == pytest.approx(0.5, abs=1e-4)


def kept(logits: torch.Tensor, **options: object) -> list[int]:
    running = running_weights(logits, 1.0, **options)[0]  # type: ignore[arg-type]
    return torch.diff(running, prepend=torch.zeros(1)).nonzero()[:, 0].tolist()


def test_top_k_and_top_p_keep_what_they_say() -> None:
    logits = torch.full((1, 256), -40.0)
    logits[0, [10, 20, 30, 40]] = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    assert kept(logits, top_k=1) == [10]
    assert kept(logits, top_k=3) == [10, 20, 30]
    assert kept(logits, top_p=0.39) == [10]
    assert kept(logits, top_p=0.41) == [10, 20]
    assert kept(logits, top_p=0.95) == [10, 20, 30, 40]
    # After top_k the shares are of what is left: 0.4 of 0.7 is more than a half.
    assert kept(logits, top_k=2, top_p=0.55) == [10]
    assert kept(logits, top_k=2, top_p=0.6) == [10, 20]
    assert len(kept(torch.zeros(1, 256), top_k=3)) == 256  # all weigh as much as the third


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-24, 1.0])
def test_the_ends_of_the_scale_never_choose_a_byte_of_no_weight(uniform: float) -> None:
    logits = torch.full((1, 256), -torch.inf)
    logits[0, 50:53] = torch.tensor([0.1, 0.7, 0.3])
    assert choose(logits, torch.tensor([uniform]), 1.0).item() == (50 if uniform == 0 else 52)


def test_a_batch_is_written_row_by_row_alike() -> None:
    made = network("lstm")
    state, uniforms = torch.randn(4, 4, 24) * 0.3, torch.rand(4, 30)
    together, after = sample(made, state, uniforms, 0.9, top_k=50)
    for row in range(4):
        alone, after_alone = sample(made, state[row : row + 1], uniforms[row : row + 1], 0.9, top_k=50)
        assert torch.equal(alone[0], together[row])
        torch.testing.assert_close(after_alone[0], after[row])


def test_streams_read_the_text_in_order_and_an_epoch_is_a_function_of_seed_and_number() -> None:
    text = bytes(np.random.default_rng(1).integers(0, 256, 1000, dtype=np.uint8))
    learner = small_learner(text)
    train = learner.data.train
    from lightning_fabric import Fabric

    learner.setup(Fabric(accelerator="cpu"), 100)
    batches = list(learner.batches(3, 0))
    assert len(batches) == learner.steps_per_epoch() == (len(train) - 1) // (4 * 16)
    assert all(batch.shape == (17, 4) for batch in batches)
    for before, after in itertools.pairwise(batches):
        assert torch.equal(before[-1], after[0])  # each stream goes on where it was
    stream = torch.cat([batch[:-1, 0] for batch in batches]).numpy().astype(np.uint8).tobytes()
    assert stream in train.tobytes() * 2  # around the end
    again = list(learner.batches(3, 0))
    assert all(torch.equal(a, b) for a, b in zip(batches, again, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(batches[5:], learner.batches(3, 5), strict=True))
    assert not torch.equal(batches[0], next(iter(learner.batches(4, 0))))


@pytest.mark.parametrize("length", [200, 260, 1000])
def test_a_short_text_is_learnt_all_the_same(length: int, tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_bytes((b"abcdefghijklmnop" * 100)[:length])
    learner = rnn_learner(load_text("", path), "quick", width=8, embedding=4, epochs=1)
    result = fit(learner, LoopConfig(out=tmp_path / "run", device="cpu"))
    assert result["test"]["n"] == length - length * 9 // 10


@pytest.mark.parametrize("known", [True, False])
def test_an_lstm_under_autocast_where_the_cpu_has_one_and_where_not(known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if known and not has_bfloat16_lstm():
        pytest.skip("no LSTM in bfloat16 on this CPU")
    monkeypatch.setattr("onnxferry.train.families.rnn.has_bfloat16_lstm", lambda: known)
    made = network("lstm")
    bytes_, state = torch.randint(0, 256, (9, 3)), torch.randn(3, made.config.slots, 24)
    with torch.inference_mode():
        exact, _ = made(bytes_, state)
        with torch.autocast("cpu", torch.bfloat16):
            near, after = made(bytes_, state.bfloat16())
    assert after.isfinite().all()
    assert (near.float() - exact).abs().max() < 0.05 * exact.abs().max()  # 2^-9 of each number, in some dozen sums in a row


def test_asking_for_an_lstm_in_bfloat16_draws_no_random_number() -> None:
    before = torch.get_rng_state()
    has_bfloat16_lstm.cache_clear()
    has_bfloat16_lstm()
    assert torch.equal(torch.get_rng_state(), before)


def test_learning_comes_down_far_below_chance_and_leaves_a_checkpoint_of_half_precision(tmp_path: Path) -> None:
    text = b"the quick brown fox jumps over the lazy dog. " * 60
    learner = small_learner(text, epochs=30, learning_rate=2e-2, dropout=0.0, weight_dropout=0.0, average=0.9)
    result = fit(learner, LoopConfig(out=tmp_path, device="cpu"))
    assert result["test"]["loss"] < 0.7  # chance is 5.55, and 3.0 with the letters' frequencies alone
    checkpoint = load_checkpoint(tmp_path, "rnn")
    assert all(torch.equal(w, w.half().float()) for w in checkpoint.weights.values())
    made = checkpoint.model()
    assert isinstance(made, Rnn)
    assert nats_per_byte(made, learner.data.test) == pytest.approx(result["test"]["loss"], rel=1e-6)
    assert len((tmp_path / "sample.txt").read_text()) > 100


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    text = b"abcdefghij" * 200
    learner = small_learner(text, epochs=3)
    step = RnnLearner.step

    def breaks(batch: torch.Tensor) -> dict[str, torch.Tensor]:
        metrics = step(learner, batch)
        return metrics if (tmp_path / "best.pt").exists() is False else {"loss": metrics["loss"] * torch.nan}

    learner.step = breaks  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match="the loss is nan in epoch 2"):
        fit(learner, LoopConfig(out=tmp_path, device="cpu"))
    assert load_checkpoint(tmp_path, "rnn").metrics["epoch"] == 1


SIZES = {"width": 16, "embedding": 8, "depth": 2, "batch": 4, "steps": 8, "epochs": 2}
SMALL = ["--cell", "lstm", "--device", "cpu", "--save-seconds", "0", *(word for k, v in SIZES.items() for word in (f"--{k}", str(v)))]


def start(data: Path, out: Path, *more: str, program: Sequence[str] = ("-m", "onnxferry.runtime")) -> subprocess.Popen[str]:
    command = [sys.executable, *program, "train", "rnn", "--data", str(data), *SMALL, "--out", str(out), *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def test_a_run_cut_off_within_an_epoch_continues_bit_for_bit(tmp_path: Path, ends_itself: EndsItself) -> None:
    data = tmp_path / "text.txt"
    data.write_bytes(bytes(np.random.default_rng(2).integers(97, 103, 6000, dtype=np.uint8)))
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    process = start(data, whole)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    # Within the second of two epochs.
    process = start(data, cut, program=ends_itself("rnn.RnnLearner", 200, signal.SIGINT))
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 130, output
    words = " ".join(output.split())
    assert "everything is saved: continue with:" in words
    assert "--resume" in words
    saved = torch.load(cut / "last.pt", weights_only=True)["state"]
    assert saved["epoch"] == 1
    assert saved["step"] > 0
    process = start(data, cut, "--resume")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    one, other = load_checkpoint(whole, "rnn"), load_checkpoint(cut, "rnn")
    assert all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)

    def records(out: Path) -> list[dict[str, object]]:
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]

    assert records(whole) == records(cut)


def test_the_rate_goes_up_and_comes_down() -> None:
    rates = [one_cycle(i / 100) for i in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates.index(max(rates)) == 5
    assert rates[-1] == pytest.approx(1e-4)
    assert one_cycle(1.5) == pytest.approx(1e-4)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: RnnConfig(cell="rnn"), "unknown cell 'rnn'; expected lstm or gru"),
        (lambda: RnnConfig(width=0), "width must be at least 1, got 0"),
        (lambda: RnnOptions(dropout=1.0), "dropout must be at least 0 and below 1"),
        (lambda: RnnOptions(learning_rate=0.0), "learning_rate must be above 0"),
        (lambda: RnnOptions(batch=0), "batch must be at least 1"),
        (lambda: rnn_learner(splits(b"x" * 300), "best"), "unknown preset 'best'; expected quick or full"),
    ],
)
def test_options_that_make_no_sense_are_refused(make: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()  # type: ignore[operator]
