"""Time limits of runs and loads, and Ctrl-C in the command line while ONNX Runtime is at work."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from onnxferry.runtime import interruption
from onnxferry.runtime.artifact.contract import Contract, Golden
from onnxferry.runtime.artifact.metadata import metadata_from_contract
from onnxferry.runtime.cli.main import main
from onnxferry.runtime.engine import ort
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.engine.replay import replay
from onnxferry.runtime.errors import BusyError, InputError, TimeLimitError
from onnxferry.runtime.sandbox.isolated import IsolatedEngine
from onnxferry.runtime.tasks.loading import load
from onnxferry.runtime.tuning.tune import tune
from onnxferry.runtime.tuning.tuned_engine import TunedEngine
from tests.runtime.counting import counting_model

FOREVER = np.array(2**60)
X = np.ones(1, np.float32)


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many rounds as are asked for; with a golden sample of 2^60."""

    model = counting_model()
    contract = Contract(kind="recogniser", name="loop", goldens=(Golden({"rounds": FOREVER, "x": X}, {"y": X}),))
    helper.set_model_props(model, metadata_from_contract(contract))
    path = tmp_path_factory.mktemp("interruption") / "loop.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def feeds(rounds: np.ndarray) -> dict[str, np.ndarray]:
    return {"rounds": rounds, "x": X}


@pytest.mark.parametrize("how", ["run", "run_into", "arun"])
def test_a_run_ends_at_its_time_limit_and_the_model_goes_on(loop: Path, how: str, capfd: pytest.CaptureFixture[str]) -> None:
    with Engine(loop, device="cpu") as engine:

        def run(rounds: np.ndarray, timeout: float | None) -> np.ndarray:
            if how == "run":
                return engine.run(feeds(rounds), timeout=timeout)["y"]
            if how == "arun":
                return asyncio.run(engine.arun(feeds(rounds), timeout=timeout))["y"]
            engine.run_into(feeds(rounds), {"y": out}, timeout=timeout)
            return out

        out = np.empty(1, np.float32)
        started = time.monotonic()
        with pytest.raises(TimeLimitError, match=r"loop.onnx was not run within 0.2 s; give it more time"):
            run(FOREVER, 0.2)
        assert time.monotonic() - started < 1.5
        for timeout in (None, 60):
            assert run(np.array(3), timeout) == 1
    assert capfd.readouterr() == ("", "")


def test_a_golden_sample_that_does_not_end(loop: Path) -> None:
    with Engine(loop, device="cpu") as engine, pytest.raises(TimeLimitError):
        replay(engine, 0.1)


def test_an_isolated_and_a_tuned_model_have_the_limit_too(loop: Path) -> None:
    with IsolatedEngine(loop, threads=1) as isolated, pytest.raises(TimeLimitError, match=r"within 0.2 s"):
        isolated.run(feeds(FOREVER), timeout=0.2)
    image = np.zeros((1, 28, 28, 1), np.uint8)
    with TunedEngine(tune("digits", [1], threads=1, seconds=0.1, remember=False)) as tuned:
        assert tuned.run({"image": image}, timeout=60)["class_index"].shape == (1,)
        with pytest.raises(InputError, match="timeout"):
            tuned.run({"image": image}, timeout=-1)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), True, "3"])
def test_what_is_no_time_limit(loop: Path, timeout: object) -> None:
    with Engine(loop, device="cpu") as engine, pytest.raises(InputError, match="a number of seconds > 0"):
        engine.run(feeds(np.array(1)), timeout=timeout)  # type: ignore[arg-type]


def test_a_load_ends_at_its_time_limit_and_others_go_on(loop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime folds constants as it opens a file, and nothing stops it within one of them."""
    never = threading.Event()
    monkeypatch.setenv("ORT_LOAD_CONFIG_FROM_MODEL", "1")
    with monkeypatch.context() as patch:
        patch.setattr(ort.onnxruntime(), "InferenceSession", lambda *_, **__: never.wait())
        started = time.monotonic()
        with pytest.raises(TimeLimitError, match=r"loop.onnx was not opened within 0.1 s"):
            Engine(loop, device="cpu", timeout=0.1)
        assert time.monotonic() - started < 3
    Engine(loop, device="cpu", timeout=60).close()
    never.set()
    while os.environ.get("ORT_LOAD_CONFIG_FROM_MODEL") != "1":
        time.sleep(0.01)  # back with the last load


def test_a_time_limit_error_is_a_timeout_error_and_pickles() -> None:
    error = pickle.loads(pickle.dumps(TimeLimitError("m.onnx was not run within 1 s")))  # noqa: S301
    assert isinstance(error, TimeoutError)
    assert str(error) == "m.onnx was not run within 1 s"


def test_with_tuning_there_is_another_limit(loop: Path) -> None:
    with pytest.raises(InputError, match="leave timeout out"):
        load("digits", tune=True, timeout=3)


STUCK = """
import hashlib, sys, threading
from onnxferry.runtime import interruption
from onnxferry.runtime.cli import main as cli
from onnxferry.runtime.files import written_whole
from pathlib import Path

class App:
    @staticmethod
    def app(arguments, **_):
        # One call that lasts minutes and hears nothing, in the midst of writing a file.
        with written_whole(Path(sys.argv[1])) as part:
            part.write_text("half")
            print("ready", flush=True)
            interruption.within(lambda: hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1), interruption.no_stop, None, "")

sys.modules["stuck"] = App
cli.VERBS = {"stuck": ("stuck:app", "")}
sys.exit(cli.main(["stuck", *sys.argv[2:]]))
"""


def _hear_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def interrupted(command: list[str], ready: str | None, pause: float = 0.0, number: int = signal.SIGINT) -> tuple[int, str, str, float]:
    """Exit code, stdout, stderr, and the seconds from the signal to the end."""
    # A background job of a shell, or of nohup, hands signals down that are ignored.
    heard = None if os.name == "nt" else _hear_signals
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heard)
    try:
        if ready is not None:
            assert child.stdout is not None
            assert child.stdout.readline() == ready
        time.sleep(pause)
        child.send_signal(number)
        started = time.monotonic()
        out, err = child.communicate(timeout=30)
    finally:
        child.kill()
    return child.returncode, out, err, time.monotonic() - started


@pytest.mark.skipif(os.name == "nt", reason="a console's Ctrl-C cannot be sent to one process")
def test_ctrl_c_stops_a_verb_that_is_running_a_model(loop: Path) -> None:
    code = f"""
import sys
from onnxferry.runtime.engine.engine import Engine
run = Engine.run
def announced(self, *arguments, **options):
    print("ready", flush=True)
    return run(self, *arguments, **options)
Engine.run = announced
from onnxferry.runtime.cli.main import main
sys.exit(main(["check", {str(loop)!r}, "--device", "cpu"]))
"""
    status, out, err, seconds = interrupted([sys.executable, "-c", code], "ready\n", 0.2)
    assert (status, out, err) == (130, "", "error: interrupted\n")
    assert seconds < 1.5


@pytest.mark.skipif(os.name == "nt", reason="a console's Ctrl-C cannot be sent to one process")
def test_ctrl_c_ends_what_hears_nothing_and_leaves_no_half_written_file(tmp_path: Path) -> None:
    command = [sys.executable, "-c", STUCK, str(tmp_path / "file.txt")]
    status, out, err, seconds = interrupted(command, "ready\n", 0.2)
    assert (status, out, err) == (130, "", "error: interrupted\n")
    assert seconds < 2
    assert not list(tmp_path.iterdir())
    status, out, err, _ = interrupted([*command, "--json"], "ready\n", 0.2)
    assert (status, err) == (130, "error: interrupted\n")
    assert json.loads(out) == {"error": {"type": "Interrupted", "message": "interrupted"}}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("number", ["SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("stuck", [True, False])
def test_other_ends_leave_no_half_written_file_either(tmp_path: Path, number: str, stuck: bool) -> None:
    program = STUCK if stuck else STUCK.replace('hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)', "__import__('time').sleep(60)")
    signal_number = getattr(signal, number)
    status, out, err, seconds = interrupted([sys.executable, "-c", program, str(tmp_path / "file.txt")], "ready\n", 0.2, signal_number)
    assert (status, out, err) == (128 + signal_number, "", "")
    assert seconds < 2
    assert not list(tmp_path.iterdir())


def test_who_handles_the_signal_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a training run does, which saves its state first."""
    stopped: list[bool] = []
    monkeypatch.setattr(interruption, "_stops", {object(): (lambda: stopped.append(True), True)})
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        interruption._watch(iter([bytes([signal.SIGINT]), b""]).__next__, lambda: stopped.append(False))
    finally:
        signal.signal(signal.SIGINT, before)
    assert not stopped


def count_descriptors() -> int:
    """Of this process; 0 where the system does not say."""
    place = Path("/proc/self/fd")
    return len(list(place.iterdir())) if place.is_dir() else 0


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under a limit on processes that is reached, which does not hold for root."""

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)


@pytest.mark.usefixtures("no_threads")
def test_where_no_thread_can_be_started(capsys: pytest.CaptureFixture[str]) -> None:
    """A time limit cannot be held, which is said; a command does its work, though Ctrl-C then waits for the operator that is running."""
    image = {"image": np.zeros((1, 28, 28, 1), np.uint8)}
    with load("digits", device="cpu", threads=1) as model:
        assert model.run(image)
        for call in (lambda: model.run(image, timeout=5), lambda: asyncio.run(model.engine.arun(image))):
            with pytest.raises(BusyError, match=r"cannot start its thread \(can't start new thread\); end other threads or"):
                call()
    with pytest.raises(BusyError, match="the time limit cannot start its thread"):
        load("digits", device="cpu", timeout=5)
    descriptors = count_descriptors()
    assert main(["check", "digits", "--device", "cpu"]) == 0
    assert "passed" in capsys.readouterr().out
    assert main(["check", "digits", "--device", "cpu", "--max-seconds", "5"]) == 1
    assert "error: the time limit cannot start its thread" in capsys.readouterr().err
    assert count_descriptors() == descriptors


def test_where_no_thread_can_be_started_for_a_confined_model(request: pytest.FixtureRequest) -> None:
    image = {"image": np.zeros((1, 28, 28, 1), np.uint8)}
    with load("digits", isolated=True) as model:
        request.getfixturevalue("no_threads")
        own = asyncio.new_event_loop()  # asyncio.run starts a thread itself, as it ends
        with pytest.raises(BusyError, match="the run cannot start its thread"):
            own.run_until_complete(model.engine.arun(image))
        own.close()
        assert model.run(image)


def test_other_threads_and_inner_calls_watch_nothing() -> None:
    with interruption.ctrl_c(interruption.no_stop):
        assert interruption.watched
        with interruption.ctrl_c(interruption.no_stop):
            pass
        assert interruption.watched
    assert not interruption.watched
    seen: list[bool] = []

    def elsewhere() -> None:
        with interruption.ctrl_c(interruption.no_stop):
            seen.append(interruption.watched)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [False]
