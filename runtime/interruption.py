"""Work in ONNX Runtime that ends early: at a time limit, or at Ctrl-C in the command line.

    within(lambda: session.run(None, feeds, options), stop, seconds=5, what="m.onnx was not run")

Python handles a signal between two of its own instructions, so a long run would keep Ctrl-C waiting. :func:`ctrl_c` starts a thread
that is woken by the signal itself and asks whatever is in progress to stop. ONNX Runtime stops before the next operator; where one
operator (or the folding of a constant, as a file is opened) goes on, the process ends after a second, with the exit code of a Ctrl-C.
Files are never half-written by that: see :func:`onnxferry.runtime.files.written_whole`.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from onnxferry.runtime.errors import BusyError, InputError, TimeLimitError

T = TypeVar("T")


INTERRUPTED = 130
"""The exit code of a Ctrl-C: 128 + SIGINT."""


GRACE = 0.8
"""Seconds that work in progress has to stop after it was asked to."""


watched = False
"""Whether Ctrl-C is to stop work in progress: only within :func:`ctrl_c`."""


_stops: dict[object, tuple[Callable[[], None], bool]] = {}  # how to stop what is in progress; whether it is the main thread's


unfinished: set[str] = set()
"""Temporary files that are being written, which go with a process that is ended."""


def checked_seconds(seconds: float | None) -> float | None:
    """A time limit as a number. Raises InputError for what is none."""
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not math.isfinite(seconds) or seconds <= 0:
        raise InputError(f"timeout must be a number of seconds > 0, or None, got {seconds!r}")
    return min(float(seconds), threading.TIMEOUT_MAX)


def within(work: Callable[[], T], stop: Callable[[], None], seconds: float | None, what: str) -> T:
    """``work()``, which ``stop()`` asks to end. ``what``: begins the message, ``m.onnx was not opened``.

    With a limit of ``seconds`` it runs in a thread of its own. Raises TimeLimitError where it takes longer; work that does not end when
    it is asked to is left to that thread, and its result is dropped.
    """
    token = object()
    _stops[token] = stop, seconds is None and threading.current_thread() is threading.main_thread()
    try:
        return work() if seconds is None else _in_thread(work, stop, seconds, what)
    finally:
        _stops.pop(token, None)


def _in_thread(work: Callable[[], T], stop: Callable[[], None], seconds: float, what: str) -> T:
    results: list[T] = []
    errors: list[BaseException] = []
    done = threading.Event()

    def target() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            errors.append(error)
        finally:
            done.set()

    start_thread("the time limit", target, "onnxferry-limited")
    try:
        in_time = done.wait(seconds)
    except BaseException:  # Ctrl-C
        stop()
        raise
    if not in_time:
        stop()
        done.wait(GRACE)
        raise TimeLimitError(f"{what} within {seconds:g} s; give it more time, or open files that you don't trust with isolated=True")
    if errors:
        raise errors[0]
    return results[0]


def start_thread(what: str, target: Callable[..., None], name: str, *arguments: Any) -> threading.Thread:
    """A thread that does not keep the process from ending. Raises BusyError where the system has none left for ``what``."""
    thread = threading.Thread(target=target, args=arguments, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        raise no_thread(what, error) from error
    return thread


def no_thread(what: str, error: BaseException) -> BusyError:
    return BusyError(f"{what} cannot start its thread ({error}); end other threads or raise the limit on them, and try again")


@contextlib.contextmanager
def ctrl_c(last_words: Callable[[], None]) -> Iterator[None]:
    """Within it, Ctrl-C stops what is in progress. ``last_words`` are said before a process is ended that cannot be stopped otherwise.

    SIGTERM and SIGHUP, which would end the process at once, raise SystemExit with 128 + their number, so that temporary files go too.
    In the main thread only, which is the one that signals interrupt; elsewhere, and where a program handles a signal itself, nothing
    happens. Where the system has no thread left for it, Ctrl-C waits for the operator that is running.
    """
    global watched
    if watched or threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer, close = _wakeup_pair()
    try:
        start_thread("Ctrl-C", _watch, "onnxferry-ctrl-c", reader, last_words)
        watcher = True
    except BusyError:
        close()
        reader()  # which closes its own end
        watcher = False
    if not watcher:
        yield
        return
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    watched = True
    ours = [number for number in _ENDING if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, _ended)
    try:
        yield
    finally:
        watched = False
        for number in ours:
            if signal.getsignal(number) is _ended:
                signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(before)
        close()


_ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


def _ended(number: int, _: object) -> None:
    raise SystemExit(128 + number)


def _wakeup_pair() -> tuple[Callable[[], bytes], int, Callable[[], None]]:
    """How to read a byte for each signal, the descriptor that signals are written to, and how to close both ends."""
    if os.name == "nt":  # only sockets can be given there
        import socket

        ours, theirs = socket.socketpair()
        theirs.setblocking(False)

        def close_sockets() -> None:
            theirs.close()

        return lambda: ours.recv(1), theirs.fileno(), close_sockets
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def read() -> bytes:
        byte = os.read(reading, 1)
        if not byte:
            os.close(reading)
        return byte

    return read, writing, lambda: os.close(writing)


def _watch(read: Callable[[], bytes], last_words: Callable[[], None]) -> None:
    while byte := read():
        # Who handles the signal otherwise, as a training run does, goes on.
        if signal.getsignal(byte[0]) not in (signal.default_int_handler, _ended):
            continue
        in_progress = dict(_stops)
        for stop, _ in in_progress.values():
            stop()
        until = time.monotonic() + GRACE
        stuck = [token for token, (_, main) in in_progress.items() if main]  # Python itself interrupts a main thread that is elsewhere
        while any(token in _stops for token in stuck) and time.monotonic() < until:
            time.sleep(0.02)
        if any(token in _stops for token in stuck):
            _end(byte[0], last_words)


def _end(number: int, last_words: Callable[[], None]) -> None:
    for path in list(unfinished):
        with contextlib.suppress(OSError):
            os.unlink(path)  # noqa: PTH108
    try:
        if number == signal.SIGINT:
            last_words()
    finally:
        os._exit(128 + number)


def no_stop(*_: Any) -> None:
    """For work that cannot be asked to end."""
