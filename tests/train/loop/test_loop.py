"""The loop: what a run leaves behind, that a killed run continues bit for bit, and that it stops in time."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision

from onnxferry.runtime.cli.main import main
from onnxferry.runtime.errors import InputError, OnnxFerryError, TrainingError
from onnxferry.train.data.images import load_images
from onnxferry.train.families.cnn import CnnLearner, CnnOptions
from onnxferry.train.loop import loop
from onnxferry.train.loop.checkpoint import load_checkpoint, save_atomically
from onnxferry.train.loop.folder import one_run_at_a_time
from onnxferry.train.loop.loop import LoopConfig, draw_curves, fit, still_improving

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
    assert process.returncode == 130
    assert "continue with: " in output
    assert " train cnn --limit 300 " in output
    assert "--epochs 500 --resume" in output
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
    with pytest.raises(
        TrainingError, match=r"was begun with other options \(config.width was 4, is 6\): resume it with the command in run.json"
    ):
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


def test_a_run_is_resumed_with_the_data_that_it_was_begun_with(tmp_path: Path, cut_off: Callable) -> None:
    def with_data(limit: int, seed: int = 0) -> CnnLearner:
        splits = load_images("digits-5k", limit=limit, validation=200)
        return CnnLearner(splits, CnnOptions(epochs=2, batch=20), framing="ink", width=4, seed=seed)

    cut_off(with_data(300), LoopConfig(out=tmp_path, device="cpu"))
    resume = LoopConfig(out=tmp_path, resume=True, device="cpu")
    with pytest.raises(TrainingError, match=r"parts.train was 300, is 280"):
        fit(with_data(280), resume)
    with pytest.raises(TrainingError, match=r"seed was 0, is 1"):
        fit(with_data(300, seed=1), resume)
    other = with_data(300)
    other.data = dataclasses.replace(other.data, sha256="0" * 64)
    with pytest.raises(TrainingError, match=r"the data are not those .*data.sha256 was .{12}…, is 0{12}…"):
        fit(other, resume)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(TrainingError, match=r"run\.json cannot be read"):
        fit(with_data(300), resume)


def test_more_epochs_continue_a_finished_run(tmp_path: Path) -> None:
    fit(learner(epochs=1), LoopConfig(out=tmp_path, device="cpu"))
    assert fit(learner(epochs=2), LoopConfig(out=tmp_path, resume=True, device="cpu"))["epoch"] in (1, 2)
    assert [line["epoch"] for line in lines(tmp_path) if "train" in line] == [1, 2]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("last.pt", b"no checkpoint"),
        ("best.pt", b"no checkpoint"),
        ("best.pt", None),
        ("run.json", b"[]"),
        ("metrics.jsonl", b"\xff\xfe not json\n"),
        ("metrics.jsonl", None),
    ],
)
def test_a_folder_that_was_changed_gives_our_errors_only(tmp_path: Path, name: str, content: bytes | None) -> None:
    fit(learner(), LoopConfig(out=tmp_path, device="cpu"))
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with suppress(OnnxFerryError):
        fit(learner(), LoopConfig(out=tmp_path, resume=True, device="cpu"))


def test_a_saved_state_of_odd_types_is_an_error(tmp_path: Path) -> None:
    fit(learner(), LoopConfig(out=tmp_path, device="cpu"))
    saved = torch.load(tmp_path / "last.pt", weights_only=True)
    for part, value in (("modules", []), ("generators", None), ("state", {"epoch": "one"}), ("extra", 3), ("optimizers", {"adamw": 1})):
        torch.save({**saved, part: value}, tmp_path / "last.pt")
        with suppress(OnnxFerryError):
            fit(learner(), LoopConfig(out=tmp_path, resume=True, device="cpu"))


def test_one_run_a_folder_at_a_time(tmp_path: Path) -> None:
    with one_run_at_a_time(tmp_path), pytest.raises(TrainingError, match=r"another training is running in .*: wait for its end, or name"):
        fit(learner(), LoopConfig(out=tmp_path, device="cpu"))
    assert list(tmp_path.iterdir()) == []


def test_what_a_kill_left_half_written_is_removed(tmp_path: Path) -> None:
    for name in (".best.0123abcd.tmp.pt", ".last.0123abcd.tmp.pt", ".run.0123abcd.tmp.json", ".mine.0123abcd.tmp.txt"):
        (tmp_path / name).write_text("half")
    with one_run_at_a_time(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} == {".mine.0123abcd.tmp.txt", ".run.json.lock"}


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit on a file's size stands for it: the system then refuses to write, as it does on a full disk."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError) as caught:
            save_atomically({"weights": torch.zeros(10_000)}, tmp_path / "best.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert caught.value.filename == str(tmp_path / "best.pt")
    assert list(tmp_path.iterdir()) == []


def test_training_ends_when_patience_does(tmp_path: Path) -> None:
    patient = learner(epochs=30)
    scores = iter([0.5, 0.6, 0.6, 0.6, 0.6])
    patient.validate = lambda: {"accuracy": next(scores), "loss": 1.0, "n": 1}  # type: ignore[method-assign]
    assert fit(patient, LoopConfig(out=tmp_path, device="cpu", patience=2))["epoch"] == 2
    assert len([line for line in lines(tmp_path) if "train" in line]) == 4
    without = CnnLearner(load_images("digits-5k", limit=300, validation=0), CnnOptions(), framing="ink", width=4)
    with pytest.raises(InputError, match="--patience needs a validation part"):
        fit(without, LoopConfig(out=tmp_path / "without", device="cpu", patience=2))


def test_of_equal_accuracies_the_lower_loss_is_kept(tmp_path: Path) -> None:
    one = learner(epochs=4)
    scores = iter([(0.5, 1.0), (0.6, 0.9), (0.6, 0.7), (0.6, 0.8)])
    one.validate = lambda: dict(zip(("accuracy", "loss"), next(scores), strict=True))  # type: ignore[method-assign]
    assert fit(one, LoopConfig(out=tmp_path, device="cpu"))["epoch"] == 3


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ([0.2, 0.4, 0.6], True),
        ([0.6, 0.4, 0.2], False),
        ([0.9, 1.0, 1.0], False),
        ([0.9, 0.95, 0.9501], False),  # by too little to be worth it
        ([0.4], True),
    ],
)
def test_a_run_that_ends_while_it_still_improves_says_so(scores: list[float], said: bool) -> None:
    one = learner(epochs=len(scores))
    warnings = still_improving(one, [{"validation": {"accuracy": score}} for score in scores])
    assert warnings == ([f"the last epoch was the best, so training longer would give more: --epochs {2 * len(scores)}"] if said else [])


def test_a_validation_that_is_no_number_stops_and_says_the_cure(tmp_path: Path) -> None:
    """Of such outputs the accuracy is a number, so the criterion alone would go on."""
    learner = CnnLearner(load_images("digits-5k", limit=40, validation=40), CnnOptions(epochs=3, batch=20), framing="ink", width=4)
    learner.validate = lambda: {"loss": float("nan"), "accuracy": 0.5}  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match=r"the validation's loss is nan after epoch 1: .* try a lower --learning-rate"):
        fit(learner, LoopConfig(out=tmp_path, device="cpu"))
    assert not (tmp_path / "best.pt").exists()
