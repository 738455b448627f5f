"""A contender in its own process, which computes in its turn and sleeps otherwise.

The parent sends a message and waits for the answer, so that one process works at a time. A turn ends when the process is idle: thread
pools that spin after their last run would take CPU time from the next contender.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from onnxferry.export.bench.contenders.base import Call, ContenderSpec, open_contender
from onnxferry.export.bench.workloads import BenchModel
from onnxferry.runtime.timing import repeat_for, time_call

SET_UP_S = 900.0
"""Timeout in seconds for opening, compiling and answering."""


WARM_RUNS = 2
"""Untimed runs before each turn: another process used the caches since the last."""


REST_S = 0.02
"""A process is idle when it used less than a tenth of this interval."""


MAX_REST_S = 3.0


class WorkerError(Exception):
    """A contender failed, with a reason of one line. It becomes a row of the table, not an error of the benchmark."""


@dataclass(frozen=True)
class Turn:
    """Seconds of each run, and the CPU seconds used after the last one until the process was idle."""

    times: tuple[float, ...]
    idle_cpu_s: float


class Worker:
    """The parent's side. Use as a context manager; the process ends with it, killed if necessary."""

    def __init__(self, spec: ContenderSpec, model: BenchModel, threads: int | None, log: Path) -> None:
        self.log = log
        # Not forked: the parent's libraries hold threads and locks that do not survive a fork.
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, spec, model, threads, os.fspath(log)), daemon=True)
        self._process.start()
        theirs.close()

    def open(self) -> None:
        self._ask(("open",), SET_UP_S)

    def prepare(self, feeds: Sequence[Mapping[str, np.ndarray]]) -> dict[str, str]:
        """Prepares it for inputs of this shape; returns its precision and settings."""
        described: dict[str, str] = self._ask(("prepare", [dict(feed) for feed in feeds]), SET_UP_S)
        return described

    def answers(self) -> list[dict[str, np.ndarray]]:
        """Its outputs for all inputs."""
        made: list[dict[str, np.ndarray]] = self._ask(("answers",), SET_UP_S)
        return made

    def turn(self, seconds: float) -> Turn:
        """Runs the inputs in turn for about ``seconds``, at least once."""
        taken: Turn = self._ask(("turn", seconds), SET_UP_S)
        return taken

    def close(self) -> None:
        if self._process.is_alive():
            try:
                self._pipe.send(("close",))
                self._process.join(5)
            except OSError:  # it has ended already
                pass
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        self._pipe.close()

    def _ask(self, message: tuple[Any, ...], seconds: float) -> Any:
        try:
            self._pipe.send(message)
            if not self._pipe.poll(seconds):
                self._process.kill()
                raise WorkerError(f"it was stopped after {seconds:g} s")
            kind, value = self._pipe.recv()
        except (EOFError, OSError) as error:
            self._process.join(5)
            raise WorkerError(f"its process ended with {self._process.exitcode}{_last_line(self.log)}") from error
        if kind == "failed":
            raise WorkerError(value)
        return value

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.is_file() else []
    return f": {lines[-1][:200]}" if lines else ""


def _work(pipe: Connection, spec: ContenderSpec, model: BenchModel, threads: int | None, log: str) -> None:
    """The child's side. What libraries print goes to the log, not to the terminal."""
    with Path(log).open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if threads is not None and spec.package == "torch":
        os.environ["OMP_NUM_THREADS"] = str(threads)  # read when torch is imported
    contender: Any = None
    call: Call | None = None
    feeds: list[dict[str, np.ndarray]] = []
    while True:
        try:
            message = pipe.recv()
        except (EOFError, KeyboardInterrupt):  # the parent has ended, or is ending
            return
        try:
            result: Any = None
            if message[0] == "close":
                return
            if message[0] == "open":
                contender = open_contender(spec, model, threads)
            elif message[0] == "prepare":
                feeds = message[1]
                call = contender.ready(feeds)
                result = {"precision": contender.precision, "how": contender.how}
            elif message[0] == "answers":
                assert call is not None  # noqa: S101
                result = [contender.named(call(i)) for i in range(len(feeds))]
            else:
                assert call is not None  # noqa: S101
                result = _turn(call, len(feeds), message[1])
            pipe.send(("done", result))
        except KeyboardInterrupt:
            return
        except Exception as error:  # noqa: BLE001 (any failure of a contender is a row of the table)
            traceback.print_exc(file=sys.stderr)
            pipe.send(("failed", _one_line(error)))


_PLACE = re.compile(r"Exception from \S+: |Check '.*?' failed at \S+: ")


def _one_line(error: BaseException) -> str:
    """An exception's message without line breaks and C++ source positions, at most 300 characters."""
    text = _PLACE.sub("", " ".join(str(error).split())) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."


def _turn(call: Call, feeds: int, seconds: float) -> Turn:
    for i in repeat_for(seconds, at_most=WARM_RUNS):  # one is enough if a run takes longer than a turn
        call(i % feeds)
    return Turn(tuple(time_call(call, i % feeds) for i in repeat_for(seconds)), _rest())


def _rest() -> float:
    """Waits until this process is idle; returns the CPU seconds that it used meanwhile."""
    first = last = time.process_time()
    for _ in repeat_for(MAX_REST_S):
        time.sleep(REST_S)
        now = time.process_time()
        if now - last < REST_S / 10:
            break
        last = now
    return time.process_time() - first
