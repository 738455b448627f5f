"""How a model is opened to be served: its threads, how many runs at a time, and how many requests share one, measured at start.

A run by one thread loses nothing to the threads' waiting for each other, so that as many of them at a time as there are CPUs often serve
more requests than one run at a time by all threads; a lone request then takes longer. So one thread is chosen where the model is small.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxferry.runtime.engine.merging import Merging
from onnxferry.runtime.engine.runner import Runner
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.machine.cpu import available_cpus
from onnxferry.runtime.sandbox.child import SandboxLimits
from onnxferry.runtime.server.options import ServeOptions
from onnxferry.runtime.server.scheduling import Scheduler
from onnxferry.runtime.tasks.loading import load
from onnxferry.runtime.tasks.model import Model
from onnxferry.runtime.tuning.inputs import make_feeds

MAX_BATCH = 32

MIN_GAIN = 1.1
"""Rows in a batch must run this many times as fast as alone, or requests are not merged: merging has a cost of its own."""

PATIENT_GAIN = 2.0
"""From here on a free place waits for company (``--max-wait``): below, the time that it is idle costs more than merging gains."""

SMALL = 0.01
"""Seconds: a row that one thread runs in less is not worth a second thread's help."""

CLEARLY = 1.25
"""All threads must be so much faster than several runs at a time: they also wait for each other in a loop, which takes CPU time from the
rest of the server.
"""

_ROWS = 8

_LEAST_SECONDS = 10.0
"""That opening a file in a confined process, or a run of it, may take."""

_MEASURED = 0.2
"""Seconds that a way to run is measured."""

Feeds = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Opened:
    """An open model, and how its requests are run. ``gain``: of a row in a batch of 8 over one alone; 0 where it was not measured."""

    model: Model
    scheduler: Scheduler
    gain: float = 0.0


def open_to_serve(path: Path, options: ServeOptions) -> Opened:
    """Opens a model as the options say, and measures what they leave open. Raises what opening it raises, and InputError for ``--batch``
    with a number where requests cannot be merged.
    """
    model = _opened(path, options)
    try:
        return _scheduled(path, model, options)
    except BaseException:
        model.close()
        raise


def _opened(path: Path, options: ServeOptions) -> Model:
    if options.isolated:
        return load(path, isolated=SandboxLimits(seconds=max(_LEAST_SECONDS, options.timeout)), threads=options.threads)
    threads = options.threads
    if threads is None and options.workers > 1 and not options.tune:
        threads = _cpus(options)
    return load(path, device=options.device, threads=threads, tune=options.tune)


def _cpus(options: ServeOptions) -> int:
    """CPUs for one worker process."""
    return max(1, available_cpus() // options.workers)


def _scheduled(path: Path, model: Model, options: ServeOptions) -> Opened:
    cpus = _cpus(options)
    speed = _Speed.of(model.engine) if options.batch == "auto" or _chooses_threads(model.engine, options) else None
    if speed is not None and _chooses_threads(model.engine, options):
        model, speed = _best_threads(path, model, speed, options)
    engine = model.engine
    in_loop = not options.isolated and engine.device == "cpu"  # a child process, or a GPU that fails, may keep a run waiting
    at_once = max(1, cpus // engine.threads) if in_loop else 1
    if options.batch == "auto":
        gain = speed.gain if speed is not None else 0.0
        if gain < MIN_GAIN:
            return Opened(model, Scheduler(engine, at_once, in_loop=in_loop), gain)
        return Opened(model, Scheduler(engine, at_once, MAX_BATCH, options.max_wait if gain >= PATIENT_GAIN else 0.0, in_loop), gain)
    rows = 1 if options.batch == "off" else int(options.batch)
    return Opened(model, Scheduler(engine, at_once, rows, options.max_wait, in_loop))


def _chooses_threads(engine: Runner, options: ServeOptions) -> bool:
    return options.threads is None and not options.isolated and not options.tune and engine.device == "cpu" and engine.threads > 1


def _best_threads(path: Path, model: Model, speed: _Speed, options: ServeOptions) -> tuple[Model, _Speed]:
    """The model on one thread, with several runs at a time, where that serves as many requests or more; else as it is."""
    single = load(path, device="cpu", threads=1)
    alone = _Speed.of(single.engine)
    if alone is None or alone.one > max(SMALL, 1.5 * speed.one) or CLEARLY * alone.rate(_cpus(options)) < speed.rate(1):
        single.close()
        return model, speed
    model.close()
    return single, alone


class _Speed:
    """What a run takes: ``one``: seconds of a single row; ``gain``: how many times as fast a row is in a batch, 0 if none can be made."""

    def __init__(self, engine: Runner, one: Feeds, many: Feeds | None) -> None:
        self.engine, self._feeds, rows = engine, one, 1
        self.one, best = _least_seconds(engine, [one, *([] if many is None else [many])])
        self.gain = 0.0 if many is None else _ROWS * self.one / best
        if many is not None and self.gain >= MIN_GAIN:
            self._feeds, rows = many, _ROWS
        self._rows = rows

    @classmethod
    def of(cls, engine: Runner) -> _Speed | None:
        """None for a model that no input can be made for."""
        try:
            one = make_feeds(engine.contract, engine.inputs, 1, 1)[0]
            engine.run(one)
        except InputError:
            return None
        try:
            Merging(engine)
            many = make_feeds(engine.contract, engine.inputs, _ROWS, 1)[0]
            engine.run(many)
        except InputError:  # no batch axis, or rows that must not share a run
            return cls(engine, one, None)
        return cls(engine, one, many)

    def rate(self, at_once: int) -> float:
        """Rows a second by that many runs at a time."""
        done = [0] * at_once
        begun = time.perf_counter()

        def run(place: int) -> None:
            while time.perf_counter() - begun < _MEASURED:
                self.engine.run(self._feeds)
                done[place] += self._rows

        threads = [threading.Thread(target=run, args=(place,)) for place in range(at_once)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(done) / (time.perf_counter() - begun)


def _least_seconds(engine: Runner, choices: list[Feeds]) -> tuple[float, float]:
    """Of the first and the last of ``choices``: the best of some runs in turns, within about a second."""
    best = [float("inf")] * len(choices)
    begun = time.perf_counter()
    for _ in range(20):
        for place, feeds in enumerate(choices):
            start = time.perf_counter()
            engine.run(feeds)
            best[place] = min(best[place], time.perf_counter() - start)
        if time.perf_counter() - begun > 1:
            break
    return best[0], best[-1]
