"""Requests of one model to runs: some at a time, and several requests in one run where its rows cost less so.

Requests that come while all places are taken gather, and leave together. Everything happens in the event loop but the runs themselves.
"""

from __future__ import annotations

import asyncio
import time
import warnings
from collections import deque
from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from onnxferry.runtime.artifact.comparison import alike_in_a_batch
from onnxferry.runtime.engine.merging import Merging
from onnxferry.runtime.engine.runner import Runner

LULL = 0.1
"""A run that nothing joined for this share of ``max_wait`` leaves early."""

QUICK = 0.005
"""Seconds: what runs in less is run in the event loop where nothing else is there to do. Going to a thread and back would take as long."""

_TRIED, _TRIED_AGAIN = 2, 16
"""Quick runs before a call is run in the event loop: at first, and after one there that was not quick."""

_MOST_KINDS = 256

_SMALL = 64
"""Bytes: the values of inputs up to that may be sizes or counts, on which the time of a run depends."""

Arrays = Mapping[str, np.ndarray]


class Scheduler:
    """The requests of one engine. Used in one event loop.

    ``at_once``: runs at a time. ``rows``: rows that share a run at most; 1: each request runs by itself, and the engine has them wait.
    ``max_wait``: seconds that a request waits for others at most while a place is free; 0: not at all. A run leaves when it is as large as
    the one before (who waits for an answer comes back with the next question), or when nothing has joined it for a tenth of that.
    ``in_loop``: the engine's ``run`` may be called in the event loop, for a lone call that is known to be quick.

    Raises InputError for a model whose requests cannot be merged, where ``rows`` is above 1.
    """

    def __init__(self, engine: Runner, at_once: int = 1, rows: int = 1, max_wait: float = 0.0, in_loop: bool = False) -> None:
        self.engine, self.at_once, self.rows, self.max_wait = engine, at_once, rows, max_wait
        self._quick = _QuickCalls() if in_loop else None
        self._merging = Merging(engine) if rows > 1 else None
        self._compared = bool(engine.contract and engine.contract.family)  # those trained here mix no rows
        self._groups: dict[Hashable, deque[_Call]] = {}  # none of them empty; in the order in which they began to wait
        self._free = at_once
        self._last = rows  # of the run before; at first, company is expected
        self._dispatch: asyncio.Handle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, feeds: Arrays, outputs: Sequence[str], lone: bool = False) -> dict[str, np.ndarray]:
        """The outputs of that name. Cancelling takes the call back, or stops its run if no other call is in it.

        ``lone``: nothing else is under way in this event loop, and nothing is expected. Raises what the engine's ``arun`` raises.
        """
        merging = self._merging
        if merging is None:
            return await self._now(feeds, outputs, lone)
        key, rows = merging.place(feeds)
        loop = asyncio.get_running_loop()
        if self._free and not self._groups and (not self.max_wait or rows >= min(self.rows, self._last)):  # no company, and none expected
            return await self._alone(feeds, outputs, rows, loop, lone)
        call = _Call(feeds, outputs, rows, loop)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = deque()
        group.append(call)
        if self._free:
            self._dispatch_at(loop, 0.0)  # after what else has come in by now
        try:
            return await call.future
        except asyncio.CancelledError:
            if call.task is not None and all(other.future.cancelled() for other in call.company):
                call.task.cancel()
            raise

    async def _alone(
        self, feeds: Arrays, outputs: Sequence[str], rows: int, loop: asyncio.AbstractEventLoop, lone: bool
    ) -> dict[str, np.ndarray]:
        self._free -= 1
        self._last = rows
        try:
            return await self._now(feeds, outputs, lone)
        finally:
            self._free += 1
            if self._groups:
                self._dispatch_at(loop, 0.0)

    async def _now(self, feeds: Arrays, outputs: Sequence[str], lone: bool) -> dict[str, np.ndarray]:
        """A run of one call, in a thread of the engine or, where it is lone and quick, here."""
        if not lone or self._quick is None:
            return await self.engine.arun(feeds, outputs)
        kind = _QuickCalls.kind_of(feeds)
        if self._quick.has(kind):
            begun = time.thread_time()  # a machine that is busy with other things does not make a call slow
            found = self.engine.run(feeds, outputs)
            if time.thread_time() - begun > QUICK:
                self._quick.was_slow(kind)
        else:
            begun = time.perf_counter()
            found = await self.engine.arun(feeds, outputs)
            if time.perf_counter() - begun <= QUICK:  # longer says nothing: it may have waited
                self._quick.was_quick(kind)
        return found

    def _dispatch_at(self, loop: asyncio.AbstractEventLoop, delay: float) -> None:
        if self._dispatch is not None:
            self._dispatch.cancel()
        self._dispatch = loop.call_later(delay, self._begin_runs, loop) if delay > 0 else loop.call_soon(self._begin_runs, loop)

    def _begin_runs(self, loop: asyncio.AbstractEventLoop) -> None:
        self._dispatch = None
        waits = None
        for key in list(self._groups):
            while self._free and (group := self._groups.get(key)):
                left = self._left_to_wait(group, loop.time())
                if left > 0:
                    waits = left if waits is None else min(waits, left)
                    break
                if calls := self._cut(key, group):
                    self._free -= 1
                    task = loop.create_task(self._serve(calls, loop))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
                    for call in calls:
                        call.task, call.company = task, calls
        if waits is not None and self._free:
            self._dispatch_at(loop, waits)

    def _left_to_wait(self, group: deque[_Call], now: float) -> float:
        if not self.max_wait or sum(call.rows for call in group) >= min(self.rows, self._last):
            return 0.0
        return min(group[0].arrived + self.max_wait, group[-1].arrived + self.max_wait * LULL) - now

    def _cut(self, key: Hashable, group: deque[_Call]) -> list[_Call]:
        """The calls of the next run: this place's share of those that wait, in the order in which they came."""
        share = min(self.rows, -(-sum(call.rows for call in group) // self._free))
        calls: list[_Call] = []
        rows = 0
        while group and (not calls or rows + group[0].rows <= share):
            call = group.popleft()
            if not call.future.done():  # cancelled
                calls.append(call)
                rows += call.rows
        del self._groups[key]
        if group:
            self._groups[key] = group  # behind the others
        if calls:
            self._last = rows
        return calls

    async def _serve(self, calls: Sequence[_Call], loop: asyncio.AbstractEventLoop) -> None:
        try:
            results = await self._merged(calls) if len(calls) > 1 else None
            for number, call in enumerate(calls):
                if call.future.done():
                    continue
                if results is not None:
                    call.future.set_result(results[number])
                    continue
                try:
                    found = await self.engine.arun(call.feeds, call.outputs)
                except Exception as error:  # noqa: BLE001 (the caller's to see, whatever it is)
                    if not call.future.done():
                        call.future.set_exception(error)
                else:
                    if not call.future.done():
                        call.future.set_result(found)
        finally:
            self._free += 1
            for call in calls:
                if not call.future.done():  # this task was cancelled from outside
                    call.future.cancel()
            if self._groups:
                self._dispatch_at(loop, 0.0)

    async def _merged(self, calls: Sequence[_Call]) -> list[dict[str, np.ndarray]] | None:
        """The results of one run; None where each has to run by itself: to see whose error it is, or because rows are mixed."""
        merging = self._merging
        if merging is None or self.rows == 1:
            return None
        feeds = [call.feeds for call in calls]
        wanted = list(dict.fromkeys(name for call in calls for name in call.outputs))
        try:
            results = merging.shared_out(await self.engine.arun(merging.joined(feeds), wanted), feeds)
            if not self._compared:
                self._compared = True
                if not alike_in_a_batch(await self.engine.arun(feeds[0], wanted), results[0]):
                    self.rows = 1
                    warnings.warn(
                        f"{self.engine!r} gives a row other results in a batch than alone: its rows are no separate requests, so each "
                        "request runs by itself from now on; start the server with --batch off",
                        RuntimeWarning,
                        stacklevel=2,
                    )
                    return None
        except Exception:  # noqa: BLE001 (whose fault it is shows where each runs alone and gets its own error)
            return None
        return [{name: result[name] for name in call.outputs} for call, result in zip(calls, results, strict=True)]


class _QuickCalls:
    """Kinds of calls that have been seen to take less than ``QUICK``."""

    def __init__(self) -> None:
        self._left: dict[Hashable, int] = {}  # quick runs that are still to be seen, by kind

    @staticmethod
    def kind_of(feeds: Arrays) -> Hashable:
        """Equal for calls that can be expected to take equally long; None for calls whose time nothing is known of beforehand."""
        kind = []
        for name, array in feeds.items():
            if array.dtype.hasobject:
                return None
            kind.append((name, array.shape, array.tobytes() if array.nbytes <= _SMALL else b""))
        return tuple(kind)

    def has(self, kind: Hashable) -> bool:
        """Whether calls of that kind may run in the event loop."""
        return self._left.get(kind) == 0

    def was_quick(self, kind: Hashable) -> None:
        """A call of that kind was, in a thread of the engine."""
        if kind is None:
            return
        self._left[kind] = max(0, self._left.get(kind, _TRIED) - 1)
        if len(self._left) > _MOST_KINDS:
            del self._left[next(iter(self._left))]

    def was_slow(self, kind: Hashable) -> None:
        """A call of that kind held up the event loop."""
        self._left[kind] = _TRIED_AGAIN


class _Call:
    """A request on its way."""

    __slots__ = ("arrived", "company", "feeds", "future", "outputs", "rows", "task")

    def __init__(self, feeds: Arrays, outputs: Sequence[str], rows: int, loop: asyncio.AbstractEventLoop) -> None:
        self.feeds, self.outputs, self.rows = feeds, outputs, rows
        self.future: asyncio.Future[dict[str, np.ndarray]] = loop.create_future()
        self.arrived = loop.time()
        self.task: asyncio.Task[None] | None = None  # of the run that it is in
        self.company: Sequence[_Call] = ()  # all that are in it
