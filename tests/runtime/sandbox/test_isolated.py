"""A model in a confined child process answers as one that is opened here, and takes nothing with it when it breaks."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from onnxferry.runtime import Batcher, Classifier, check_file, load
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.engine.replay import replay
from onnxferry.runtime.engine.runner import Runner
from onnxferry.runtime.errors import ArtifactError, BusyError, InputError, UntrustedModelError
from onnxferry.runtime.sandbox import child
from onnxferry.runtime.sandbox.child import SandboxLimits
from onnxferry.runtime.sandbox.isolated import IsolatedEngine


def value(name: str, dtype: int, shape: list[int | str]) -> object:
    return helper.make_tensor_value_info(name, dtype, shape)


def save(path: Path, graph: object) -> Path:
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString())
    return path


@pytest.fixture(scope="module")
def doubler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    x, y = (value(name, TensorProto.FLOAT, ["batch", 3]) for name in ("x", "y"))
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "g", [x], [y])
    return save(tmp_path_factory.mktemp("isolated") / "doubler.onnx", graph)


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """A loop of 2^60 rounds."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["v", "v"], ["w"])],
        "body",
        [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("v", TensorProto.FLOAT, [1])],
        [value("on", TensorProto.BOOL, []), value("w", TensorProto.FLOAT, [1])],
    )
    loop = helper.make_node("Loop", ["rounds", "", "x"], ["y"], body=body)
    rounds = helper.make_tensor("rounds", TensorProto.INT64, [], [2**60])
    x, y = (value(name, TensorProto.FLOAT, [1]) for name in ("x", "y"))
    return save(tmp_path / "endless.onnx", helper.make_graph([loop], "g", [x], [y], [rounds]))


def test_it_answers_as_an_engine_here(doubler: Path) -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    with IsolatedEngine(doubler, threads=1) as isolated, Engine(doubler, device="cpu") as here:
        assert isinstance(isolated, Runner)
        assert (isolated.inputs, isolated.outputs, isolated.contract) == (here.inputs, here.outputs, here.contract)
        np.testing.assert_array_equal(isolated.run({"x": x})["y"], 2 * x)
        np.testing.assert_array_equal(asyncio.run(isolated.arun({"x": x}, ["y"]))["y"], 2 * x)
        for wrong in ({"x": x.astype(np.float64)}, {"z": x}, {"x": x[:, :2]}):
            with pytest.raises(InputError) as from_child:
                isolated.run(wrong)
            with pytest.raises(InputError) as from_here:
                here.run(wrong)
            assert str(from_child.value) == str(from_here.value)
        with pytest.raises(InputError, match="only arrays of numbers"):
            isolated.run({"x": np.array([["a"] * 3])})
        large = np.ones((200_000, 3), np.float32)  # more than a pipe holds at once
        np.testing.assert_array_equal(isolated.run({"x": large})["y"], 2 * large)
    with pytest.raises(InputError, match="is closed: load it again"):
        isolated.run({"x": x})
    isolated.close()


def test_runs_of_one_shape_and_of_others_in_turns(doubler: Path) -> None:
    """What describes the arrays of a run is kept for the next; the arrays are those of each run, and the caller's own."""
    with IsolatedEngine(doubler, threads=1) as engine:
        made = [np.random.default_rng(i).standard_normal((rows, 3), dtype=np.float32) for i, rows in enumerate([1, 2, 1, 0, 9_000, 2, 1])]
        answers = [engine.run({"x": x})["y"] for x in made]
        for x, y in zip(made, answers, strict=True):
            np.testing.assert_array_equal(y, x + x)
            y += 1
        odd = np.asfortranarray(made[1].astype(">f4"))
        np.testing.assert_array_equal(engine.run({"x": odd}, ["y"])["y"], made[1] * 2)
        with pytest.raises(InputError, match="must be float32, got float64"):
            engine.run({"x": made[0].astype(np.float64)})
        with pytest.raises(InputError, match="only arrays of numbers can be sent"):
            engine.run({"x": np.array([["a"]])})
        np.testing.assert_array_equal(engine.run({"x": made[0]})["y"], made[0] * 2)


def test_tasks_batcher_and_golden_samples_work_on_it(recogniser: Path) -> None:
    images = [np.full((4, 4), level, np.uint8) for level in (0, 255)]
    with load(recogniser, isolated=True) as isolated, load(recogniser, device="cpu") as here:
        assert isinstance(isolated, Classifier)
        assert isinstance(here, Classifier)
        assert [p.label for p in isolated.predict(images)] == [p.label for p in here.predict(images)]
        assert replay(isolated.engine).passed
        with Batcher(isolated, max_batch_size=4) as batcher:
            assert batcher.run(images[1]).label == here.predict([images[1]])[0].label


def test_threads_get_their_own_answers(doubler: Path) -> None:
    wrong: list[int] = []
    with IsolatedEngine(doubler, threads=1) as engine:

        def work(number: int) -> None:
            for size in range(1, 20):
                x = np.full((size, 3), number, np.float32)
                if not np.array_equal(engine.run({"x": x})["y"], 2 * x):
                    wrong.append(number)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_a_run_that_does_not_end_is_ended(endless: Path) -> None:
    engine = IsolatedEngine(endless, threads=1, limits=SandboxLimits(seconds=10))
    with pytest.raises(UntrustedModelError, match="took more than 10 s"):
        engine.run({"x": np.ones(1, np.float32)})
    with pytest.raises(InputError, match="was ended because a run took too long: load it again"):
        engine.run({"x": np.ones(1, np.float32)})


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_a_child_that_dies_is_an_error_here(doubler: Path) -> None:
    engine = IsolatedEngine(doubler, threads=1)
    os.kill(engine._process.pid, signal.SIGSEGV)
    with pytest.raises(UntrustedModelError, match=r"broke down \(signal SIGSEGV"):
        engine.run({"x": np.ones((1, 3), np.float32)})
    with pytest.raises(InputError, match="broke down: load it again"):
        engine.run({"x": np.ones((1, 3), np.float32)})


def test_an_answer_beyond_the_limit_is_refused_and_the_child_goes_on(doubler: Path) -> None:
    with IsolatedEngine(doubler, threads=1, limits=SandboxLimits(answer_bytes=2**16)) as engine:
        with pytest.raises(UntrustedModelError, match="give it smaller inputs"):
            engine.run({"x": np.ones((10_000, 3), np.float32)})
        assert engine.run({"x": np.ones((1, 3), np.float32)})["y"].sum() == 6


def test_a_file_that_is_refused_is_refused_here(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(ArtifactError, match=r"broken\.onnx"):
        load(broken, isolated=True)


@pytest.mark.parametrize("options", [{"tune": True}, {"variant": "int8"}, {"device": "cuda"}, {"providers": ["CPUExecutionProvider"]}])
def test_options_that_do_not_go_with_it(doubler: Path, options: dict[str, object]) -> None:
    with pytest.raises(InputError, match="isolated=True runs the file as it is"):
        load(doubler, isolated=True, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("isolated", [3, {"seconds": 3}, "yes"])
def test_what_are_no_limits(doubler: Path, isolated: Any) -> None:
    with pytest.raises(InputError, match=r"isolated must be True, False or SandboxLimits\(\.\.\.\)"):
        load(doubler, isolated=isolated)


def test_a_system_without_a_folder_for_temporary_files_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(child.tempfile, "TemporaryFile", none)
    with pytest.raises(InputError, match="set TMPDIR"):
        load("digits", isolated=True)


@pytest.mark.parametrize("how", [lambda path: load(path, isolated=True), check_file])
def test_a_child_that_cannot_be_started_is_an_error_of_ours(doubler: Path, monkeypatch: pytest.MonkeyPatch, how: Any) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    words = r"child process cannot be started \(Resource temporarily unavailable\); end other processes or raise the limit on them"
    with pytest.raises(BusyError, match=words):
        how(doubler)


def test_one_that_nobody_closes_leaves_nothing_open() -> None:
    code = """
import numpy as np
from onnxferry.runtime import load
model = load("digits", isolated=True)
print(model.predict_one(np.zeros((28, 28), np.uint8)).index >= 0)
"""
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "True\n", "")
