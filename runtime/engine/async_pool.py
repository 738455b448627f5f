"""Runs that are awaited: in a few threads of the engine's own, so that an event loop never waits for a graph.

ONNX Runtime's own ``run_async`` was not taken: it needs a pool of at least two threads, which small models do not have, calls
back on a thread of that pool, and a run that was started cannot be stopped.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from onnxferry.runtime.engine import forks, ort
from onnxferry.runtime.errors import InputError

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor


class AsyncPool:
    """At most ``most`` threads, made when the first run is awaited."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._closed = False

    async def run(self, call: ort.RunCall, names: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
        """``call`` with run options of its own, so that being cancelled stops it before the next operator."""
        import asyncio  # half of the runtime's start, and few need it

        forks.refuse_inherited(self._process, "the model", "load(...) or Engine(...)")
        options = ort.onnxruntime().RunOptions()
        with self._lock:
            if self._closed:
                raise InputError("the model is closed; open it again with Engine(...)")
            if self._pool is None:
                from concurrent.futures import ThreadPoolExecutor

                self._pool = ThreadPoolExecutor(self._most, thread_name_prefix="onnxferry")
            future = self._pool.submit(call, names, feeds, options)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            options.terminate = True
            raise

    def close(self) -> None:
        """No more runs; those that were accepted end. Closing twice is fine."""
        if forks.inherited(self._process):  # the lock may be held by a thread of the parent, for ever
            self._closed = True
            return
        with self._lock:
            self._closed = True
            if self._pool is not None:
                self._pool.shutdown(wait=False)
