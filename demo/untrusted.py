"""A stranger's model, opened and run in a process of its own: what goes wrong there, however badly, ends that process and not the demo.

    report = ask(Request(model=data, task="inspect"))
    answer = ask(Request(model=data, task="run", feeds={"x": x}, repeats=20))

The child (``untrusted_child.py``) sets limits on itself before it reads the file; the parent holds it to a time and bounds what it
reads back. Where the system has no such limits (Windows), the time and the bounded reader of the runtime are what is left.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onnxferry.runtime.errors import ArtifactError, InputError, UntrustedModelError


@dataclass(frozen=True)
class SandboxLimits:
    """What the child may use."""

    seconds: float = 60.0  # of wall time, from start to answer
    cpu_seconds: int = 120  # of processor time over all its threads
    memory_bytes: int = 6 * 2**30  # of address space; ONNX Runtime itself maps about a third of it
    model_bytes: int = 256 * 2**20
    feed_bytes: int = 64 * 2**20  # of all inputs together
    answer_bytes: int = 256 * 2**20  # of any one file it writes


@dataclass(frozen=True, eq=False)
class Request:
    """What is asked of the child."""

    model: bytes
    task: str  # "inspect" (read, never run), "check" (replay the golden samples), "run"
    feeds: Mapping[str, np.ndarray] = field(default_factory=dict)  # by input name; of "run"
    repeats: int = 1  # runs that are timed, after one that is not


@dataclass(frozen=True, eq=False)
class Answer:
    """What came back."""

    report: Mapping[str, Any]  # JSON; its keys are the task's
    outputs: Mapping[str, np.ndarray]  # of "run"


def ask(request: Request, limits: SandboxLimits | None = None, tick: Callable[[float], None] | None = None) -> Answer:
    """Runs one request in a child and gives its answer.

    ``tick`` is called about ten times a second with the seconds that have passed; what it raises ends the child and goes on up, so
    a page that is left stops its work. Raises InputError and ArtifactError with what the runtime said in the child,
    UntrustedModelError where the child ran into a limit or died.
    """
    limits = limits or SandboxLimits()
    if len(request.model) > limits.model_bytes:
        raise UntrustedModelError(
            f"the model has {len(request.model) / 1e6:.0f} MB, and at most {limits.model_bytes / 1e6:.0f} are taken here"
        )
    size = sum(array.nbytes for array in request.feeds.values())
    if size > limits.feed_bytes:
        raise InputError(
            f"the inputs hold {size / 1e6:.0f} MB, and at most {limits.feed_bytes / 1e6:.0f} are taken here; make them smaller"
        )
    with tempfile.TemporaryDirectory(prefix="onnxferry-", ignore_cleanup_errors=True) as place:
        folder = Path(place)
        (folder / "model.onnx").write_bytes(request.model)
        # Positions, not names: an input's name is the stranger's, and a file in an archive must not be.
        save_arrays(folder / "feeds.npz", request.feeds.values())
        todo = {
            "task": request.task,
            "names": list(request.feeds),
            "repeats": request.repeats,
            "seconds": limits.seconds,
            "cpu_seconds": limits.cpu_seconds,
            "memory_bytes": limits.memory_bytes,
            "file_bytes": limits.answer_bytes,
        }
        (folder / "request.json").write_text(json.dumps(todo), encoding="utf-8")
        code = _run_child(folder, limits.seconds, tick)
        return _read_answer(folder, code, limits)


def save_arrays(path: Path, arrays: Iterable[np.ndarray]) -> None:
    """An .npz archive of arrays named 0, 1, 2 …"""
    numbered: dict[str, Any] = {str(i): array for i, array in enumerate(arrays)}
    np.savez(path, **numbered)


def _run_child(folder: Path, seconds: float, tick: Callable[[float], None] | None) -> int:
    # -P: the folder, which holds a stranger's file, is no place to import from.
    command = [sys.executable, "-P", "-m", "onnxferry.demo.untrusted_child", str(folder)]
    started = time.monotonic()
    with subprocess.Popen(
        command, cwd=folder, env=_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as child:
        try:
            while True:
                try:
                    return child.wait(0.1)
                except subprocess.TimeoutExpired:
                    passed = time.monotonic() - started
                if passed > seconds:
                    raise UntrustedModelError(f"the model took longer than {seconds:g} s and was stopped")
                if tick is not None:
                    tick(passed)
        finally:
            if child.poll() is None:
                child.kill()


def _environment() -> dict[str, str]:
    """What Python and ONNX Runtime need to start; nothing else of the parent's is the child's business."""
    kept = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "SYSTEMROOT", "SystemRoot", "TEMP", "TMP", "TMPDIR", "LANG")
    return {name: os.environ[name] for name in kept if name in os.environ}


def _read_answer(folder: Path, code: int, limits: SandboxLimits) -> Answer:
    answer = folder / "answer.json"
    if code != 0 or not answer.is_file() or answer.stat().st_size > limits.answer_bytes:
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        raise UntrustedModelError(
            f"the process that opened the model ended without an answer ({how}): it needs more memory or time than a stranger gets here, "
            "or it is built to do harm"
        )
    report = json.loads(answer.read_text(encoding="utf-8"))
    if "error" in report:
        kinds = {"InputError": InputError, "UntrustedModelError": UntrustedModelError}
        raise kinds.get(report["kind"], ArtifactError)(report["error"])
    outputs = {}
    if (folder / "outputs.npz").is_file():
        try:
            with np.load(folder / "outputs.npz", allow_pickle=False) as arrays:
                outputs = {name: arrays[str(i)] for i, name in enumerate(report["outputs"])}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise UntrustedModelError(f"the model's outputs cannot be read back ({error})") from error
    return Answer(report, outputs)
