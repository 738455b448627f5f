"""Runs for coroutines, in a few threads of the engine's own, so that a run does not block the event loop.

ONNX Runtime's own ``run_async`` is not used: it needs a pool of at least two threads, which small models do not have, calls
back on a thread of that pool, and a run that has started cannot be stopped. Nor is ``concurrent.futures``: a run goes from the loop to a
thread and its result back, and futures with a lock each on both sides of that took twice as long.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from onnxferry.runtime import interruption
from onnxferry.runtime.engine import forks, ort
from onnxferry.runtime.errors import InputError, TimeLimitError

if TYPE_CHECKING:
    import asyncio


class AsyncPool:
    """At most ``max_threads`` threads, started as awaited runs need them."""

    def __init__(self, max_threads: int) -> None:
        self._process = os.getpid()
        self._threads = _Threads(max_threads)
        # The threads know their own list alone, so that a pool without references ends them; at the interpreter's end too.
        self._finalizer = weakref.finalize(self, self._threads.end)

    async def run(
        self, call: ort.RunCall, names: Sequence[str], feeds: Mapping[str, Any], seconds: float | None = None, what: str = ""
    ) -> list[Any]:
        """``call`` with run options of its own, so that cancelling stops it before the next operator.

        Raises TimeLimitError, whose message ``what`` begins, where it takes more than ``seconds``, waiting for others included.
        """
        import asyncio  # half of the runtime's import time, and few programs need it

        forks.refuse_inherited(self._process, "the model", "load(...) or Engine(...)")
        loop = asyncio.get_running_loop()
        options = ort.onnxruntime().RunOptions()
        future: asyncio.Future[list[Any]] = loop.create_future()
        self._threads.put(_Run(call, names, feeds, options, loop, future))
        try:
            if seconds is None:
                return await future
            async with asyncio.timeout(seconds):
                return await future
        except asyncio.CancelledError:
            options.terminate = True
            raise
        except TimeoutError:
            options.terminate = True
            raise TimeLimitError(f"{what} within {seconds:g} s; give it more time") from None

    def close(self) -> None:
        """Accepts no more runs and lets the accepted ones finish. Closing twice is fine."""
        if forks.inherited(self._process):  # a thread of the parent may hold the lock for ever
            self._finalizer.detach()
            self._threads.closed = True
            return
        self._threads.close()


class _Run:
    """One run on its way to a thread and back."""

    __slots__ = ("call", "feeds", "future", "loop", "names", "options")

    def __init__(
        self,
        call: ort.RunCall,
        names: Sequence[str],
        feeds: Mapping[str, Any],
        options: Any,
        loop: asyncio.AbstractEventLoop,
        future: asyncio.Future[list[Any]],
    ) -> None:
        self.call, self.names, self.feeds, self.options, self.loop, self.future = call, names, feeds, options, loop, future

    def run(self) -> None:
        if self.future.cancelled():
            return
        results: list[Any] = []
        error: BaseException | None = None
        try:
            results = self.call(self.names, self.feeds, self.options)
        except BaseException as raised:  # noqa: BLE001 - it is raised where the run is awaited
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop is closed: nothing waits for the result
            self.loop.call_soon_threadsafe(_settle, self.future, results, error)


def _settle(future: asyncio.Future[list[Any]], results: list[Any], error: BaseException | None) -> None:
    if future.done():  # cancelled meanwhile
        return
    if error is None:
        future.set_result(results)
    else:
        future.set_exception(error)


class _Threads:
    """The threads, and the runs that wait for one."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.process = os.getpid()
        self.lock = threading.Lock()
        self.waiting: queue.SimpleQueue[_Run | None] = queue.SimpleQueue()
        self.unfinished = 0  # runs that wait or are under way
        self.threads: list[threading.Thread] = []
        self.closed = False

    def put(self, run: _Run) -> None:
        """Raises InputError once closed, BusyError where the system has no thread left for it."""
        with self.lock:
            if self.closed:
                raise InputError("the model is closed; open it again with Engine(...)")
            if self.unfinished >= len(self.threads) < self.most:
                self.threads.append(interruption.start_thread("the run", self.work, f"onnxferry_{len(self.threads)}"))
            self.unfinished += 1
            self.waiting.put(run)

    def work(self) -> None:
        while (run := self.waiting.get()) is not None:
            run.run()
            del run  # its arrays are not kept until the next one comes
            with self.lock:
                self.unfinished -= 1
        self.waiting.put(None)  # for the next thread

    def close(self) -> None:
        with self.lock:
            if not self.closed:
                self.closed = True
                self.waiting.put(None)

    def end(self) -> None:
        """Closes, and waits for the threads: one that is inside ONNX Runtime as the interpreter ends would crash it."""
        if forks.inherited(self.process):
            return
        self.close()
        for thread in self.threads:
            if thread is not threading.current_thread():
                thread.join()
