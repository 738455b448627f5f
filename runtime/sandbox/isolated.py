"""A model that runs in a confined child process, for applications that open files they were given.

    with load("untrusted.onnx", isolated=True) as model:
        model.run({"x": x})

:class:`IsolatedEngine` is a :class:`~onnxferry.runtime.engine.runner.Runner`: tasks, batcher and golden samples work on it as on any
engine. The file is parsed, opened and run in the child alone, on the CPU; this process reads only bounded messages from it. What the
child may reach is said in :mod:`.confinement`, its memory and the seconds of each run in
:class:`~onnxferry.runtime.sandbox.child.SandboxLimits`. A child that crashes, or is ended because a run took too long, takes nothing with
it: that run raises UntrustedModelError, later ones say that the model is to be loaded again.
"""

from __future__ import annotations

import asyncio
import functools
import os
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NoReturn, Self

import numpy as np

from onnxferry.runtime.artifact.contract import Contract
from onnxferry.runtime.artifact.metadata import contract_of
from onnxferry.runtime.errors import InputError, TimeLimitError, UntrustedModelError
from onnxferry.runtime.interruption import checked_seconds, no_thread
from onnxferry.runtime.machine.cpu import default_threads
from onnxferry.runtime.onnx_file.summary import Limits
from onnxferry.runtime.onnx_file.values import TensorSpec
from onnxferry.runtime.sandbox import child
from onnxferry.runtime.sandbox.child import SandboxLimits
from onnxferry.runtime.sandbox.confinement import confine, library_paths
from onnxferry.runtime.sandbox.messages import MAX_HEAD_BYTES, ClosedError, named_arrays, receive, send

_MAX_MODEL_HEAD = 4 * 2**20  # of what a child says of a model: its metadata, golden samples included


class IsolatedEngine:
    """An open model in a confined child process. Any number of threads may call :meth:`run`; the child runs one at a time.

    ``path``: the file. ``threads``: of the child; None for as many as this process may use.
    ``limits``: memory of the child, seconds of each run (opening the file included), bytes of each answer.
    ``file_limits``: how much the file may hold. ``timeout``: seconds that opening may take, the child's start included.

    Raises what :class:`~onnxferry.runtime.engine.engine.Engine` raises for the file, and UntrustedModelError where the child broke down.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        threads: int | None = None,
        limits: SandboxLimits | None = None,
        file_limits: Limits | None = None,
        timeout: float | None = None,
    ) -> None:
        seconds = checked_seconds(timeout)
        self.path: Path | None = Path(path)
        self._name = str(path)
        self._limits = limits or SandboxLimits()
        self._lock = threading.Lock()
        self._complaints = child.temporary_file()  # closed with the child
        self._process = child.start("onnxferry.runtime.sandbox.isolated", subprocess.PIPE, subprocess.PIPE, self._complaints)
        self._closed = False
        self._ended = ""  # why there is no child any more
        self._released = weakref.finalize(self, _release, self._process, self._complaints, os.getpid())  # also where nobody closes it
        request = {
            "path": str(Path(path).absolute()),
            "name": self._name,
            "threads": default_threads() if threads is None else threads,
            "memory_bytes": self._limits.memory_bytes,
            "answer_bytes": self._limits.answer_bytes,
            "file_limits": (file_limits or Limits()).to_json(),
        }
        try:
            answer = self._ask(request, max_head=_MAX_MODEL_HEAD, timeout=seconds)
            self._describe(answer)
        except BaseException:
            self.close()
            raise

    def _describe(self, answer: Any) -> None:
        """What the child says of the model, field by field: it may say anything."""
        try:
            self.inputs, self.optional_inputs, self.outputs = (_specs(answer[key]) for key in ("inputs", "optional_inputs", "outputs"))
            self.metadata = {str(key): str(value) for key, value in answer["metadata"]}
            self.device, self.threads, self.per_row = "cpu", int(answer["threads"]), answer["per_row"] is True
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise child.not_understood(self._name) from error
        self.contract: Contract | None = contract_of(self.metadata, self._name)
        self.device_reason = "an isolated model runs on the CPU"
        self.providers: tuple[str, ...] = ("CPUExecutionProvider",)
        self.best_batch: int | None = None

    def run(
        self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None, *, timeout: float | None = None
    ) -> dict[str, np.ndarray]:
        """Arrays of numbers by input name to new arrays by output name; ``outputs`` selects some.

        Raises InputError for inputs that do not fit and for a closed model, UntrustedModelError where the child broke down or a run took
        longer than the limit, TimeLimitError where it took longer than ``timeout`` seconds; the child is then ended.
        """
        seconds = checked_seconds(timeout)
        arrays = [np.asarray(array) for array in feeds.values()]
        wanted = None if outputs is None else list(outputs)
        key = ("run", tuple(feeds), None if wanted is None else tuple(wanted))
        answer = self._ask({"feeds": list(feeds), "arrays": arrays, "outputs": wanted}, timeout=seconds, key=key)
        try:
            found = dict(zip(map(str, answer["names"]), answer["arrays"], strict=True))
        except (KeyError, TypeError, ValueError) as error:
            raise self._not_understood() from error
        if not all(isinstance(array, np.ndarray) for array in found.values()):
            raise self._not_understood()
        return found

    async def arun(
        self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None, *, timeout: float | None = None
    ) -> dict[str, np.ndarray]:
        """As :meth:`run`, without blocking the event loop."""
        loop = asyncio.get_running_loop()
        try:
            answer = loop.run_in_executor(None, functools.partial(self.run, feeds, outputs, timeout=timeout))
        except RuntimeError as error:
            raise no_thread("the run", error) from error
        return await answer

    def close(self) -> None:
        """Ends the child. A run afterwards raises InputError; closing twice does not."""
        self._closed = True
        if not self._ended:
            self._end("is closed: load it again")

    @property
    def broken(self) -> bool:
        """Whether the child ended by itself, or was ended because a run took too long: the model is to be loaded again."""
        return bool(self._ended) and not self._closed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise InputError("an isolated model cannot be pickled or copied: pass its path, and open it in each process")

    def __repr__(self) -> str:
        return f"IsolatedEngine({self._name!r}, threads={self.threads})"

    def _ask(self, request: Mapping[str, Any], max_head: int = MAX_HEAD_BYTES, timeout: float | None = None, key: Hashable = None) -> Any:
        """``key``: of requests that differ in nothing but their ``arrays``."""
        with self._lock:
            if self._ended:
                raise InputError(f"{self._name} {self._ended}")
            pipe_in, pipe_out = self._process.stdin, self._process.stdout
            assert pipe_in is not None  # noqa: S101  Popen was asked for pipes
            assert pipe_out is not None  # noqa: S101
            limited = timeout is not None and timeout < self._limits.seconds
            seconds = timeout if timeout is not None and limited else self._limits.seconds
            deadline = time.monotonic() + seconds
            timer = None if os.name == "posix" else threading.Timer(seconds, self._process.kill)
            try:
                if timer:
                    timer.start()
                arrays = request.get("arrays")
                send(pipe_in.fileno(), request, arrays=arrays, key=key, max_head=child.MAX_REQUEST_BYTES, deadline=deadline)
                return child.answer_of(self._name, pipe_out.fileno(), self._limits, deadline=deadline, max_head=max_head)
            except TimeoutError:
                self._end("was ended because a run took too long: load it again")
                if limited:
                    raise TimeLimitError(f"{self._name} was not run within {seconds:g} s; load it again") from None
                raise UntrustedModelError(
                    f"{self._name} is refused: reading and running it took more than {seconds:g} s; if you trust it, give it more time"
                ) from None
            except ClosedError:
                code = self._process.wait()
                self._complaints.seek(0)
                error = child.broke_down(self._name, code, self._complaints.read(2**16), self._limits)
                self._end("broke down: load it again")
                raise error from None
            except InputError:  # the request could not be sent, or the child refuses its inputs: it goes on
                raise
            except UntrustedModelError:
                if self._process.poll() is not None:
                    self._end("broke down: load it again")
                raise
            except BaseException:  # Ctrl-C: the answer that is still to come would be taken for the next one's
                self._end("was interrupted: load it again")
                raise
            finally:
                if timer:
                    timer.cancel()

    def _end(self, why: str) -> None:
        self._ended = why
        self._released()

    def _not_understood(self) -> UntrustedModelError:
        self._end("gave no answer that can be understood: load it again")
        return child.not_understood(self._name)


def _release(process: subprocess.Popen[bytes], complaints: IO[bytes], owner: int) -> None:
    if os.getpid() == owner:  # not in a fork of it
        child.end(process)
    for stream in (process.stdin, process.stdout, complaints):
        if stream is not None:
            stream.close()


def _specs(rows: Any) -> tuple[TensorSpec, ...]:
    def size(given: Any) -> int | str | None:
        return given if given is None or isinstance(given, str) else int(given)

    return tuple(TensorSpec(str(name), str(dtype), tuple(map(size, shape)), bool(ranked)) for name, dtype, shape, ranked in rows)


def _serve() -> None:
    """The child's part: a request to open a model, then requests to run it, until its stdin ends."""
    from onnxferry.runtime.engine.engine import Engine

    answers = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    request = receive(0, max_bytes=2**62, max_head=child.MAX_REQUEST_BYTES)
    child.limit_this_process(request["memory_bytes"], request["answer_bytes"])
    limits = Limits.from_json(request["file_limits"])
    confine([*library_paths(), *child.model_files(request["path"], limits)])
    name, max_bytes = request["name"], request["answer_bytes"]
    opened: list[Engine] = []

    def describe() -> dict[str, Any]:
        engine = Engine(request["path"], device="cpu", threads=request["threads"], limits=limits)
        opened.append(engine)
        ends = {"inputs": engine.inputs, "optional_inputs": engine.optional_inputs, "outputs": engine.outputs}
        specs = {key: [[each.name, each.dtype, list(each.shape), each.ranked] for each in value] for key, value in ends.items()}
        return {**specs, "metadata": list(engine.metadata.items()), "threads": engine.threads, "per_row": engine.per_row}

    def run() -> dict[str, Any]:
        outputs = opened[0].run(dict(zip(request["feeds"], request["arrays"], strict=True)), request["outputs"])
        return named_arrays(outputs)

    child.reply_with(answers, name, max_bytes, describe, max_head=_MAX_MODEL_HEAD)
    while opened:
        request = receive(0, max_bytes=2**62, max_head=child.MAX_REQUEST_BYTES)
        child.reply_with(answers, name, max_bytes, run, named=True)


if __name__ == "__main__":
    status = 0
    try:
        _serve()
    except ClosedError:  # the parent is done with it, or gone
        pass
    except Exception:  # noqa: BLE001 - a bug that an untrusted file found: the parent reports it
        traceback.print_exc()
        status = 70
    sys.stderr.flush()
    os._exit(status)  # no destructors of libraries that a file may have damaged
