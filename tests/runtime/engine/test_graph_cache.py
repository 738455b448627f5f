"""Rewritten graphs kept on the machine: found again, made again where they are damaged, and never in the way."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxferry.runtime.engine import graph_cache, ort
from onnxferry.runtime.engine import open as opening
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.engine.graph_cache import GraphCache, can_hold, pays
from onnxferry.runtime.errors import ArtifactError, InputError
from onnxferry.runtime.machine import cpu
from onnxferry.runtime.onnx_file.reader import read_model

FLOAT = TensorProto.FLOAT
ZOO = Path(graph_cache.__file__).parents[1] / "zoo"


@pytest.fixture
def model(build_onnx, tmp_path) -> Path:
    """A convolution with batch norm, whose rewritten graph differs from the file (and holds NCHWc layouts at "all")."""
    rng = np.random.default_rng(0)
    values = {"w": rng.standard_normal((16, 16, 3, 3)), **{name: np.ones(16) for name in ("scale", "bias", "mean", "var")}}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "scale", "bias", "mean", "var"], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("Mul", ["r", "factor"], ["y"]),
    ]
    initializers = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in values.items()]
    initializers.append(helper.make_tensor("factor", FLOAT, [], [2.0]))
    data = build_onnx(
        nodes,
        [("x", FLOAT, ["n", 16, "h", "w_"]), ("factor", FLOAT, [])],
        [("y", FLOAT, ["n", 16, "h", "w_"])],
        initializers,
        metadata={"task": "test"},
    )
    path = tmp_path / "model.onnx"
    path.write_bytes(data.SerializeToString())
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "cache"


def x() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((2, 16, 7, 9)).astype(np.float32)


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_second_engine_finds_what_the_first_kept(model, folder):
    first, second = (Engine(model, device="cpu", cache=folder) for _ in range(2))
    assert (first.cached, second.cached) == (False, True)
    assert len(entries(folder)) == 1
    plain = Engine(model, device="cpu", cache=False)
    for name in ("inputs", "optional_inputs", "outputs", "metadata", "contract", "providers", "path", "graph_level"):
        assert getattr(second, name) == getattr(plain, name)
    for feeds in ({"x": x()}, {"x": x(), "factor": np.array(5, np.float32)}):
        np.testing.assert_array_equal(second.run(feeds)["y"], plain.run(feeds)["y"])
    assert Engine(model.read_bytes(), device="cpu", cache=folder).cached  # what counts is what the file holds
    assert folder.stat().st_mode & 0o777 == 0o700


def test_what_the_key_depends_on(model, folder, monkeypatch):
    def opened(**options) -> bool:
        return Engine(model, **{"device": "cpu", "cache": folder} | options).cached

    assert [opened(), opened()] == [False, True]
    assert opened(threads=3)
    assert [opened(graph_level="basic"), opened(graph_level="basic"), opened()] == [False, True, True]
    assert opened(graph_level="off") is False
    assert len(entries(folder)) == 2
    monkeypatch.setattr(cpu, "cpu_features", lambda: "another CPU")
    assert [opened(), opened()] == [False, True]
    monkeypatch.setattr(ort.onnxruntime(), "__version__", "1.99.0")
    assert [opened(), opened()] == [False, True]
    data = model.read_bytes()
    model.write_bytes(data.replace(b"task", b"risk"))
    assert opened() is False
    assert opened(providers=["cpu"], device="auto")
    assert opened(providers=[("cpu", {"arena_extend_strategy": "kNextPowerOfTwo"})], device="auto") is False


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "nonsense with its checksum"])
def test_a_damaged_entry_is_made_again(model, folder, damage):
    expected = Engine(model, device="cpu", cache=folder).run({"x": x()})["y"]
    (entry,) = folder.iterdir()
    data = bytearray(entry.read_bytes())
    if damage == "cut":
        entry.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":
        data[len(data) // 2] ^= 1
        entry.write_bytes(data)
    elif damage == "emptied":
        entry.write_bytes(b"")
    else:
        entry.unlink()
        checksum = graph_cache._sha256(b"nonsense")
        (folder / f"{entry.name.partition('-')[0]}-{checksum}.onnx").write_bytes(b"nonsense")
    for cached in (False, True):
        engine = Engine(model, device="cpu", cache=folder)
        assert engine.cached is cached
        np.testing.assert_array_equal(engine.run({"x": x()})["y"], expected)
    assert entries(folder) == [entry.name]


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no owners of files here")
def test_an_entry_that_others_could_have_written_is_not_run(model, folder, tmp_path):
    Engine(model, device="cpu", cache=folder)
    (entry,) = folder.iterdir()
    entry.chmod(0o666)
    assert Engine(model, device="cpu", cache=folder).cached is False
    entry.unlink()
    (tmp_path / "elsewhere.onnx").write_bytes(b"")
    entry.symlink_to(tmp_path / "elsewhere.onnx")
    assert Engine(model, device="cpu", cache=folder).cached is False


def test_a_folder_that_cannot_be_used_is_no_error(model, folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    for unusable in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("n" * 300)):
        engine = Engine(model, device="cpu", cache=unusable)
        assert engine.cached is False
        assert engine.run({"x": x()})["y"].shape == (2, 16, 7, 9)

    def read_only(*_: object, **__: object) -> None:
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr(tempfile, "mkstemp", read_only)
    assert Engine(model, device="cpu", cache=folder).cached is False
    assert entries(folder) == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser writes to read-only folders too")
def test_a_read_only_folder(model, folder):
    Engine(model, device="cpu", cache=folder)
    folder.chmod(0o500)
    try:
        assert Engine(model, device="cpu", cache=folder).cached is True
        assert Engine(model, device="cpu", cache=folder, graph_level="basic").cached is False
    finally:
        folder.chmod(0o700)


def test_an_entry_that_cannot_be_written_out_is_no_error(model, folder, monkeypatch):
    """No room on the disk: ONNX Runtime fails, and leaves half a file."""
    real = ort.open_session

    def full(given, name, settings, requested):
        if settings.save_to is not None:
            Path(settings.save_to).write_bytes(b"half")
            raise ArtifactError("No space left on device")
        return real(given, name, settings, requested)

    monkeypatch.setattr(ort, "open_session", full)
    engine = Engine(model, device="cpu", cache=folder)
    assert engine.run({"x": x()})["y"].shape == (2, 16, 7, 9)
    assert (engine.cached, entries(folder)) == (False, [])


def test_a_file_that_is_exchanged_while_it_is_opened_leaves_no_entry(model, folder, monkeypatch):
    """Its graph would stand under the old file's name."""
    real = ort.open_session

    def exchange(given, *rest):
        model.write_bytes(model.read_bytes() + b"\x32\x01x")
        return real(given, *rest)

    monkeypatch.setattr(opening.ort, "open_session", exchange)
    Engine(model, device="cpu", cache=folder)
    assert entries(folder) == []


def test_a_broken_file_says_so_and_leaves_nothing(build_onnx, folder):
    node = helper.make_node("NoSuch", ["x"], ["y"])
    data = build_onnx([node], [("x", FLOAT, [1])], [("y", FLOAT, [1])]).SerializeToString()
    with pytest.raises(ArtifactError, match=r"cannot load the model: .*No Op registered for NoSuch"):
        Engine(data, device="cpu", cache=folder)
    assert entries(folder) == []


def test_many_writers(model, folder):
    """Threads here, and processes: all get a session, one entry is left, and it is whole."""
    code = (
        "import sys; from onnxferry.runtime import Engine; "
        "[Engine(sys.argv[1], device='cpu', cache=sys.argv[2], graph_level=level) for level in ('all', 'basic') * 5]"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, str(model), str(folder)]) for _ in range(3)]
    with ThreadPoolExecutor(4) as pool:
        engines = list(pool.map(lambda _: Engine(model, device="cpu", cache=folder), range(8)))
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    answers = [engine.run({"x": x()})["y"] for engine in engines]
    for answer in answers:
        np.testing.assert_array_equal(answer, answers[0])
    assert len(entries(folder)) == 2
    assert Engine(model, device="cpu", cache=folder).cached


def test_the_folder_stays_bounded_and_what_is_not_the_cache_s_stays(folder):
    folder.mkdir()
    new, middle, old = (f"{digit * 40}-{digit * 64}.onnx" for digit in "abc")
    for age, name in enumerate((new, middle, old)):
        path = folder / name
        path.write_bytes(bytes(100))
        os.utime(path, (1_000_000 - age, 1_000_000 - age))
    left_behind = folder / ".writing-dead.onnx"
    left_behind.write_bytes(bytes(10))
    os.utime(left_behind, (1, 1))
    for name in ("somebody's.txt", "somebody's.onnx", "abc-def.onnx"):
        (folder / name).write_bytes(bytes(1000))
        os.utime(folder / name, (2, 2))
    theirs = ["abc-def.onnx", "somebody's.onnx", "somebody's.txt"]
    GraphCache(folder).prune(most=300)
    assert entries(folder) == sorted([new, middle, old, *theirs])
    GraphCache(folder).prune(most=200)
    assert entries(folder) == sorted([new, middle, *theirs])
    GraphCache(folder).prune(most=0)
    assert entries(folder) == sorted(theirs)


def test_true_takes_the_users_folder_and_none_only_where_it_pays(model, tmp_path, monkeypatch):
    monkeypatch.setenv("ONNXFERRY_CACHE", str(tmp_path / "users"))
    Engine(model, device="cpu")
    assert not (tmp_path / "users").exists()
    assert [Engine(model, device="cpu", cache=True).cached for _ in range(2)] == [False, True]
    monkeypatch.setattr(graph_cache, "pays", lambda summary: True)
    assert Engine(model, device="cpu").cached is True
    monkeypatch.setenv("ONNXFERRY_CACHE", "")
    assert Engine(model, device="cpu").cached is False
    with pytest.raises(InputError, match="cache must be None, True, False or a folder, got 3"):
        Engine(model, device="cpu", cache=3)


def test_no_shipped_model_is_cached_by_itself():
    """Measured: they would not gain (graph_cache says how much). A model of many nodes and few weights would."""
    shipped = {path.stem: read_model(path) for path in ZOO.rglob("*.onnx")}
    assert {"digits", "shakespeare"} <= shipped.keys()
    assert [name for name, summary in shipped.items() if pays(summary)] == []
    assert can_hold(shipped["digits"])
    assert not can_hold(shipped["shakespeare"])  # its loop is a graph in a graph


def test_cpu_features_name_this_cpu():
    words = cpu.cpu_features()
    assert platform.machine() in words
    if Path("/proc/cpuinfo").exists():
        assert len(words.split()) > 5
