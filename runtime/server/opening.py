"""How a model is opened to be served: its threads, how many runs at a time, and how many requests share one, measured at start.

A run by one thread loses nothing to the threads' waiting for each other, so that as many of them at a time as there are CPUs often serve
more requests than one run at a time by all threads; a lone request then takes longer. So one thread is chosen where the model is small.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxferry.runtime.artifact.describe import describe
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.engine.merging import Merging
from onnxferry.runtime.engine.open import identity_of
from onnxferry.runtime.engine.runner import Runner
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.machine.cpu import available_cpus
from onnxferry.runtime.sandbox.child import SandboxLimits
from onnxferry.runtime.server.options import Measured, ServeOptions
from onnxferry.runtime.server.scheduling import Scheduler
from onnxferry.runtime.tasks.loading import load
from onnxferry.runtime.tasks.model import Model
from onnxferry.runtime.tuning.inputs import make_feeds

BATCHES = (8, 16, 32)
"""Rows that a run may have at most. The first, whose answers come soonest, where a row costs next to no less in the others."""

MIN_GAIN = 1.1
"""Rows in a batch must be served this many times as fast as alone, or requests are not merged: merging has a cost of its own."""

NO_LESS = 0.97
"""A larger batch must bring a row's time below this share of a smaller one's. Runs of few rows keep all CPUs busy: where two runs hold
all requests that there are, the CPU of the one that ends first waits until they have been answered and the next ones have come.
"""

HAND_OVER = 0.0001
"""Seconds of CPU time that a run takes beside the model's own, on its way to a thread and back (``bench_serve.py``, ``server_cpu_ms`` with
and without merging, 0.1 to 0.2 ms): what requests in one run share, too.
"""

PATIENT_GAIN = 2.0
"""From here on a free place waits for company (``--max-wait``): below, the time that it is idle costs more than merging gains."""

SMALL = 0.01
"""Seconds: a row that one thread runs in less is not worth a second thread's help."""

CLEARLY = 1.25
"""All threads must be so much faster than several runs at a time: they also wait for each other in a loop, which takes CPU time from the
rest of the server.
"""

_LEAST_SECONDS = 10.0
"""That opening a file in a confined process, or a run of it, may take."""

_MEASURED = 0.2
"""Seconds that a way to run is measured."""

Feeds = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Opened:
    """An open model, how its requests are run, and what that was chosen by."""

    model: Model
    scheduler: Scheduler
    measured: Measured


def open_to_serve(path: Path, options: ServeOptions) -> Opened:
    """Opens a model as the options say, and measures what they leave open. Raises what opening it raises, and InputError for ``--batch``
    with a number where requests cannot be merged.
    """
    identity = identity_of(describe(path)) if options.measured else None
    known = options.measured.get(identity) if identity is not None else None
    model = _opened(path, options, known)
    try:
        if known is None:
            model, known = _measured(path, model, options)
        return Opened(model, _scheduler(model.engine, known, options), known)
    except BaseException:
        model.close()
        raise


def _opened(path: Path, options: ServeOptions, known: Measured | None) -> Model:
    if options.isolated:
        return load(path, isolated=SandboxLimits(seconds=max(_LEAST_SECONDS, options.timeout)), threads=options.threads)
    threads = options.threads
    if threads is None and not options.tune:
        threads = known.threads if known is not None else _cpus(options) if options.workers > 1 else None
    return load(path, device=options.device, threads=threads, tune=options.tune)


def _cpus(options: ServeOptions) -> int:
    """CPUs for one worker process."""
    return max(1, available_cpus() // options.workers)


def _scheduler(engine: Runner, known: Measured, options: ServeOptions) -> Scheduler:
    in_loop = not options.isolated and engine.device == "cpu"  # a child process, or a GPU that fails, may keep a run waiting
    at_once = max(1, _cpus(options) // engine.threads) if in_loop else 1
    if options.batch == "auto":
        patience = options.max_wait if known.rows > 1 and known.gain >= PATIENT_GAIN else 0.0
        return Scheduler(engine, at_once, known.rows, patience, in_loop)
    rows = 1 if options.batch == "off" else int(options.batch)
    return Scheduler(engine, at_once, rows, options.max_wait, in_loop)


def _measured(path: Path, model: Model, options: ServeOptions) -> tuple[Model, Measured]:
    """The model, opened again where another number of threads is better, and what was found."""
    plain = not options.isolated and not options.tune and model.engine.device == "cpu"
    choose = plain and options.threads is None and model.engine.threads > 1
    speed = _Speed.of(model.engine) if choose or options.batch == "auto" else None
    if speed is not None and choose:
        model, speed = _best_threads(path, model, speed, options)
    threads = model.engine.threads
    return model, Measured(threads) if speed is None else Measured(threads, speed.rows, speed.gain)


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
    """What a run takes. ``one``: seconds of a single row; ``rows``: of the batch to run, 1 where none is faster; ``gain``: how many times
    as fast the model is with a row in a batch, 0 if none can be made.
    """

    def __init__(self, engine: Runner, choices: Mapping[int, Feeds]) -> None:
        """``choices``: inputs by their number of rows, with one for a single row."""
        self.engine = engine
        seconds = _least_seconds(engine, choices)
        self.one = seconds[1]
        a_row = {rows: (whole + HAND_OVER) / rows for rows, whole in seconds.items()}
        self.gain, self.rows = 0.0, 1
        for rows, each in a_row.items():
            if rows > 1 and (self.rows == 1 or each < NO_LESS * a_row[self.rows]):
                self.gain, self.rows = rows * self.one / seconds[rows], rows
        if self.gain >= PATIENT_GAIN:
            self.rows = BATCHES[-1]
        elif MIN_GAIN * a_row[self.rows] > a_row[1]:
            self.rows = 1
        self._timed = min(self.rows, max(choices))
        self._feeds = choices[self._timed]

    @classmethod
    def of(cls, engine: Runner) -> _Speed | None:
        """None for a model that no input can be made for."""
        try:
            one = make_feeds(engine.contract, engine.inputs, 1, 1)[0]
            engine.run(one)
        except InputError:
            return None
        choices = {1: one}
        try:
            Merging(engine)
            begun = time.perf_counter()
            for rows in BATCHES:
                many = make_feeds(engine.contract, engine.inputs, rows, 1)[0]
                engine.run(many)
                choices[rows] = many
                if time.perf_counter() - begun > _MEASURED:
                    break
        except InputError:  # no batch axis, or rows that must not share a run
            pass
        return cls(engine, choices)

    def rate(self, at_once: int) -> float:
        """Rows a second by that many runs at a time."""
        done = [0] * at_once
        begun = time.perf_counter()

        def run(place: int) -> None:
            while time.perf_counter() - begun < _MEASURED:
                self.engine.run(self._feeds)
                done[place] += self._timed

        threads = [threading.Thread(target=run, args=(place,)) for place in range(at_once)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(done) / (time.perf_counter() - begun)


def _least_seconds(engine: Runner, choices: Mapping[int, Feeds]) -> dict[int, float]:
    """Of each of ``choices``: the best of some runs in turns, within about a second."""
    alone = isinstance(engine, Engine) and engine.threads == 1 and engine.device == "cpu" and len(engine.providers) == 1
    clock = time.thread_time if alone else time.perf_counter  # whatever else the machine does, a larger batch then looks no slower
    best = dict.fromkeys(choices, math.inf)
    begun = time.perf_counter()
    for _ in range(20):
        for rows, feeds in choices.items():
            start = clock()
            engine.run(feeds)
            best[rows] = min(best[rows], clock() - start)
        if time.perf_counter() - begun > 1:
            break
    return best
