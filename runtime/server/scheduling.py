"""Requests of one model to runs: some at a time, and several requests in one run where its rows cost less so.

Requests that come while all places are taken gather, and leave together. Everything happens in the event loop but the runs themselves.
"""

from __future__ import annotations

import asyncio
import time
import warnings
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence

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

Done = Callable[[dict[str, np.ndarray] | None, BaseException | None], None]
"""Takes the outputs of a call, or an error: a CancelledError where it was taken back, or its run stopped."""


class Call:
    """A request on its way."""

    __slots__ = ("_done", "arrived", "company", "feeds", "lone", "outputs", "over", "rows", "task")

    def __init__(self, feeds: Arrays, outputs: Sequence[str], done: Done, arrived: float, lone: bool = False, rows: int = 1) -> None:
        self.feeds, self.outputs, self.rows, self.lone = feeds, outputs, rows, lone
        self.arrived = arrived
        self.over = False
        self.task: asyncio.Task[None] | None = None  # of the run that it is in
        self.company: Sequence[Call] = ()  # all that are in it
        self._done = done

    def finish(self, found: dict[str, np.ndarray] | None, error: BaseException | None = None) -> None:
        """Gives the answer; a second one is ignored."""
        if not self.over:
            self.over = True
            self._done(found, error)

    def cancel(self) -> None:
        """Takes the call back, or stops its run if no other call is in it."""
        if self.over:
            return
        self.finish(None, asyncio.CancelledError())
        if self.task is not None and all(other.over for other in self.company):
            self.task.cancel()


async def outcome(begin: Callable[[Done], Call]) -> dict[str, np.ndarray]:
    """The outputs of the call that ``begin`` begins, which is cancelled with the task that waits for it. Raises the call's error."""
    future: asyncio.Future[dict[str, np.ndarray]] = asyncio.get_running_loop().create_future()

    def done(found: dict[str, np.ndarray] | None, error: BaseException | None) -> None:
        if future.done():
            return
        if found is not None:
            future.set_result(found)
        elif error is None or isinstance(error, asyncio.CancelledError):
            future.cancel()
        else:
            future.set_exception(error)

    call = begin(done)
    try:
        return await future
    except asyncio.CancelledError:
        call.cancel()
        raise


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
        self._groups: dict[Hashable, deque[Call]] = {}  # none of them empty; in the order in which they began to wait
        self._free = at_once
        self._last = rows  # of the run before; at first, company is expected
        self._dispatch: asyncio.Handle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, feeds: Arrays, outputs: Sequence[str], lone: bool = False) -> dict[str, np.ndarray]:
        """The outputs of that name. Cancelling takes the call back, or stops its run if no other call is in it.

        ``lone``: nothing else is under way in this event loop, and nothing is expected. Raises what the engine's ``arun`` raises.
        """
        return await outcome(lambda done: self.submit(feeds, outputs, done, lone))

    def submit(self, feeds: Arrays, outputs: Sequence[str], done: Done, lone: bool = False) -> Call:
        """As :meth:`run`, without a task that waits: ``done`` is called once, in this event loop.

        Where the call is run in the event loop, that is before this method returns. Raises InputError for what can be no call.
        """
        loop = asyncio.get_running_loop()
        merging = self._merging
        if merging is None:
            call = Call(feeds, outputs, done, 0.0, lone)
            if not self._run_here(call):
                self._begin((call,), loop)
            return call
        key, rows = merging.place(feeds)
        call = Call(feeds, outputs, done, loop.time(), lone, rows)
        if self._free and not self._groups and (not self.max_wait or rows >= min(self.rows, self._last)):  # no company, and none expected
            self._last = rows
            if not self._run_here(call):
                self._begin((call,), loop)
            return call
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = deque()
        group.append(call)
        if self._free:
            self._dispatch_at(loop, 0.0)  # after what else has come in by now
        return call

    def _begin(self, calls: Sequence[Call], loop: asyncio.AbstractEventLoop) -> None:
        """A run, which takes a place."""
        self._free -= 1
        task = loop.create_task(self._serve(calls))
        self._tasks.add(task)
        for call in calls:
            call.task, call.company = task, calls
        task.add_done_callback(lambda task: self._end(calls, task))  # a task that is cancelled before it begins does nothing

    def _end(self, calls: Sequence[Call], task: asyncio.Task[None] | None) -> None:
        """Gives the place of a run back, once."""
        if task not in self._tasks:
            return
        self._tasks.remove(task)
        self._free += 1
        for call in calls:  # where the task was cancelled
            call.finish(None, asyncio.CancelledError())
        if self._groups:
            self._dispatch_at(asyncio.get_running_loop(), 0.0)

    def _run_here(self, call: Call) -> bool:
        """Runs a lone call that is known to be quick, and says whether it was one."""
        if not call.lone or self._quick is None:
            return False
        kind = _QuickCalls.kind_of(call.feeds)
        if not self._quick.has(kind):
            return False
        begun = time.thread_time()  # a machine that is busy with other things does not make a call slow
        try:
            found = self.engine.run(call.feeds, call.outputs)
        except Exception as error:  # noqa: BLE001 (the caller's to see, whatever it is)
            call.finish(None, error)
            return True
        if time.thread_time() - begun > QUICK:
            self._quick.was_slow(kind)
        call.finish(found)
        return True

    async def _alone(self, call: Call) -> dict[str, np.ndarray]:
        """A run of one call, in a thread of the engine."""
        begun = time.perf_counter()
        found = await self.engine.arun(call.feeds, call.outputs)
        if call.lone and self._quick is not None and time.perf_counter() - begun <= QUICK:  # longer says nothing: it may have waited
            self._quick.was_quick(_QuickCalls.kind_of(call.feeds))
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
                    self._begin(calls, loop)
        if waits is not None and self._free:
            self._dispatch_at(loop, waits)

    def _left_to_wait(self, group: deque[Call], now: float) -> float:
        if not self.max_wait or sum(call.rows for call in group) >= min(self.rows, self._last):
            return 0.0
        return min(group[0].arrived + self.max_wait, group[-1].arrived + self.max_wait * LULL) - now

    def _cut(self, key: Hashable, group: deque[Call]) -> list[Call]:
        """The calls of the next run: this place's share of those that wait, in the order in which they came."""
        share = min(self.rows, -(-sum(call.rows for call in group) // self._free))
        calls: list[Call] = []
        rows = 0
        while group and (not calls or rows + group[0].rows <= share):
            call = group.popleft()
            if not call.over:  # cancelled
                calls.append(call)
                rows += call.rows
        del self._groups[key]
        if group:
            self._groups[key] = group  # behind the others
        if calls:
            self._last = rows
        return calls

    async def _serve(self, calls: Sequence[Call]) -> None:
        try:
            results = await self._merged(calls) if len(calls) > 1 else None
            for number, call in enumerate(calls):
                if call.over:
                    continue
                if results is not None:
                    call.finish(results[number])
                    continue
                try:
                    found = await self._alone(call)
                except Exception as error:  # noqa: BLE001 (the caller's to see, whatever it is)
                    call.finish(None, error)
                else:
                    call.finish(found)
        finally:
            self._end(calls, calls[0].task)

    async def _merged(self, calls: Sequence[Call]) -> list[dict[str, np.ndarray]] | None:
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
