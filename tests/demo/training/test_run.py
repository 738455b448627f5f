"""A child that trains: to its end, stopped, and only one at a time."""

from __future__ import annotations

import time

import pytest

from onnxferry.demo.training import run as runs
from onnxferry.demo.training.frames import FILE, read_frames
from onnxferry.demo.training.run import Run, can_train
from onnxferry.runtime import load
from onnxferry.runtime.engine.replay import replay
from onnxferry.runtime.errors import InputError

pytestmark = pytest.mark.skipif(not can_train(), reason="needs PyTorch and ONNX, which train and export")


def test_a_short_run_ends_with_a_file_that_was_compared() -> None:
    run = Run(seconds=1)
    with pytest.raises(InputError, match="someone else trains"):
        Run()
    deadline = time.monotonic() + 540
    while run.is_running():
        assert time.monotonic() < deadline, (run.folder / "log").read_text()
        time.sleep(0.2)
    assert run.problem() == ""
    frames = read_frames(run.folder)
    assert frames is not None
    assert frames.state == "done"
    assert len(frames) >= 1
    assert frames.record["parity"]["passed"]
    with load(run.folder / FILE) as model:
        assert replay(model.engine).passed
    folder = run.folder
    del run
    assert not folder.exists()


def test_a_run_that_is_stopped_makes_room_for_another() -> None:
    first = Run()
    first.stop()
    assert not first.is_running()
    second = Run()  # not refused
    second.stop()
    assert not second.is_running()


def test_a_child_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "_MODULE", "onnxferry.no_such_module")
    run = Run()
    while run.is_running():
        time.sleep(0.1)
    assert "No module named" in run.problem()
