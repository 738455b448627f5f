"""The loop: what a run leaves behind, that a killed run continues bit for bit, and that it stops in time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision

from onnxferry.runtime.cli.main import main
from onnxferry.runtime.errors import TrainingError
from onnxferry.train.data.images import load_images
from onnxferry.train.families.cnn import CnnLearner, CnnOptions
from onnxferry.train.loop import loop
from onnxferry.train.loop.checkpoint import load_checkpoint
from onnxferry.train.loop.loop import LoopConfig, draw_curves, fit

EndsItself = Callable[[str, int, signal.Signals], Sequence[str]]

SMALL = [
    "--limit",
    "300",
    "--batch",
    "20",
    "--width",
    "4",
    "--epochs",
    "3",
    "--validation",
    "200",
    "--save-seconds",
    "0",
    "--device",
    "cpu",
]


def start(out: Path, *more: str, program: Sequence[str] = ("-m", "onnxferry.runtime")) -> subprocess.Popen[str]:
    command = [sys.executable, *program, "train", "cnn", *SMALL, "--out", str(out), *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def lines(out: Path) -> list[dict[str, object]]:
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        record.pop("seconds", None)  # the only thing that may differ
    return records


def learner(**options: object) -> CnnLearner:
    splits = load_images("digits-5k", limit=300, validation=200)
    return CnnLearner(splits, CnnOptions(**{"epochs": 1, "batch": 20, **options}), framing="ink", width=4)  # type: ignore[arg-type]


def test_a_killed_run_continues_where_it_was_and_ends_the_same(tmp_path: Path, ends_itself: EndsItself) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    process = start(whole)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output

    # The 13th of 15 steps of the second epoch, three after the save within it.
    process = start(cut, program=ends_itself("cnn.CnnLearner", 28, signal.SIGKILL))
    output, _ = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL, output
    saved = torch.load(cut / "last.pt", weights_only=True)["state"]
    assert (saved["epoch"], saved["step"]) == (1, 10)

    process = start(cut, "--resume")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert lines(cut) == lines(whole)
    one, two = load_checkpoint(whole), load_checkpoint(cut)
    assert one.weights.keys() == two.weights.keys()
    assert all(torch.equal(one.weights[name], two.weights[name]) for name in one.weights)
    assert {p.name for p in cut.iterdir()} == {"run.json", "metrics.jsonl", "curves.png", "best.pt", "last.pt"}
    assert "train cnn" in json.loads((cut / "run.json").read_text())["command"]


def test_an_interrupt_saves_and_says_how_to_continue(tmp_path: Path) -> None:
    process = start(tmp_path, "--epochs", "500")
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and not (tmp_path / "last.pt").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "--resume" in output
    assert "Traceback" not in output


def test_two_processes_train_one_model(tmp_path: Path) -> None:
    process = start(tmp_path / "two", "--devices", "2", "--json")
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    assert json.loads(output.splitlines()[-1])["test"]["n"] == 1000
    # Weights are saved without the wrappers, so that one process can read what two have made.
    assert not any(name.startswith("module.") for name in load_checkpoint(tmp_path / "two").weights)


def test_same_seed_same_weights_and_another_seed_other_weights(tmp_path: Path) -> None:
    weights = []
    for run, seed in (("a", 0), ("b", 0), ("c", 1)):
        one = learner()
        one.seed = seed
        fit(one, LoopConfig(out=tmp_path / run, device="cpu"))
        weights.append(load_checkpoint(tmp_path / run).weights["head.weight"])
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_best(tmp_path: Path) -> None:
    broken = learner(epochs=3)
    real_step, calls = broken.step, [0]

    def step(batch: object) -> dict[str, torch.Tensor]:
        calls[0] += 1
        metrics = real_step(batch)  # type: ignore[arg-type]
        return {**metrics, "loss": metrics["loss"] * float("nan")} if calls[0] > 20 else metrics

    broken.step = step  # type: ignore[method-assign,assignment]
    with pytest.raises(TrainingError, match="loss is nan in epoch 2"):
        fit(broken, LoopConfig(out=tmp_path, device="cpu"))
    assert load_checkpoint(tmp_path).metrics["epoch"] == 1


def test_nothing_is_overwritten_or_resumed_by_mistake(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="nothing to resume"):
        fit(learner(), LoopConfig(out=tmp_path / "none", resume=True, device="cpu"))
    fit(learner(), LoopConfig(out=tmp_path / "run", device="cpu"))
    with pytest.raises(TrainingError, match="already holds a run"):
        fit(learner(), LoopConfig(out=tmp_path / "run", device="cpu"))
    wider = CnnLearner(load_images("digits-5k", limit=300, validation=200), CnnOptions(epochs=1, batch=20), framing="ink", width=6)
    with pytest.raises(TrainingError, match="does not fit these options"):
        fit(wider, LoopConfig(out=tmp_path / "run", resume=True, device="cpu"))


def test_without_validation_the_last_epoch_is_kept(tmp_path: Path) -> None:
    splits = load_images("digits-5k", limit=300, validation=0)
    result = fit(CnnLearner(splits, CnnOptions(epochs=2, batch=20), framing="ink", width=4), LoopConfig(out=tmp_path, device="cpu"))
    assert result["epoch"] == 2
    assert load_checkpoint(tmp_path).metrics["test"]["n"] == 1000


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--precision", "fp8"], "error: unknown precision 'fp8'; expected 32-true, bf16-mixed or 16-mixed"),
        (["--device", "tpu"], "error: unknown device 'tpu'; expected auto, cpu or cuda"),
        (["--device", "cpu", "--precision", "16-mixed"], "error: 16-mixed is for CUDA, and this run is on the CPU"),
    ],
)
@pytest.mark.parametrize("family", ["cnn", "rnn", "ae", "gan"])
def test_devices_and_precisions_that_are_none_are_an_error_in_one_line(
    family: str, options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(["train", family, "--out", str(out), *options]) == 1
    assert capsys.readouterr().err.startswith(words)
    assert not out.exists()


def test_the_scale_of_half_precision_s_loss_continues_with_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut_off: Callable
) -> None:
    """On the CPU, with the scaler that a GPU would have; it grows every seventh step, so that one that starts again is seen."""

    def fabric(config: LoopConfig) -> Fabric:
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=7)
        return Fabric(accelerator="cpu", devices=1, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])

    monkeypatch.setattr(loop, "_fabric", fabric)
    fit(learner(epochs=2), LoopConfig(out=tmp_path / "whole"))

    cut_off(learner(epochs=2), LoopConfig(out=tmp_path / "cut"))
    fit(learner(epochs=2), LoopConfig(out=tmp_path / "cut", resume=True))
    one, two = (torch.load(tmp_path / run / "last.pt", weights_only=True) for run in ("whole", "cut"))
    assert one["precision"]["scale"] > 64
    assert one["precision"] == two["precision"]
    for name, weight in one["modules"]["network"].items():
        assert torch.equal(weight, two["modules"]["network"][name]), name


def test_a_line_that_a_kill_cut_in_half_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    whole = [json.dumps({"epoch": epoch, "train": {"loss": 1.0}, "validation": {}}) + "\n" for epoch in (1, 2)]
    path.write_text(whole[0] + whole[1] + '{"epoch": 3, "train": {"lo')
    loop._truncate_metrics(path, 1)
    assert path.read_text() == whole[0]
    assert list(tmp_path.iterdir()) == [path]


def test_curves_that_cannot_be_written_leave_nothing_behind(tmp_path: Path) -> None:
    epochs = [{"epoch": n, "train": {"loss": 1 / n}, "validation": {"loss": 2 / n}} for n in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(epoch) + "\n" for epoch in epochs))
    (tmp_path / "curves.png").mkdir()
    with pytest.raises(OSError):
        draw_curves(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "metrics.jsonl"]
