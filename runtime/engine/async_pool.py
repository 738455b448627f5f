"""Runs for coroutines, in a few threads of the engine's own, so that a run does not block the event loop.

ONNX Runtime's own ``run_async`` is not used: it needs a pool of at least two threads, which small models do not have, calls
back on a thread of that pool, and a run that has started cannot be stopped.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from onnxferry.runtime import interruption
from onnxferry.runtime.engine import forks, ort
from onnxferry.runtime.errors import InputError, TimeLimitError

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor


class AsyncPool:
    """At most ``max_threads`` threads, started with the first awaited run."""

    def __init__(self, max_threads: int) -> None:
        self._max_threads = max_threads
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._closed = False

    async def run(
        self, call: ort.RunCall, names: Sequence[str], feeds: Mapping[str, Any], seconds: float | None = None, what: str = ""
    ) -> list[Any]:
        """``call`` with run options of its own, so that cancelling stops it before the next operator.

        Raises TimeLimitError, whose message ``what`` begins, where it takes more than ``seconds``, waiting for others included.
        """
        import asyncio  # half of the runtime's import time, and few programs need it

        forks.refuse_inherited(self._process, "the model", "load(...) or Engine(...)")
        options = ort.onnxruntime().RunOptions()
        with self._lock:
            if self._closed:
                raise InputError("the model is closed; open it again with Engine(...)")
            if self._pool is None:
                from concurrent.futures import ThreadPoolExecutor

                self._pool = ThreadPoolExecutor(self._max_threads, thread_name_prefix="onnxferry")
            try:
                future = self._pool.submit(call, names, feeds, options)
            except RuntimeError as error:
                raise interruption.no_thread("the run", error) from error
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            options.terminate = True
            raise
        except TimeoutError:
            options.terminate = True
            raise TimeLimitError(f"{what} within {seconds:g} s; give it more time") from None

    def close(self) -> None:
        """Accepts no more runs and lets the accepted ones finish. Closing twice is fine."""
        if forks.inherited(self._process):  # a thread of the parent may hold the lock for ever
            self._closed = True
            return
        with self._lock:
            self._closed = True
            if self._pool is not None:
                self._pool.shutdown(wait=False)
