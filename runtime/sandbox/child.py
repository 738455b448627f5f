"""An untrusted file is read in a child process with limits on time and memory; what breaks there breaks nothing here.

    summary = call(describe_file, {"path": "untrusted.onnx"}, SandboxLimits(seconds=30))

The function runs in a fresh interpreter; arguments and answer travel as :mod:`.messages`.
An OnnxFerryError that the function raises is raised here again; a crash, a hang and too much
memory are an UntrustedModelError. On Linux the child is confined before it opens the file (:mod:`.confinement`): it can read the
model and its libraries, write no file, start no program and open no connection. Elsewhere, and on kernels without Landlock, it may do
what its user may: only time is limited there.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from onnxferry.runtime import errors
from onnxferry.runtime.errors import BusyError, InputError, OnnxFerryError, UntrustedModelError
from onnxferry.runtime.formats import human_bytes
from onnxferry.runtime.machine.telemetry import TELEMETRY_OFF
from onnxferry.runtime.onnx_file.reader import read_model
from onnxferry.runtime.onnx_file.summary import Limits
from onnxferry.runtime.sandbox.confinement import confine, library_paths
from onnxferry.runtime.sandbox.messages import MAX_HEAD_BYTES, ClosedError, MessageError, TooLargeError, receive, send

MIN_MEMORY_BYTES = 2**30
"""Less than this does not hold Python and ONNX Runtime themselves, whose libraries are mapped whole."""


_MESSAGE_LENGTH = 4000


_TICK_SECONDS = 0.1

MAX_REQUEST_BYTES = 64 * 2**20  # of a request without its arrays: it is ours


# What an interpreter needs to start where this one did. Nothing else of the caller's environment: it may hold secrets.
_ENVIRONMENT = (
    *("PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL", "HOME"),
    *("USERPROFILE", "APPDATA", "LOCALAPPDATA", "SYSTEMROOT", "TEMP", "TMP", "TMPDIR", "OMP_NUM_THREADS"),
)


_SET = {TELEMETRY_OFF: "1", "OPENBLAS_NUM_THREADS": "1"}
"""For the child. Only ONNX Runtime computes there, and numpy's OpenBLAS would start threads and take memory for them."""


@dataclass(frozen=True)
class SandboxLimits:
    """What the child may use."""

    seconds: float = 60.0  # wall-clock, the start of Python and ONNX Runtime (about a second) included
    memory_bytes: int = 4 * 2**30  # address space, about a gigabyte of it for the libraries; held on Linux only
    answer_bytes: int = 64 * 2**20  # of what it gives back and of any file that it writes

    def __post_init__(self) -> None:
        if not (math.isfinite(self.seconds) and 0 < self.seconds <= 86_400):
            raise InputError(f"the time limit must be a number of seconds up to a day, got {self.seconds!r}")
        if self.memory_bytes < MIN_MEMORY_BYTES:
            raise InputError(
                f"the memory limit must be at least {MIN_MEMORY_BYTES} bytes (1 GiB), which Python and ONNX Runtime need themselves, "
                f"got {self.memory_bytes}"
            )
        if self.answer_bytes < 2**16:
            raise InputError(f"the answer's limit must be at least 65536 bytes, got {self.answer_bytes}")


def memory_is_limited() -> bool:
    """Whether this system holds a process to :attr:`SandboxLimits.memory_bytes`. Elsewhere only time is limited."""
    return sys.platform.startswith("linux")


def temporary_file() -> IO[bytes]:
    """A file without a name. Raises InputError where no folder can be written."""
    try:
        return tempfile.TemporaryFile()
    except OSError as error:
        raise InputError(
            "an untrusted file is read through temporary files, and none can be written: set TMPDIR to a folder that this user may write in"
        ) from error


def call(
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    limits: SandboxLimits | None = None,
    *,
    name: str = "the file",
    model: str | os.PathLike[str] | None = None,
    file_limits: Limits | None = None,
    confined: bool = True,
    tick: Callable[[float], None] | None = None,
) -> Any:
    """``function(**arguments)`` in a child. The function stands at the top of a module; arguments and answer are JSON and arrays.

    ``model``: the file that the child may read, with its weight files, which :func:`read_model` finds within ``file_limits``.
    ``confined=False`` leaves files, programs and connections to the child: limits of time and memory hold all the same.
    ``name`` stands for the file in messages. ``tick`` is called about ten times a second with the seconds that have passed; what it
    raises ends the child and goes on up. Raises the OnnxFerryError that the function raises, and UntrustedModelError where the child
    crashed, took too long, or gave no answer or one that is too large.
    """
    limits = limits or SandboxLimits()
    request = {
        "function": f"{function.__module__}:{function.__qualname__}",
        "arguments": dict(arguments),
        "name": name,
        "model": None if model is None else str(Path(model).absolute()),
        "confined": confined,
        "file_limits": (file_limits or Limits()).to_json(),
        "memory_bytes": limits.memory_bytes,
        # Ends of its own, should this process die before it.
        "seconds": limits.seconds + 1,
        "cpu_seconds": math.ceil(limits.seconds) * 64,
        "file_bytes": limits.answer_bytes,
    }
    # Files and not pipes: no reader is needed while the child writes, and its own limit on files bounds the answer.
    with temporary_file() as question, temporary_file() as answer, temporary_file() as complaints:
        send(question.fileno(), request, max_head=MAX_REQUEST_BYTES)
        os.lseek(question.fileno(), 0, os.SEEK_SET)
        process = start("onnxferry.runtime.sandbox.child", question, answer, complaints)
        try:
            code = _wait(process, limits.seconds, tick)
        except subprocess.TimeoutExpired:
            raise UntrustedModelError(
                f"{name} is refused: reading and running it took more than {limits.seconds:g} s; if you trust it, give it more time"
            ) from None
        finally:
            end(process)
        if code != 0:
            raise broke_down(name, code, _contents(complaints, 2**16), limits)
        os.lseek(answer.fileno(), 0, os.SEEK_SET)
        try:
            return answer_of(name, answer.fileno(), limits)
        except ClosedError as error:  # it ends too early
            raise not_understood(name) from error


def start(module: str, stdin: Any, stdout: Any, stderr: Any) -> subprocess.Popen[bytes]:
    """A fresh interpreter that runs one of our modules, without the secrets of this one's environment."""
    if getattr(sys, "frozen", False):  # its own program would start again, and again
        raise InputError(
            "a frozen program (PyInstaller) has no Python interpreter to start, which the confined child process needs; open the file "
            "without isolated=True, or check it before it is packed: onnxferry check FILE --untrusted"
        )
    try:
        process = subprocess.Popen(
            # -P: a module beside the file, or where the caller stands, is not imported. -B: nothing is written beside ours.
            [sys.executable, "-P", "-B", "-m", module],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            bufsize=0,
            env={key: os.environ[key] for key in _ENVIRONMENT if key in os.environ} | _SET,
            start_new_session=os.name == "posix",
        )
    except OSError as error:  # a limit on processes, memory or open files
        raise BusyError(
            f"the confined child process cannot be started ({error.strerror or error}); end other processes or raise the limit on them, "
            "and try again"
        ) from error
    if process.stdin is not None and os.name == "posix":
        os.set_blocking(process.stdin.fileno(), False)  # for deadlines
    return process


def _wait(process: subprocess.Popen[bytes], seconds: float, tick: Callable[[float], None] | None) -> int:
    """The child's exit code. Raises subprocess.TimeoutExpired when the seconds are over."""
    if tick is None:
        return process.wait(seconds)
    started = time.monotonic()
    while True:
        left = max(0.0, started + seconds - time.monotonic())
        try:
            return process.wait(min(left, _TICK_SECONDS))
        except subprocess.TimeoutExpired:
            if left <= _TICK_SECONDS:
                raise
        tick(time.monotonic() - started)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends the child and what it started."""
    if os.name == "posix":
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # all gone already
            return
    else:
        process.kill()
    process.wait()


def _contents(file: IO[bytes], most: int) -> bytes:
    file.seek(0)
    return file.read(most)


def broke_down(name: str, code: int, complaints: bytes, limits: SandboxLimits) -> UntrustedModelError:
    how = f"signal {signal.Signals(-code).name}" if code < 0 and -code in set(signal.Signals) else f"exit code {code}"
    lines = complaints.decode("utf-8", "replace").strip().splitlines()
    last = f": {lines[-1][:200]}" if lines else ""
    gigabytes = f"{limits.memory_bytes / 2**30:g} GiB of memory"
    return UntrustedModelError(f"{name} is refused: the process that read it, with {gigabytes}, broke down ({how}{last})")


def not_understood(name: str) -> UntrustedModelError:
    return UntrustedModelError(f"{name} is refused: the process that read it gave no answer that can be understood")


def answer_of(name: str, fd: int, limits: SandboxLimits, *, deadline: float | None = None, max_head: int = MAX_HEAD_BYTES) -> Any:
    """The value that a child answers, or the OnnxFerryError that it reports. Whatever took the child over may have written it.

    Raises UntrustedModelError for what is no answer; ClosedError and TimeoutError as :func:`receive` does.
    """
    try:
        reply = receive(fd, max_bytes=limits.answer_bytes, max_head=max_head, deadline=deadline)
    except (MessageError, TooLargeError) as error:
        raise not_understood(name) from error
    if isinstance(reply, dict) and set(reply) == {"error", "message"}:
        raise _error_class(reply["error"])(str(reply["message"])[:_MESSAGE_LENGTH])
    if not isinstance(reply, dict) or set(reply) != {"value"}:
        raise not_understood(name)
    return reply["value"]


def _error_class(name: object) -> type[OnnxFerryError]:
    found: object = getattr(errors, str(name), None)
    # MissingExtraError is made of other parts than its message.
    if isinstance(found, type) and issubclass(found, OnnxFerryError) and found is not errors.MissingExtraError:
        return found
    return OnnxFerryError


def limit_this_process(memory_bytes: int, file_bytes: int, cpu_seconds: int | None = None) -> None:
    """Limits that the system holds this process to, as far as it has them."""
    if os.name != "posix":
        return
    import resource

    wanted = {resource.RLIMIT_FSIZE: file_bytes, resource.RLIMIT_CORE: 0}
    if cpu_seconds is not None:
        wanted[resource.RLIMIT_CPU] = cpu_seconds
    if memory_is_limited():
        wanted[resource.RLIMIT_AS] = memory_bytes
    for kind, limit in wanted.items():
        hardest = resource.getrlimit(kind)[1]
        limit = limit if hardest == resource.RLIM_INFINITY else min(limit, hardest)
        resource.setrlimit(kind, (limit, limit))


def model_files(model: str, limits: Limits) -> list[Path]:
    """The model and its weight files. Whatever is wrong with the file is reported by the function that opens it."""
    path = Path(model)
    try:
        return [path, *read_model(path, limits).weight_files(path)]
    except (OnnxFerryError, OSError):
        return [path]


def _serve() -> int:
    """The child's part: one request from stdin, one answer to stdout."""
    answer = os.dup(1)
    # What a library prints must not get into the answer.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    request = receive(0, max_bytes=2**62, max_head=MAX_REQUEST_BYTES)
    module, _, attribute = request["function"].partition(":")
    function = getattr(import_module(module), attribute)
    limit_this_process(request["memory_bytes"], request["file_bytes"], request["cpu_seconds"])
    if os.name == "posix":
        signal.setitimer(signal.ITIMER_REAL, request["seconds"])
    if request["confined"]:
        readable = model_files(request["model"], Limits.from_json(request["file_limits"])) if request["model"] else []
        confine([*library_paths(), *readable])
    try:
        reply_with(answer, request["name"], request["file_bytes"], lambda: function(**request["arguments"]))
    except Exception:  # noqa: BLE001 - a bug that an untrusted file found: it is reported to the caller, which goes on
        traceback.print_exc()
        return 70
    return 0


def reply_with(
    fd: int, name: str, max_bytes: int, compute: Callable[[], Any], *, max_head: int = MAX_HEAD_BYTES, named: bool = False
) -> None:
    """The child's part: sends what ``compute`` gives, or the OnnxFerryError that it raises. Anything else that it raises is a bug.

    ``named``: it gives :func:`named_arrays`.
    """
    try:
        value = compute()
        again = {"arrays": value["arrays"], "key": ("answer", *value["names"])} if named else {}
        send(fd, {"value": value}, max_bytes=max_bytes, max_head=max_head, **again)
        return
    except TooLargeError as large:
        sizes = f"{human_bytes(large.size)}, and at most {human_bytes(max_bytes)} are taken"
        error: OnnxFerryError = UntrustedModelError(f"{name} is refused: what it gives takes {sizes}; give it smaller inputs")
    except MemoryError:
        error = UntrustedModelError(f"{name} is refused: it takes more memory than it was given")
    except OnnxFerryError as ours:
        error = ours
    send(fd, {"error": type(error).__name__, "message": str(error)[:_MESSAGE_LENGTH]})


if __name__ == "__main__":
    code = _serve()
    sys.stderr.flush()
    os._exit(code)  # no destructors of libraries that a file may have damaged
