"""A stranger's file in a child process: what breaks there comes back as an error in words, and nothing of the caller breaks."""

from __future__ import annotations

import json
import math
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxferry.runtime.cli.main import main
from onnxferry.runtime.errors import ArtifactError, InputError, OnnxFerryError, UntrustedModelError
from onnxferry.runtime.onnx_file.summary import Limits
from onnxferry.runtime.sandbox import child as sandbox
from onnxferry.runtime.sandbox import jobs as untrusted
from onnxferry.runtime.sandbox.child import SandboxLimits, call
from onnxferry.runtime.sandbox.jobs import check_file, run_file
from onnxferry.runtime.sandbox.messages import send

needs_memory_limit = pytest.mark.skipif(not sandbox.memory_is_limited(), reason="only Linux limits a process's memory")


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """A sound file that never comes to an end: a loop of 2**62 turns."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["condition"], ["again"]), helper.make_node("Sin", ["x_in"], ["x_out"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("condition", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x_in", TensorProto.FLOAT, [1]),
        ],
        [helper.make_tensor_value_info("again", TensorProto.BOOL, []), helper.make_tensor_value_info("x_out", TensorProto.FLOAT, [1])],
    )
    return _written(
        tmp_path / "endless.onnx",
        [helper.make_node("Loop", ["turns", "", "x"], ["y"], body=body)],
        {"turns": np.array(2**62)},
    )


@pytest.fixture
def greedy(tmp_path: Path) -> Path:
    """A file of a few hundred bytes that asks for 256 GiB at its first run."""
    return _written(
        tmp_path / "greedy.onnx",
        [helper.make_node("Expand", ["x", "shape"], ["big"]), helper.make_node("ReduceSum", ["big"], ["y"], keepdims=0)],
        {"shape": np.array([2**18, 2**18])},
    )


def _written(path: Path, nodes, constants) -> Path:
    graph = helper.make_graph(
        nodes,
        "stranger",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString())
    return path


X = {"x": np.ones(1, np.float32)}


def test_a_sound_file_is_checked_and_run_as_here(recogniser: Path) -> None:
    checked = check_file(recogniser)
    assert (checked.kind, checked.name, checked.samples, checked.report.passed) == ("recogniser", "brightness", 2, True)
    assert checked.inputs == ("image: uint8 (batch, height, width, 1)",)
    image = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 1), dtype=np.uint8)
    outputs = run_file(recogniser, {"image": image})
    from onnxferry.runtime.engine.engine import Engine

    with Engine(recogniser, device="cpu", threads=1) as engine:
        expected = engine.run({"image": image})
    assert outputs.keys() == expected.keys()
    for name, array in expected.items():
        assert outputs[name].dtype == array.dtype
        np.testing.assert_array_equal(outputs[name], array)


@pytest.mark.parametrize("name", ["array/base64", "names", "value", "error", "__class__", "päron 🍐"])
def test_names_of_inputs_and_outputs_are_the_files_own(tmp_path: Path, name: str) -> None:
    """Whatever a stranger calls them, also by what travels between the processes."""
    ends = [helper.make_tensor_value_info(each, TensorProto.FLOAT, [2]) for each in (name, f"{name}/out", "array/base64/2")]
    nodes = [helper.make_node("Neg", [name], [f"{name}/out"]), helper.make_node("Abs", [name], ["array/base64/2"])]
    graph = helper.make_graph(nodes, "stranger", ends[:1], ends[1:])
    path = tmp_path / "names.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString())
    outputs = run_file(path, {name: np.array([1, -2], np.float32)})
    assert list(outputs) == [f"{name}/out", "array/base64/2"]
    np.testing.assert_array_equal(outputs[f"{name}/out"], np.array([-1, 2], np.float32))
    np.testing.assert_array_equal(outputs["array/base64/2"], np.array([1, 2], np.float32))


def test_an_output_named_as_arrays_travel(tmp_path: Path) -> None:
    """The one name that was refused while names were keys."""
    path = _written(tmp_path / "m.onnx", [helper.make_node("Neg", ["x"], ["y"])], {})
    model = onnx.load(path)
    model.graph.node[0].output[0] = model.graph.output[0].name = "array/base64"
    onnx.save(model, path)
    np.testing.assert_array_equal(run_file(path, X)["array/base64"], -X["x"])


def test_errors_of_ours_come_back_as_themselves(recogniser: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="input 'image' must be uint8, got float32"):
        run_file(recogniser, {"image": np.zeros((1, 2, 2, 1), np.float32)})
    with pytest.raises(ArtifactError, match="there is no file"):
        check_file(tmp_path / "absent.onnx")
    with pytest.raises(UntrustedModelError, match=r"nodes \d, allowed 1"):
        check_file(recogniser, file_limits=Limits(nodes=1))


def test_a_file_that_never_ends_is_ended(endless: Path) -> None:
    with pytest.raises(UntrustedModelError, match=r"endless\.onnx is refused: reading and running it took more than 5 s"):
        run_file(endless, X, SandboxLimits(seconds=5))


@needs_memory_limit
def test_a_file_that_takes_all_memory_is_refused(greedy: Path) -> None:
    with pytest.raises(OnnxFerryError) as caught:
        run_file(greedy, X, SandboxLimits(memory_bytes=2**30), Limits(made_elements=2**40))
    assert "emory" in str(caught.value) or "alloc" in str(caught.value)


def crash() -> None:
    os.kill(os.getpid(), 11)


def bug() -> None:
    raise KeyError("a fault of ours")


def flood(size: int) -> str:
    return "x" * size


def write(path: str, size: int) -> None:
    Path(path).write_bytes(b"x" * size)


def greed() -> None:
    raise MemoryError


def linger(fifo: str) -> None:
    """Starts a process of its own, which holds the pipe open as this one does, and never ends."""
    held = os.open(fifo, os.O_WRONLY)
    subprocess.Popen(["sleep", "600"], pass_fds=[held])
    os.write(held, b"!")
    time.sleep(600)


def nap(seconds: float) -> None:
    time.sleep(seconds)


def environment() -> dict[str, str]:
    return dict(os.environ)


def chatter() -> str:
    os.write(1, b"a library prints")
    sys.stdout.write("and so do we")
    return "answer"


def takes(array: np.ndarray) -> np.ndarray:
    return array


FUNCTIONS = (crash, bug, flood, write, greed, linger, nap, environment, chatter, takes)


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child imports this file under the name that its functions bear here."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    for function in FUNCTIONS:
        monkeypatch.setattr(function, "__module__", Path(__file__).stem)


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_a_crash_of_the_child_is_an_error_here(importable: None) -> None:
    with pytest.raises(UntrustedModelError, match=r"evil\.onnx is refused: the process that read it, .*, broke down \(signal SIGSEGV"):
        call(crash, {}, name="evil.onnx")


def test_a_bug_in_the_child_is_an_error_here_and_says_where_it_came_from(importable: None) -> None:
    with pytest.raises(UntrustedModelError, match=r"exit code 70: KeyError: 'a fault of ours'"):
        call(bug, {})


def test_an_answer_beyond_the_limit_is_refused(importable: None) -> None:
    assert call(flood, {"size": 1000}) == "x" * 1000
    with pytest.raises(
        UntrustedModelError, match=r"evil\.onnx is refused: what it gives takes 262\.\d kB, and at most 131\.1 kB are taken"
    ):
        call(flood, {"size": 2**18}, SandboxLimits(answer_bytes=2**17), name="evil.onnx")


@pytest.mark.skipif(os.name != "posix", reason="limits of files are POSIX's")
def test_a_file_that_is_written_beyond_the_limit_ends_the_child(importable: None, tmp_path: Path) -> None:
    with pytest.raises(UntrustedModelError, match="broke down"):
        call(write, {"path": str(tmp_path / "out"), "size": 2**17}, SandboxLimits(answer_bytes=2**16), confined=False)
    assert (tmp_path / "out").stat().st_size <= 2**16


def test_too_little_memory_is_told_of_the_file_by_its_name(importable: None) -> None:
    with pytest.raises(UntrustedModelError, match=r"evil\.onnx is refused: it takes more memory than it was given"):
        call(greed, {}, name="evil.onnx")


class LeftError(Exception):
    """Whoever looked on has gone."""


@pytest.mark.skipif(os.name != "posix", reason="named pipes and groups of processes are POSIX's")
def test_who_looks_on_ends_the_child_and_what_it_started(importable: None, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    seen: list[float] = []

    def tick(seconds: float) -> None:
        seen.append(seconds)
        if select.select([reader], [], [], 0)[0] and os.read(reader, 1) == b"!":
            raise LeftError

    with pytest.raises(LeftError):
        call(linger, {"fifo": str(fifo)}, confined=False, tick=tick)
    assert seen == sorted(seen)
    assert 0.09 < seen[0] <= seen[-1] < 60
    # The pipe is at its end when the last who could write into it is gone.
    assert select.select([reader], [], [], 30)[0] == [reader]
    assert os.read(reader, 1) == b""
    os.close(reader)


@pytest.mark.parametrize("pause", [0.0, 0.3])
def test_time_is_limited_under_the_eyes_of_somebody(importable: None, pause: float) -> None:
    seen: list[float] = []

    def tick(seconds: float) -> None:
        seen.append(seconds)
        time.sleep(pause)

    with pytest.raises(UntrustedModelError, match=r"the file is refused: reading and running it took more than 1 s"):
        call(nap, {"seconds": 60}, SandboxLimits(seconds=1), tick=tick)
    assert 1 <= len(seen) <= 10
    assert seen[0] >= 0.09
    assert call(nap, {"seconds": 0}, tick=seen.append) is None


@pytest.mark.skipif(os.name != "posix", reason="timers of a process are POSIX's")
def test_a_child_whose_caller_is_gone_ends_by_itself(importable: None) -> None:
    limits = {"memory_bytes": 2**32, "seconds": 0.5, "cpu_seconds": 60, "file_bytes": 2**20, "confined": True, "model": None}
    request = {"function": f"{nap.__module__}:nap", "arguments": {"seconds": 60}, "name": "", **limits}
    with tempfile.TemporaryFile() as question:
        send(question.fileno(), request)
        os.lseek(question.fileno(), 0, os.SEEK_SET)
        done = subprocess.run([sys.executable, "-P", "-m", sandbox.__name__], stdin=question, timeout=50)
    assert done.returncode == -signal.SIGALRM


def test_the_child_gets_no_secrets_and_what_it_prints_is_no_answer(importable: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hush")
    monkeypatch.setenv("API_TOKEN", "secret")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    found = call(environment, {})
    assert "PATH" in found
    assert "SECRET_TOKEN" not in found
    assert "API_TOKEN" not in found
    assert found["OMP_NUM_THREADS"] == "3"
    assert call(chatter, {}) == "answer"


@pytest.mark.parametrize(
    "array",
    [np.arange(6, dtype=np.int64).reshape(2, 3), np.array(1.5, np.float16), np.zeros((0, 3), bool), np.array([np.nan, -np.inf])],
)
def test_arrays_travel_unchanged(importable: None, array: np.ndarray) -> None:
    back = call(takes, {"array": array})
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(back, array)
    assert back.flags.writeable


def test_numbers_that_are_not_finite_travel_unchanged(importable: None) -> None:
    """Not JSON's, and meant: a golden sample's largest difference may be NaN, and whoever shows it says how."""
    back = call(takes, {"array": {"found": [float("nan"), float("inf"), -float("inf"), 1.5]}})
    np.testing.assert_array_equal(back["found"], [np.nan, np.inf, -np.inf, 1.5])


def message(head: bytes, rest: bytes = b"") -> bytes:
    return len(head).to_bytes(8, "little") + head + rest


def answered(data: bytes) -> object:
    """What the caller makes of a child that wrote these bytes and ended well."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        return sandbox.answer_of("the file", file.fileno(), SandboxLimits())


ONE = b'{"value": {"value": {"array": 0}}, "arrays": [["float32", [%s]]]}'


def test_an_answer_with_an_array() -> None:
    np.testing.assert_array_equal(answered(message(ONE % b"2", np.array([1, 2], "<f4").tobytes())), np.array([1, 2], np.float32))


@pytest.mark.parametrize(
    "answer",
    [
        message(b"{"),
        message(b"[1]"),
        message(b'{"value": 1}'),
        message(b'{"value": {"value": 1, "error": 2}, "arrays": []}'),
        message(b'{"value": {"value": 1}, "arrays": [["object", [1]]]}', b"\0" * 8),
        message(b'{"value": {"value": 1}, "arrays": [["(1,", [1]]]}'),
        message(b'{"value": {"value": 1}, "arrays": [["float32", [-1]]]}'),
        message(b'{"value": {"value": 1}, "arrays": [["float32", [1e3]]]}'),
        message(b'{"value": {"value": 1}, "arrays": [["float32", [1099511627775, 1099511627775]]]}'),
        message(b'{"value": {"value": {"array": 1}}, "arrays": []}'),
        message(b"[" * 100_000),
        (2**63).to_bytes(8, "little"),
        message(b" " * (2**20 + 1)),
        message(ONE % b"1073741824"),
        message(ONE % b"2", b"\0" * 9),
        message(b'{"value": {"value": 1}, "arrays": []}') * 2,
    ],
)
def test_an_answer_of_somebody_else_is_refused(answer: bytes) -> None:
    """Whoever took the child over writes the answer: it is parsed, and never trusted."""
    with pytest.raises(UntrustedModelError, match="no answer that can be understood"):
        answered(answer)


@pytest.mark.parametrize("answer", [b"", b"123", message(ONE % b"2", b"1234"), (100).to_bytes(8, "little") + b"{"])
def test_an_answer_that_ends_too_early_is_refused(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(module: str, stdin: object, stdout: IO[bytes], stderr: object) -> subprocess.Popen[bytes]:
        stdout.write(answer)
        stdout.flush()
        return subprocess.Popen([sys.executable, "-c", ""], start_new_session=os.name == "posix")

    monkeypatch.setattr(sandbox, "start", start)
    with pytest.raises(UntrustedModelError, match="no answer that can be understood"):
        call(nap, {"seconds": 0})


def test_errors_in_an_answer_are_of_our_classes_only() -> None:
    for name in ("SystemExit", "annotations", "MissingExtraError", 3, "OnnxFerryError"):
        with pytest.raises(OnnxFerryError, match="words") as caught:
            answered(message(json.dumps({"value": {"error": name, "message": "words"}, "arrays": []}).encode()))
        assert type(caught.value) is OnnxFerryError


FOUND = {"kind": "model", "name": "m", "samples": 0, "comparisons": [], "inputs": [], "outputs": []}


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        {"kind": 1},
        {"kind": "model", "name": "", "samples": "many", "comparisons": []},
        {**FOUND, "samples": math.inf},
        np.zeros(3),
        {**FOUND, "comparisons": [np.zeros(3)]},
    ],
)
def test_findings_of_somebody_else_are_refused(answer: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(untrusted.sandbox, "call", lambda *_, **__: answer)
    with pytest.raises(UntrustedModelError, match="no answer that can be understood"):
        check_file("some.onnx")
    with pytest.raises(UntrustedModelError, match="no answer that can be understood"):
        run_file("some.onnx", {})


@pytest.mark.parametrize(
    "limits", [{"seconds": 0}, {"seconds": float("nan")}, {"seconds": 1e9}, {"memory_bytes": 2**20}, {"answer_bytes": 10}]
)
def test_limits_that_make_no_sense(limits: dict[str, float]) -> None:
    with pytest.raises(InputError, match="limit must be"):
        SandboxLimits(**limits)  # type: ignore[arg-type]


def test_a_module_beside_the_caller_is_not_imported(recogniser: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('taken over')")
    monkeypatch.chdir(tmp_path)
    assert check_file(recogniser.name).report.passed


# The command


def test_check_untrusted_says_what_check_says(recogniser: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(recogniser), "--untrusted", "--json"]) == 0
    there = json.loads(capsys.readouterr().out)
    assert main(["check", str(recogniser), "--device", "cpu", "--threads", "1", "--json"]) == 0
    assert there == json.loads(capsys.readouterr().out)


def test_check_untrusted_fails_where_check_fails(make_recogniser, doubler: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(make_recogniser(sharpness=float("nan"))), "--untrusted"]) == 1
    assert "does not give what it should on this machine" in capsys.readouterr().err
    assert main(["check", str(doubler), "--untrusted", "--allow-none"]) == 0


def test_check_untrusted_opens_nothing_in_this_process(recogniser: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("opened here")

    monkeypatch.setattr("onnxferry.runtime.cli.check.Engine", never)
    monkeypatch.setattr("onnxferry.runtime.onnx_file.reader.read_model", never)
    assert main(["check", str(recogniser), "--untrusted"]) == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--max-seconds", "3", "--against", "a:b"], "--max-seconds does not go with --against"),
        (["--max-seconds", "0"], "timeout must be a number of seconds > 0"),
        (["--max-memory", "3"], "--max-memory goes with --untrusted"),
        (["--untrusted", "--max-memory", "0.1"], "at least"),
        (["--untrusted", "--max-memory", "nan"], "a number of GiB"),
        (["--untrusted", "--device", "cuda"], "on the CPU"),
        (["--weights", "w.pt"], "--weights goes with --against"),
        (["--untrusted", "--against", "a:b"], "does not go with --untrusted"),
        (["--limit", "wings=2"], "a limit is NAME=NUMBER with one of"),
        (["--limit", "depth=-1"], "the limit depth is a whole number"),
    ],
)
def test_options_that_make_no_sense(recogniser: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str) -> None:
    assert main(["check", str(recogniser), *options]) == 1
    assert words in capsys.readouterr().err


def test_limits_of_a_file_can_be_raised(recogniser: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(recogniser), "--limit", "nodes=6"]) == 1
    error = capsys.readouterr().err
    assert "nodes 7, allowed 6" in error
    assert "--limit nodes=7" in error
    for verb in (["check"], ["check", "--untrusted"], ["inspect"]):
        assert main([*verb, str(recogniser), "--limit", "nodes=7"]) == 0

    from onnxferry.runtime import load

    with pytest.raises(UntrustedModelError):
        load(recogniser, limits=Limits(nodes=6))
    load(recogniser, limits=Limits(nodes=7))
