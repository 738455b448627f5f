"""Concurrent single calls, merged into batches: for servers and apps, where many callers each bring one input.

    with Batcher(load("digits"), max_batch_size=32, max_wait=0.005) as batcher:
        batcher.run("three.png").label              # from any number of threads
        (await batcher.arun("seven.png")).label     # or from coroutines
        batcher.submit("five.png").result().label   # or as a future

Calls whose inputs fit together (the same names, dtypes and sizes but for the batch) run together. While one batch runs the next
one gathers. It leaves when it is full, when it is as large as the one before (who waits for an answer comes back with the next
question: as many as last time are all there are), when its oldest call has waited ``max_wait``, or when nothing has joined it
for a tenth of that. So a lone caller waits with its first call only, for that tenth, and a crowd waits for its own.
"""

from __future__ import annotations

import math
import os
import threading
import time
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, NoReturn, Protocol, Self

import numpy as np

from onnxferry.runtime import interruption
from onnxferry.runtime.arguments import whole_number
from onnxferry.runtime.artifact.comparison import alike_in_a_batch
from onnxferry.runtime.engine import forks
from onnxferry.runtime.engine.merging import Merging
from onnxferry.runtime.engine.runner import Runner
from onnxferry.runtime.errors import BusyError, InputError
from onnxferry.runtime.images.decode import decode_image, with_channels
from onnxferry.runtime.tasks.classifier import Classifier
from onnxferry.runtime.tasks.model import Model

LULL = 0.1
"""A batch that nothing joined for this share of ``max_wait`` leaves early."""


class Batcher:
    """Merges concurrent calls of one model. The results are those of single calls, up to float32's rounding.

    ``model``: a :class:`Classifier`, whose items are single images, as ``predict`` takes them, and whose results are
    :class:`Prediction`; or any other model or engine, whose items are feeds as ``run`` takes them, with a leading batch
    axis of one or more rows, and whose results are its outputs for those rows. The first answer out of a merged run is compared with
    that of the call alone: where a model mixes the rows of a batch (batch normalization in training mode, for example), a RuntimeWarning
    says so, and every call runs by itself from then on.
    ``max_batch_size``: most rows in one run. ``max_wait``: seconds that a call waits for company at most; 0 merges only what
    comes while another batch runs. ``max_queue``: calls that may wait; one more raises :class:`BusyError`.
    ``max_queue_bytes``: bytes of their inputs, likewise; a call that is larger alone is taken by an empty queue.
    ``assume_batched``: for a file that does not name its axes: True states that the first axis of its inputs with an open first axis,
    and of all its outputs, is the batch. A file that names them needs no such statement, and cannot be overruled by it.

    One background thread runs the batches; it starts with the first call and ends with :meth:`close`, which finishes what has been
    taken in. The model stays the caller's to close.

    Raises InputError for options that make no sense, for a model without a batch axis, for one with an output whose first axis is not
    the batch, and for one whose rows must run alone (of those three only where ``max_batch_size`` is above 1).
    """

    def __init__(
        self,
        model: Model | Runner,
        *,
        max_batch_size: int = 32,
        max_wait: float = 0.005,
        max_queue: int = 1024,
        max_queue_bytes: int = 2**30,
        assume_batched: bool = False,
    ) -> None:
        self.max_batch_size = whole_number("max_batch_size", max_batch_size)
        self.max_queue = whole_number("max_queue", max_queue)
        self.max_queue_bytes = whole_number("max_queue_bytes", max_queue_bytes)
        if isinstance(max_wait, bool) or not isinstance(max_wait, int | float) or not 0 <= max_wait < math.inf:
            raise InputError(f"max_wait must be a number of seconds >= 0, got {max_wait!r}")
        self.max_wait = float(max_wait)
        engine = model.engine if isinstance(model, Model) else model
        if not isinstance(engine, Runner):
            raise InputError(f"a batcher takes an open model or engine, got {type(model).__name__}; open it with load(...) first")
        merging = Merging(engine, bool(assume_batched)) if self.max_batch_size > 1 else None
        self._work: _Work = _Images(model) if isinstance(model, Classifier) else _Feeds(model, merging)
        self._queue = _Queue(self._work, self.max_batch_size, self.max_wait, self.max_queue, self.max_queue_bytes)
        self._queue.compared = bool(engine.contract and engine.contract.family)  # those trained here mix no rows
        # The thread knows the queue alone, so a batcher without references is closed; at the interpreter's end too.
        self._finalizer = weakref.finalize(self, self._queue.close)

    def run(self, item: Any, timeout: float = 0.0) -> Any:
        """The result for one item; waits for it. Arguments and errors as of :meth:`submit`, and whatever the model raises for it.

        Raises InputError in a callback of a future of this batcher: it would wait for the thread that it runs in.
        """
        if self._queue.thread is threading.current_thread():
            raise InputError("run() in a future's callback would wait for itself for ever; use submit(...) and another callback")
        return self.submit(item, timeout).result()

    async def arun(self, item: Any) -> Any:
        """As :meth:`run` for coroutines: the event loop goes on meanwhile. A full queue raises BusyError at once."""
        import asyncio  # here already, where a coroutine calls

        decoded = item if isinstance(item, np.ndarray | Mapping) else await asyncio.to_thread(self._work.opened, item)
        return await asyncio.wrap_future(self.submit(decoded))

    def submit(self, item: Any, timeout: float = 0.0) -> Future[Any]:
        """A future of the result. The item's arrays must stay as they are until it is done.

        ``timeout``: seconds to wait for room where the queue is full. A future that is cancelled before its batch leaves costs
        nothing. Raises BusyError where the queue stays full, InputError for an item that cannot be one and for a closed batcher.
        """
        queue = self._queue
        call = _Call(lambda: queue.thread, *self._work.prepared(item))
        self._queue.put(call, timeout)
        return call.future

    def close(self) -> None:
        """Takes no more calls, finishes those it has, and ends its thread. Closing twice is fine."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise InputError("a batcher cannot be pickled or copied: make one in each process with Batcher(load(path))")

    def __repr__(self) -> str:
        limits = f"max_batch_size={self.max_batch_size}, max_wait={self.max_wait:g}, max_queue={self.max_queue}"
        return f"Batcher({self._work}, {limits}{'' if self._finalizer.alive else ', closed'})"


class _Answer(Future[Any]):
    """A result to come. On the batcher's own thread, where callbacks run, waiting for it is an error: nothing else would make it."""

    def __init__(self, own_thread: Callable[[], threading.Thread | None]) -> None:
        super().__init__()
        self._own_thread = own_thread

    def result(self, timeout: float | None = None) -> Any:
        self._refuse_to_wait()
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self._refuse_to_wait()
        return super().exception(timeout)

    def _refuse_to_wait(self) -> None:
        if not self.done() and self._own_thread() is threading.current_thread():
            raise InputError("a future's callback would wait for its own thread for ever; give the future that it waits for a callback")


class _Call:
    """One item on its way."""

    __slots__ = ("arrived", "future", "key", "nbytes", "payload", "rows")

    def __init__(self, own_thread: Callable[[], threading.Thread | None], key: Hashable, payload: Any, rows: int) -> None:
        self.key, self.payload, self.rows = key, payload, rows
        self.future = _Answer(own_thread)
        self.arrived = 0.0
        arrays = payload.values() if isinstance(payload, Mapping) else (payload,)
        self.nbytes = sum(getattr(array, "nbytes", 0) for array in arrays)


class _Work(Protocol):
    """What a batcher does with items of one kind."""

    def opened(self, item: Any) -> Any:
        """What is slow of getting an item ready: done outside of an event loop."""

    def prepared(self, item: Any) -> tuple[Hashable, Any, int]:
        """Which items it may run with, what is run, and how many rows of a batch it fills. Raises InputError."""

    def results(self, payloads: Sequence[Any]) -> list[Any]:
        """One run of items that fit together."""


class _Images:
    """A recogniser's: one image in, one prediction out."""

    def __init__(self, model: Classifier) -> None:
        self.model = model

    def __repr__(self) -> str:
        return repr(self.model)

    def opened(self, item: Any) -> np.ndarray:
        return with_channels(decode_image(item), self.model.channels)

    def prepared(self, item: Any) -> tuple[Hashable, Any, int]:
        image = self.opened(item)
        return image.shape, image, 1

    def results(self, payloads: Sequence[Any]) -> list[Any]:
        predictions = dict(self.model.predict_each(enumerate(payloads), len(payloads)))
        return [predictions[position] for position in range(len(payloads))]


class _Feeds:
    """Any model's: feeds in, outputs out."""

    def __init__(self, model: Model | Runner, merging: Merging | None) -> None:
        self.model, self.merging = model, merging  # None: every item runs by itself

    def __repr__(self) -> str:
        return repr(self.model)

    def opened(self, item: Any) -> Any:
        return item

    def prepared(self, item: Any) -> tuple[Hashable, Any, int]:
        if self.merging is not None:
            key, rows = self.merging.place(item)
            return key, item, rows
        if not isinstance(item, Mapping):
            raise InputError(f"an item must be a dict of arrays by input name, got {type(item).__name__}")
        return object(), item, 1

    def results(self, payloads: Sequence[Any]) -> list[Any]:
        if len(payloads) == 1 or self.merging is None:
            return [self.model.run(payload) for payload in payloads]
        return self.merging.shared_out(self.model.run(self.merging.joined(payloads)), payloads)


class _Group:
    """Calls that may run together, in the order in which they came."""

    __slots__ = ("calls", "rows")

    def __init__(self) -> None:
        self.calls: deque[_Call] = deque()
        self.rows = 0

    def append(self, call: _Call) -> None:
        self.calls.append(call)
        self.rows += call.rows

    def popleft(self) -> _Call:
        call = self.calls.popleft()
        self.rows -= call.rows
        return call


class _Queue:
    """Calls that wait, by what they may run with, and the thread that runs them."""

    def __init__(self, work: _Work, max_batch_size: int, max_wait: float, max_queue: int, max_queue_bytes: int) -> None:
        self.max_queue_bytes = max_queue_bytes
        self.work, self.max_batch_size, self.max_wait, self.max_queue = work, max_batch_size, max_wait, max_queue
        self.groups: dict[Hashable, _Group] = {}  # none of them empty
        self.waiting = 0  # calls in all groups
        self.nbytes = 0  # of their inputs
        self.compared = False  # whether a merged run has been compared with one alone
        self.last = max_batch_size  # rows of the batch before; at first, company is expected
        self.closed = False
        self.process = os.getpid()
        self.thread: threading.Thread | None = None
        self.lock = threading.RLock()  # a batcher may be collected, and so closed, by the thread that holds it
        self.changed = threading.Condition(self.lock)  # for the thread
        self.room = threading.Condition(self.lock)  # for callers who wait until the queue is shorter

    def put(self, call: _Call, timeout: float) -> None:
        forks.refuse_inherited(self.process, "the batcher", "Batcher(load(...))")
        with self.lock:
            if timeout > 0:
                self.room.wait_for(lambda: self.closed or self.has_room(call), timeout)
            if self.closed:
                raise InputError("the batcher is closed; make another one with Batcher(...)")
            if self.waiting >= self.max_queue:
                raise BusyError(
                    f"{self.waiting} calls are waiting already, as many as max_queue allows; send them more slowly, "
                    "wait for room with timeout=…, or raise max_queue"
                )
            if not self.has_room(call):
                raise BusyError(
                    f"the inputs that wait have {self.nbytes} bytes, and with {call.nbytes} more they are beyond max_queue_bytes; "
                    "send them more slowly, wait for room with timeout=…, or raise max_queue_bytes"
                )
            if self.thread is None or not self.thread.is_alive():
                self.start()
            call.arrived = time.monotonic()
            group = self.groups.setdefault(call.key, _Group())
            group.append(call)
            self.waiting += 1
            self.nbytes += call.nbytes
            # The thread sleeps until the first group may leave, which a later call only puts off: it need not wake for every one.
            if len(group.calls) == 1 or self.is_large(group):
                self.changed.notify()

    def has_room(self, call: _Call) -> bool:
        return self.waiting < self.max_queue and (not self.waiting or self.nbytes + call.nbytes <= self.max_queue_bytes)

    def start(self) -> None:
        """Starts the thread. Raises BusyError where the system has none left; the next call tries again."""
        self.thread = interruption.start_thread("the batcher", self.serve, "onnxferry-batcher")

    def close(self) -> None:
        if forks.inherited(self.process):  # the thread is the parent's, which may hold the lock as well
            self.closed = True
            return
        with self.lock:
            self.closed = True
            self.changed.notify_all()
            self.room.notify_all()
            thread = self.thread
        if thread is not None and thread is not threading.current_thread():  # a future's callback may be the one that closes
            thread.join()

    def serve(self) -> None:
        while batch := self.take():
            self.run(batch)

    def take(self) -> list[_Call]:
        """Waits for a batch that may leave; empty once the queue is closed and nothing waits."""
        with self.lock:
            while True:
                now = time.monotonic()
                ready, wake = None, math.inf
                for group in self.groups.values():
                    leaves = min(group.calls[0].arrived + self.max_wait, group.calls[-1].arrived + self.max_wait * LULL)
                    if not (self.closed or leaves <= now or self.is_large(group)):
                        wake = min(wake, leaves)
                    elif ready is None or group.calls[0].arrived < ready.calls[0].arrived:
                        ready = group
                if ready is not None:
                    return self.cut(ready)
                if self.closed:
                    return []
                self.changed.wait(None if wake == math.inf else wake - now)

    def is_large(self, group: _Group) -> bool:
        return group.rows >= min(self.max_batch_size, self.last)

    def cut(self, group: _Group) -> list[_Call]:
        """The calls of a group that fit one batch, at least one, in the order in which they came."""
        batch = [group.popleft()]
        rows = batch[0].rows
        while group.calls and rows + group.calls[0].rows <= self.max_batch_size:
            rows += group.calls[0].rows
            batch.append(group.popleft())
        if not group.calls:
            del self.groups[batch[0].key]
        self.last = rows
        self.waiting -= len(batch)
        self.nbytes -= sum(call.nbytes for call in batch)
        self.room.notify_all()
        return batch

    def run(self, batch: Sequence[_Call]) -> None:
        batch = [call for call in batch if call.future.set_running_or_notify_cancel()]
        results: list[Any] | None = None
        if len(batch) > 1:
            try:
                results = self.work.results([call.payload for call in batch])
                if not self.compared and not self.rows_are_independent(batch[0].payload, results[0]):
                    results = None
            except Exception:  # noqa: BLE001 (whose fault it is shows below, where each runs alone and gets its own error)
                results = None
        for position, call in enumerate(batch):
            try:
                call.future.set_result(self.work.results([call.payload])[0] if results is None else results[position])
            except Exception as error:  # noqa: BLE001 (the caller's to see, whatever it is)
                call.future.set_exception(error)

    def rows_are_independent(self, payload: Any, merged: Any) -> bool:
        """Whether the first result of a merged run is that of the call alone; if not, nothing is merged any more."""
        alone, merged = (_arrays(each) for each in (self.work.results([payload])[0], merged))
        self.compared = True
        if alike_in_a_batch(alone, merged):
            return True
        self.max_batch_size = 1
        warnings.warn(
            f"{self.work!r} gives a row other results in a batch than alone: its rows are no separate calls, so each call runs by itself "
            "from now on; use max_batch_size=1",
            RuntimeWarning,
            stacklevel=2,
        )
        return False


def _arrays(result: Any) -> Mapping[str, np.ndarray]:
    return result if isinstance(result, Mapping) else {"probabilities": result.probabilities}
