"""The models that are served: opened, replaced and closed without losing a request, and run with a bounded queue each."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from onnxferry.runtime.artifact.contract import kind_of
from onnxferry.runtime.artifact.zoo import find_model
from onnxferry.runtime.batcher import Batcher
from onnxferry.runtime.engine.runner import Runner
from onnxferry.runtime.errors import BusyError, InputError, OnnxFerryError, first_line
from onnxferry.runtime.onnx_file.values import TensorSpec
from onnxferry.runtime.sandbox.child import SandboxLimits
from onnxferry.runtime.server.access import Caller
from onnxferry.runtime.server.errors import RETRY_AFTER, RequestError
from onnxferry.runtime.server.options import ModelSource, ServeOptions
from onnxferry.runtime.server.tensors import datatype_of
from onnxferry.runtime.server.text import TextQueue
from onnxferry.runtime.tasks.loading import load
from onnxferry.runtime.tasks.model import Model
from onnxferry.runtime.tasks.text_generator import TextGenerator
from onnxferry.runtime.tuning.inputs import make_feeds

MAX_BATCH = 32

MIN_GAIN = 1.1
"""Rows in a batch must run this many times as fast as alone, or calls are not merged: merging has a cost of its own."""

_MEASURED_ROWS = 8

_LEAST_SECONDS = 10.0
"""That opening a file in a confined process, or a run of it, may take."""


class ServedModel:
    """One version of a model, open. ``batch``: rows that requests are merged to at most; 1: each runs by itself."""

    def __init__(self, source: ModelSource, options: ServeOptions) -> None:
        self.name, self.version = source.name, source.version
        self.path: Path = find_model(source.source)
        self.model: Model
        if options.isolated:
            limits = SandboxLimits(seconds=max(_LEAST_SECONDS, options.timeout))
            self.model = load(self.path, isolated=limits, threads=options.threads)
        else:
            self.model = load(self.path, device=options.device, threads=options.threads, tune=options.tune)
        self.engine: Runner = self.model.engine
        self.kind = kind_of(self.model.contract)
        self.inputs = {spec.name: spec for spec in (*self.engine.inputs, *self.engine.optional_inputs) if datatype_of(spec)}
        self.outputs = {spec.name: spec for spec in self.engine.outputs if datatype_of(spec)}
        self.max_queue = options.max_queue
        self.waiting = 0  # requests that run or wait
        self.users = 0  # requests that hold this version
        self.retired = False
        self._lock = threading.Lock()
        try:
            self.batcher, self.gain = _batcher(self.engine, options)
            self.text = TextQueue(self.model, MAX_BATCH if self.batcher else 1) if isinstance(self.model, TextGenerator) else None
        except BaseException:
            self.model.close()
            raise

    @property
    def batch(self) -> int:
        return self.batcher.max_batch_size if self.batcher else 1

    def input(self, name: str, given: Container[str] = ()) -> TensorSpec:
        """The input of that name. Raises InputError for a name that is no input, and for one that is ``given`` already."""
        spec = self.inputs.get(name)
        if spec is None:
            raise InputError(f"model {self.name!r} has no input {name[:60]!r}; it takes {', '.join(self.inputs)}")
        if name in given:
            raise InputError(f"input {name!r} is given twice")
        return spec

    async def infer(self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """The outputs by name, all that the protocol can carry if None. Cancelling takes the call back, or stops its run.

        Raises InputError for inputs and names that do not fit, BusyError where ``max_queue`` requests wait already.
        """
        for name in outputs or ():
            if name not in self.outputs:
                raise InputError(f"model {self.name!r} has no output {name[:60]!r}; it has {', '.join(self.outputs)}")
        wanted = list(outputs or self.outputs)
        with self.counted():
            try:
                if self.batcher is None:
                    return await self.engine.arun(feeds, wanted)
                answer = await asyncio.wrap_future(self.batcher.submit(feeds))
            except InputError as error:
                if self.broken:  # by a request before this one
                    raise opened_again(self.name) from error
                raise
            return {name: answer[name] for name in wanted}

    @property
    def broken(self) -> bool:
        """Whether its confined process has ended."""
        return getattr(self.engine, "broken", False) is True

    @contextmanager
    def counted(self) -> Iterator[None]:
        """One more request. Raises BusyError where too many wait."""
        if self.waiting >= self.max_queue:
            raise BusyError(f"{self.waiting} requests are waiting for {self.name!r}")
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1

    @contextmanager
    def held(self) -> Iterator[ServedModel]:
        """The model stays open within, also where it is replaced meanwhile."""
        with self._lock:
            self.users += 1
        try:
            yield self
        finally:
            with self._lock:
                self.users -= 1
                last = self.retired and not self.users
            if last:
                self._close()

    def retire(self) -> None:
        """Closes the model once no request holds it."""
        with self._lock:
            self.retired = True
            last = not self.users
        if last:
            self._close()

    def _close(self) -> None:
        if self.batcher is not None:
            self.batcher.close()
        self.model.close()


class Repository:
    """The models by name and version. ``sources`` are what may be loaded: clients choose names, never paths."""

    def __init__(self, options: ServeOptions) -> None:
        self.options = options
        self.sources = {(source.name, source.version): source for source in options.models}
        self.open: dict[tuple[str, str], ServedModel] = {}
        self.reasons: dict[tuple[str, str], str] = {}  # why a model that is known is not open
        self.ready = False
        self._loading = asyncio.Lock()
        self._reopened: dict[str, asyncio.Task[None]] = {}  # models whose confined process has ended

    def open_all(self) -> None:
        """Opens every model. Raises what opening one raises; then none is open."""
        try:
            for key, source in self.sources.items():
                self.open[key] = ServedModel(source, self.options)
        except BaseException:
            self.close()
            raise
        self.ready = True

    def find(self, name: str, version: str | None = None) -> ServedModel:
        """The model; of several versions the highest where none is given. Raises RequestError 404 or, for one that is not open, 503.

        A model whose confined process has ended is opened again meanwhile.
        """
        versions = self.versions(name)
        if not versions:
            raise RequestError(404, f"there is no model {name[:60]!r} here; there are {', '.join(sorted({n for n, _ in self.sources}))}")
        if version and version not in versions:
            raise RequestError(404, f"model {name!r} has no version {version[:60]!r}; it has {', '.join(versions)}")
        for candidate in (version,) if version else reversed(versions):
            if found := self.open.get((name, candidate)):
                if found.broken:
                    self._reopen(name)
                    raise opened_again(name)
                return found
        raise RequestError(503, f"model {name!r} is not loaded")

    def find_for(self, caller: Caller, name: str, version: str | None, facts: dict[str, Any]) -> ServedModel:
        """As :meth:`find`, for a model that the caller may use; its name and version are noted in ``facts``."""
        caller.check_model(name)
        served = self.find(name, version)
        facts["model"], facts["version"] = served.name, served.version
        return served

    def versions(self, name: str) -> list[str]:
        return sorted((version for known, version in self.sources if known == name), key=int)

    def index(self, ready: bool = False) -> list[dict[str, str]]:
        """Name, version, state (READY or UNAVAILABLE) and reason of every model; ``ready``: of those that are."""
        rows = [
            {
                "name": name,
                "version": version,
                "state": "READY" if (name, version) in self.open else "UNAVAILABLE",
                "reason": "" if (name, version) in self.open else self.reasons.get((name, version), "not loaded"),
            }
            for name, version in sorted(self.sources, key=lambda key: (key[0], int(key[1])))
        ]
        return [row for row in rows if row["state"] == "READY"] if ready else rows

    def _reopen(self, name: str) -> None:
        async def again() -> None:
            try:
                with contextlib.suppress(RequestError):  # the next request tries it again
                    await self.reload(name)
            finally:
                del self._reopened[name]

        if name not in self._reopened:
            self._reopened[name] = asyncio.get_running_loop().create_task(again())

    async def load(self, name: str) -> None:
        """Opens a model's file again, for a client. Raises RequestError where clients may not, and for a file that cannot be opened."""
        self._check_changeable(name)
        await self.reload(name)

    async def reload(self, name: str) -> None:
        """Opens all versions of a model again and replaces the open ones; requests that run keep the old ones."""
        async with self._loading:
            for version in self.versions(name):
                key = name, version
                try:
                    opened = await asyncio.to_thread(ServedModel, self.sources[key], self.options)
                except OnnxFerryError as error:
                    reason = first_line(error).replace(self.sources[key].source, name)
                    if key not in self.open:
                        self.reasons[key] = reason
                    raise RequestError(400, f"model {name!r} cannot be loaded: {reason}") from error
                self.reasons.pop(key, None)
                older = self.open.get(key)
                self.open[key] = opened
                if older is not None:
                    await asyncio.to_thread(older.retire)

    async def unload(self, name: str) -> None:
        """Closes a model once its requests are done; later ones are answered with 503."""
        self._check_changeable(name)
        for version in self.versions(name):
            self.reasons[name, version] = "unloaded"
            if older := self.open.pop((name, version), None):
                await asyncio.to_thread(older.retire)

    def _check_changeable(self, name: str) -> None:
        if not self.options.repository:
            raise RequestError(403, "loading and unloading models is off; start the server with --allow-loading")
        if not self.versions(name):
            raise RequestError(404, f"there is no model {name[:60]!r} here")
        if self.options.workers > 1:
            raise RequestError(409, "this server has several worker processes: send SIGHUP to its main process to load all models again")

    @property
    def private_names(self) -> list[tuple[Path | None, str]]:
        """Paths, with the names that clients know instead."""
        return [(served.path, served.name) for served in self.open.values()]

    def close(self) -> None:
        """Closes every model once its requests are done."""
        self.ready = False
        for served in self.open.values():
            served.retire()
        self.open = {}


def opened_again(name: str) -> RequestError:
    return RequestError(503, f"the confined process of model {name!r} has ended, and the model is opened again", RETRY_AFTER)


def _batcher(engine: Runner, options: ServeOptions) -> tuple[Batcher | None, float]:
    """Merges requests where that was asked for, or where a batch costs less than its rows; with the measured gain, 0 if not measured."""
    if options.batch == "off" or options.batch == "1":
        return None, 0.0
    rows = MAX_BATCH if options.batch == "auto" else int(options.batch)
    try:
        batcher = Batcher(engine, max_batch_size=rows, max_wait=options.max_wait, max_queue=options.max_queue)
        if options.batch != "auto":
            return batcher, 0.0
        gain = _gain(engine)
    except InputError:
        if options.batch != "auto":
            raise
        return None, 0.0  # no batch axis, or rows that must not share a run
    if gain >= MIN_GAIN:
        return batcher, gain
    batcher.close()
    return None, gain


def _gain(engine: Runner) -> float:
    """How many times as fast a row is in a batch of 8 as alone; the best of some runs in turns, within about a second."""
    one, many = (make_feeds(engine.contract, engine.inputs, rows, 1)[0] for rows in (1, _MEASURED_ROWS))
    engine.run(one), engine.run(many)
    best = [float("inf"), float("inf")]
    begun = time.perf_counter()
    for turn in range(20):
        for place, feeds in enumerate((one, many)):
            start = time.perf_counter()
            engine.run(feeds)
            best[place] = min(best[place], time.perf_counter() - start)
        if turn >= 2 and time.perf_counter() - begun > 1:
            break
    return _MEASURED_ROWS * best[0] / best[1]


def shown(served: ServedModel) -> dict[str, Any]:
    """One line about a model, for the start of the server and the log."""
    return {"model": served.name, "version": served.version, "kind": served.kind.name, "batch": served.batch, "gain": round(served.gain, 2)}
