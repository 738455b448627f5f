"""A file of 50 MB whose weights lie outside: engines and processes hold them once, and what they hold is shown by the system."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from onnxferry.runtime import Engine, share_weights
from onnxferry.runtime.engine import open as opening
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.machine.memory import resident_memory
from tests.runtime.conftest import LARGE, WIDTH, write_large

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what processes share")

X = {"x": np.linspace(-1, 1, WIDTH, dtype=np.float32)[None]}


@pytest.fixture(autouse=True)
def no_copies() -> Iterator[None]:
    yield
    opening.copies.clear()


def own() -> tuple[int, int]:
    """Bytes of this process's alone, and its part of all that it holds."""
    held = resident_memory()
    assert held is not None
    return held.uss, held.pss


@linux
def test_engines_of_one_file_hold_its_weights_once(large: Path) -> None:
    with Engine(large, device="cpu", threads=1) as first:
        wanted = first.run(X)["y"]
        before = own()[0]
        others = [Engine(large, device="cpu", threads=1) for _ in range(3)]
        assert own()[0] - before < 0.1 * LARGE
        for other in others:
            np.testing.assert_array_equal(other.run(X)["y"], wanted)
    np.testing.assert_array_equal(others[0].run(X)["y"], wanted)  # the first one is closed
    with pytest.raises(InputError, match="is closed"):
        first.run(X)
    for other in others:
        other.close()
    assert own()[0] < before - 0.8 * LARGE  # the last one took the weights along


def test_engines_that_are_opened_at_once_share_too(large: Path) -> None:
    engines: list[Engine] = []
    threads = [threading.Thread(target=lambda: engines.append(Engine(large, device="cpu", threads=1))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(engine._session) for engine in engines}) == 1
    with Engine(large, device="cpu", threads=1, graph_level="basic") as other:  # another session
        assert other._session is not engines[0]._session
    for engine in engines:
        engine.close()


def test_a_file_that_changed_is_opened_anew(tmp_path: Path) -> None:
    path = write_large(tmp_path / "m.onnx")
    with Engine(path, device="cpu") as first:
        write_large(path, seed=1)
        with Engine(path, device="cpu") as second:
            assert not np.array_equal(first.run(X)["y"], second.run(X)["y"])


def test_a_small_file_has_a_session_for_each_engine(scale_model: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(scale_model)
    with Engine(path, device="cpu") as first, Engine(path, device="cpu") as second:
        assert first._session is not second._session


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
def test_a_forked_process_opens_its_own(large: Path) -> None:
    script = f"""
        import os, sys, numpy as np
        from onnxferry.runtime import Engine
        engine = Engine({str(large)!r}, device="cpu", threads=2)
        child = os.fork()
        if child == 0:
            own = Engine({str(large)!r}, device="cpu", threads=2)
            shape = own.run({{"x": np.ones((1, {WIDTH}), np.float32)}})["y"].shape
            os._exit(0 if own._session is not engine._session and shape == (1, {WIDTH}) else 1)
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(script)], timeout=120).returncode == 0


@linux
def test_sessions_of_shared_weights_hold_them_once(large: Path, tmp_path: Path) -> None:
    with Engine(large, device="cpu", threads=1) as plain:
        wanted = plain.run(X)["y"]
    copy = share_weights(large, tmp_path)
    assert copy.is_file()
    assert share_weights(large, tmp_path) == copy
    before = own()[1]
    with Engine(large, device="cpu", threads=1) as one:
        np.testing.assert_array_equal(one.run(X)["y"], wanted)
        assert own()[1] - before < 1.5 * LARGE
        with Engine(large, device="cpu", threads=2) as two:  # a session of its own
            np.testing.assert_array_equal(two.run(X)["y"], wanted)
            assert own()[1] - before < 1.5 * LARGE


@linux
def test_processes_of_shared_weights_hold_them_once(large: Path, tmp_path: Path) -> None:
    script = f"""
        import numpy as np
        from onnxferry.runtime import Engine, share_weights
        share_weights({str(large)!r}, {str(tmp_path)!r})
        engine = Engine({str(large)!r}, device="cpu", threads=1)
        print(engine.run({{"x": np.ones((1, {WIDTH}), np.float32)}})["y"].sum(), flush=True)
        input()
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    processes = []
    try:
        for _ in range(3):  # one after another: the first writes the file
            processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            assert processes[-1].stdout is not None
            assert processes[-1].stdout.readline()
        held = [resident_memory(process.pid) for process in processes]
        for each in held:
            assert each is not None
            assert each.rss > 1.2 * LARGE
            assert each.uss < 1.2 * LARGE  # Python and ONNX Runtime themselves hold more than half as much
    finally:
        for process in processes:
            process.communicate("\n", timeout=60)


def test_weights_are_shared_in_folders_of_this_user_alone(large: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such folder"):
        share_weights(large, tmp_path / "nowhere")
    copy = share_weights(large, tmp_path)
    copy.chmod(0o666)
    with pytest.raises(InputError, match="may be changed by other users"):
        share_weights(large, tmp_path)
