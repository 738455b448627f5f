"""The models that are served: opened, replaced and closed without losing a request, and run with a bounded queue each."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from onnxferry.runtime.artifact.contract import kind_of
from onnxferry.runtime.artifact.zoo import find_model
from onnxferry.runtime.engine.runner import Runner
from onnxferry.runtime.errors import BusyError, InputError, OnnxFerryError, first_line
from onnxferry.runtime.onnx_file.values import TensorSpec
from onnxferry.runtime.server.errors import RETRY_AFTER, RequestError
from onnxferry.runtime.server.observe import Request
from onnxferry.runtime.server.opening import open_to_serve
from onnxferry.runtime.server.options import ModelSource, ServeOptions
from onnxferry.runtime.server.scheduling import Call, Done, outcome
from onnxferry.runtime.server.tensors import datatype_of
from onnxferry.runtime.server.text import TextQueue
from onnxferry.runtime.tasks.model import Model
from onnxferry.runtime.tasks.text_generator import TextGenerator


class ServedModel:
    """One version of a model, open. ``batch``: rows that requests are merged to at most; 1: each runs by itself."""

    def __init__(self, source: ModelSource, options: ServeOptions) -> None:
        self.name, self.version = source.name, source.version
        self.path: Path = find_model(source.source)
        opened = open_to_serve(self.path, options)
        self.model: Model = opened.model
        self.scheduler, self.measured = opened.scheduler, opened.measured
        self.engine: Runner = self.model.engine
        self.kind = kind_of(self.model.contract)
        self.inputs = {spec.name: spec for spec in (*self.engine.inputs, *self.engine.optional_inputs) if datatype_of(spec)}
        self.outputs = {spec.name: spec for spec in self.engine.outputs if datatype_of(spec)}
        self._all_outputs = list(self.outputs)
        self.layouts: dict[bytes, Any] = {}  # of bodies that have come, by their JSON
        self.max_queue = options.max_queue
        self.waiting = 0  # requests that run or wait
        self.users = 0  # requests that hold this version
        self.retired = False
        self._lock = threading.Lock()
        try:
            self.text = TextQueue(self.model, self.batch) if isinstance(self.model, TextGenerator) else None
        except BaseException:
            self.model.close()
            raise

    @property
    def batch(self) -> int:
        return self.scheduler.rows

    def input(self, name: str, given: Container[str] = ()) -> TensorSpec:
        """The input of that name. Raises InputError for a name that is no input, and for one that is ``given`` already."""
        spec = self.inputs.get(name)
        if spec is None:
            raise InputError(f"model {self.name!r} has no input {name[:60]!r}; it takes {', '.join(self.inputs)}")
        if name in given:
            raise InputError(f"input {name!r} is given twice")
        return spec

    async def infer(
        self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None, lone: bool = False
    ) -> dict[str, np.ndarray]:
        """The outputs by name, all that the protocol can carry if None. Cancelling takes the call back, or stops its run.

        ``lone``: no other request is under way, so that a quick run may hold up the event loop.
        Raises InputError for inputs and names that do not fit, BusyError where ``max_queue`` requests wait already.
        """
        return await outcome(lambda done: self.submit(feeds, outputs, done, lone))

    def submit(self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None, done: Done, lone: bool = False) -> Call:
        """As :meth:`infer`, without a task that waits: ``done`` is called once, in this event loop, perhaps before this returns."""
        for name in outputs or ():
            if name not in self.outputs:
                raise InputError(f"model {self.name!r} has no output {name[:60]!r}; it has {', '.join(self.outputs)}")
        self._count_in()

        def finished(found: dict[str, np.ndarray] | None, error: BaseException | None) -> None:
            self.waiting -= 1
            done(found, self._explained(error) if isinstance(error, InputError) else error)

        try:
            return self.scheduler.submit(feeds, outputs or self._all_outputs, finished, lone and self.waiting == 1)
        except InputError as error:
            self.waiting -= 1
            if (explained := self._explained(error)) is error:
                raise
            raise explained from error

    def _explained(self, error: InputError) -> InputError | RequestError:
        """The error, or what is said instead where a request before this one is to blame."""
        return opened_again(self.name) if self.broken else error

    @property
    def broken(self) -> bool:
        """Whether its confined process has ended."""
        return getattr(self.engine, "broken", False) is True

    @contextmanager
    def counted(self) -> Iterator[None]:
        """One more request. Raises BusyError where too many wait."""
        self._count_in()
        try:
            yield
        finally:
            self.waiting -= 1

    def _count_in(self) -> None:
        if self.waiting >= self.max_queue:
            raise BusyError(f"{self.waiting} requests are waiting for {self.name!r}")
        self.waiting += 1

    def hold(self) -> None:
        """The model stays open until :meth:`release`, also where it is replaced meanwhile."""
        with self._lock:
            self.users += 1

    def release(self) -> None:
        """A request is done with the model."""
        with self._lock:
            self.users -= 1
            last = self.retired and not self.users
        if last:
            self.model.close()

    def retire(self) -> None:
        """Closes the model once no request holds it."""
        with self._lock:
            self.retired = True
            last = not self.users
        if last:
            self.model.close()


class Repository:
    """The models by name and version. ``sources`` are what may be loaded: clients choose names, never paths."""

    def __init__(self, options: ServeOptions) -> None:
        self.options = options
        self.sources = {(source.name, source.version): source for source in options.models}
        names = {name for name, _ in self.sources}
        self._versions = {name: sorted((version for known, version in self.sources if known == name), key=int) for name in names}
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

    def find_for(self, request: Request, name: str, version: str | None) -> ServedModel:
        """As :meth:`find`, for a model that the caller may use. It stays open until the request is done."""
        request.check_model(name)
        served = self.find(name, version)
        request.model, request.version = served.name, served.version
        served.hold()
        request.held.append(served)
        return served

    def versions(self, name: str) -> list[str]:
        """From the lowest; none for a name that is unknown."""
        return list(self._versions.get(name, ()))

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


def shown(served: ServedModel) -> dict[str, Any]:
    """One line about a model, for the start of the server and the log."""
    about = {"model": served.name, "version": served.version, "kind": served.kind.name, "batch": served.batch}
    return {**about, "gain": round(served.measured.gain, 2), "threads": served.engine.threads, "runs": served.scheduler.at_once}
