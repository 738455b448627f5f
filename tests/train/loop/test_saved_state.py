"""``--resume`` where something has changed what the run left: one clear error, or the run goes on."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from onnxferry.runtime.errors import CheckpointError, TrainingError
from onnxferry.train.data.images import load_images
from onnxferry.train.families.cnn import CnnLearner, CnnOptions
from onnxferry.train.loop.checkpoint import save_atomically
from onnxferry.train.loop.loop import LoopConfig, Observer, fit


def learner() -> CnnLearner:
    splits = load_images("digits-5k", limit=40, validation=20)
    return CnnLearner(splits, CnnOptions(epochs=2, batch=20), framing="ink", width=4)


class EndsAfterOne(Observer):
    def validated(self, record: Mapping[str, Any], best: bool, shown: str) -> None:
        raise InterruptedError


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs that was cut off after the first."""
    out = tmp_path_factory.mktemp("half") / "run"
    with pytest.raises(InterruptedError):
        fit(learner(), LoopConfig(out=out, device="cpu"), EndsAfterOne())
    return out


def changed(content: Any, path: tuple[Any, ...], value: object) -> None:
    for key in path[:-1]:
        content = content[key]
    if value is KeyError:
        del content[path[-1]]
    else:
        content[path[-1]] = value


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("state",), None),
        (("state", "epoch"), "one"),
        (("state", "epoch"), -1),
        (("state", "epoch"), 10**6),
        (("state", "step"), 2**40),
        (("state", "sums"), 3),
        (("state", "best"), []),
        (("state", "other"), 1),
        (("modules",), []),
        (("modules",), {}),
        (("optimizers",), None),
        (("schedulers",), {}),
        (("extra",), 7),
        (("generators",), None),
        (("generators",), torch.zeros(1, 3)),
        (("generators",), KeyError),
        (("cuda",), KeyError),
    ],
)
def test_a_last_checkpoint_that_is_not_this_runs(half: Path, tmp_path: Path, path: tuple[Any, ...], value: object) -> None:
    out = tmp_path / "run"
    shutil.copytree(half, out)
    content = torch.load(out / "last.pt", weights_only=True)
    changed(content, path, value)
    torch.save(content, out / "last.pt")
    with pytest.raises((TrainingError, CheckpointError)):
        fit(learner(), LoopConfig(out=out, device="cpu", resume=True))


def of_first(kind: str, change: Callable[[Any], None]) -> Callable[[dict[str, Any]], None]:
    return lambda content: change(next(iter(content[kind].values())))


@pytest.mark.parametrize(
    "change",
    [
        of_first("optimizers", lambda state: state["param_groups"][0].update(lr="fast")),
        of_first("optimizers", lambda state: state["param_groups"].clear()),
        of_first("optimizers", lambda state: state["state"][0].update(exp_avg=torch.zeros(3, 3))),
        of_first("schedulers", lambda state: state.update(base_lrs="x")),
        of_first("schedulers", lambda state: state.update(last_epoch=[1])),
        of_first("schedulers", lambda state: state.clear()),
    ],
)
def test_optimizers_and_schedulers_of_another_run(half: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    out = tmp_path / "run"
    shutil.copytree(half, out)
    content = torch.load(out / "last.pt", weights_only=True)
    change(content)
    torch.save(content, out / "last.pt")
    with pytest.raises(TrainingError, match=r"last.pt does not fit these options \(.+\): resume with the command in run.json"):
        fit(learner(), LoopConfig(out=out, device="cpu", resume=True))


@pytest.mark.parametrize(
    "text",
    [b"", b"\xff\xfe\x00", b"[]\n3\n", b'{"epoch": "x", "train": {}}\n', b'{"train": 3, "epoch": 1, "validation": null}\n', b"[" * 10**5],
)
def test_metrics_of_another_hand_are_left_out(half: Path, tmp_path: Path, text: bytes) -> None:
    out = tmp_path / "run"
    shutil.copytree(half, out)
    (out / "metrics.jsonl").write_bytes(text)
    fit(learner(), LoopConfig(out=out, device="cpu", resume=True))
    assert (out / "curves.png").stat().st_size > 0


@pytest.mark.parametrize("content", [b"", b"nothing", {"onnxferry": "checkpoint"}, {"weights": {}}])
def test_a_best_checkpoint_that_is_none(half: Path, tmp_path: Path, content: object, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    shutil.copytree(half, out)
    monkeypatch.setattr(CnnLearner, "better", lambda *_: False, raising=False)
    state = torch.load(out / "last.pt", weights_only=True)
    state["state"] |= {"best": 2.0, "epoch": 2}
    torch.save(state, out / "last.pt")
    if isinstance(content, bytes):
        (out / "best.pt").write_bytes(content)
    else:
        torch.save(content, out / "best.pt")
    with pytest.raises(CheckpointError):
        fit(learner(), LoopConfig(out=out, device="cpu", resume=True))


def test_a_full_disk_is_the_systems_own_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        save_atomically({"x": torch.zeros(3)}, tmp_path / "last.pt")
    assert caught.value.filename == str(tmp_path / "last.pt")
    assert not list(tmp_path.iterdir())
