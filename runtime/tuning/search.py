"""The search for the fastest setting at one batch size: interleaved timing with successive halving, then a paired comparison.

Source of the halving: Jamieson and Talwalkar 2016, arXiv 1502.07943. The winner is compared with the default in new pairs, because
the best of many noisy medians looks better than it is; the bounds are those of a median by order statistics.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from onnxferry.runtime.artifact.comparison import compare_output, rms_share
from onnxferry.runtime.artifact.describe import Description
from onnxferry.runtime.artifact.tolerances import allowed_rms, certified_rms, setting_tolerance
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.engine.ort import Sizes
from onnxferry.runtime.engine.replay import replay
from onnxferry.runtime.errors import OnnxFerryError
from onnxferry.runtime.timing import alternating, clock, median_bounds, ratios
from onnxferry.runtime.tuning.bound_run import BoundRun, can_be_bound
from onnxferry.runtime.tuning.inputs import Feeds
from onnxferry.runtime.tuning.plan import Plan, Setting, Trial

MARGIN = 1.02
"""A smaller speed-up is not worth leaving the default for."""


TURN_SECONDS = 1e-2  # of one turn of a fast model: after a pause, a core needs some milliseconds to reach full speed


MAX_RUNS = 64  # in one turn


MIN_TURNS, MAX_TURNS = 4, 40  # per candidate before the slower half is dropped: as many as there is time for


ROUND_SHARE = 0.08  # of the total time, for one round of halving


MAX_PAIRS = 60


MIN_PAIRS = 6  # with fewer, being faster every time may be chance


REST_SECONDS = 4e-3  # before a turn of a fast model: the previous candidate's threads keep spinning for a while, on the same CPUs


SLOW = 0.1  # seconds: runs that take longer need no run to warm up before each turn


MAX_OPEN_BYTES = 2**30  # of model files that are open at a time


NO_TIME, IN_NOISE = "no time left", "within noise"


Runs = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


class Unfit(Exception):  # noqa: N818 (not an error: a verdict that stays within this module)
    """The reason why a setting cannot be chosen."""


class Opener(Protocol):
    def __call__(self, file: Description, setting: Setting, /) -> Engine: ...


class Pool:
    """Engines by setting, opened on first use; their golden samples are replayed."""

    def __init__(self, files: Mapping[str, Description], open_engine: Opener) -> None:
        """``files``: by the variant's tag; the model itself under ""."""
        self.files, self.open_engine = files, open_engine
        self.sizes = {tag: file.summary.file_bytes for tag, file in files.items()}
        self.engines: dict[Setting, Engine] = {}
        self.refused: dict[Setting, OnnxFerryError] = {}  # settings that failed their golden samples

    def runs(self, setting: Setting) -> Runs:
        """Raises Unfit, or, for the model itself, any error of an engine."""
        engine = self.engine(replace(setting, binding="run"))
        if setting.binding == "run":
            return engine.run
        if not can_be_bound(engine):
            raise Unfit("not bound: its outputs' shapes are known only after a run")
        return BoundRun(engine).run

    def engine(self, setting: Setting) -> Engine:
        if setting in self.refused:
            raise self.refused[setting]
        if setting not in self.engines:
            if self.engines and sum(self.sizes[other.variant] for other in self.engines) + self.sizes[setting.variant] > MAX_OPEN_BYTES:
                raise Unfit("too large: it would fill the memory")
            engine = self.open_engine(self.files[setting.variant], setting)
            try:
                self.check(engine, setting)
            except OnnxFerryError as error:  # also for the batch sizes that follow
                self.refused[setting] = error
                engine.close()
                raise
            self.engines[setting] = engine
        return self.engines[setting]

    def check(self, engine: Engine, setting: Setting) -> None:
        if setting.sizes:  # golden samples seldom have these sizes: the outputs are compared with those of the same file at dynamic sizes
            return
        report = replay(engine)
        if report.comparisons or setting.variant:
            report.raise_if_failed(str(engine.path))

    def certificate(self, setting: Setting) -> Mapping[str, Any]:
        contract = self.engine(replace(setting, binding="run")).contract
        return contract.certificate if contract else {}

    def close(self) -> None:
        for engine in self.engines.values():
            engine.close()


class Candidate:
    """A setting that is being timed."""

    def __init__(self, setting: Setting, runs: Runs) -> None:
        self.setting, self.runs = setting, runs
        self.times: list[float] = []  # seconds per run, one for each turn
        self.ratio: float | None = None  # times as fast as the default in the same turns
        self.verdict = ""

    @property
    def median(self) -> float:
        return statistics.median(self.times) if self.times else math.inf


class Search:
    """The search at one batch size. ``seconds``: its time limit, including opening files and replaying golden samples."""

    def __init__(self, pool: Pool, feeds: Sequence[Feeds], seconds: float) -> None:
        self.pool, self.feeds, self.seconds = pool, feeds, seconds
        self.start = clock()
        self.open_seconds = self.estimate = 0.0  # seconds to open and check the default, and to run it
        self.turns = 0
        self.tried: list[Candidate] = []

    def plan(self, batch: int, default: Setting, others: Sequence[Setting], levels: Sequence[str], sizes: Sizes = ()) -> Plan:
        """``others``: files and threads, likeliest first; ``levels``, ``sizes`` and bindings are then tried for the best of them.

        Raises CheckFailedError if the model itself fails its golden samples, and what its engine raises.
        """
        first = Candidate(default, self.pool.runs(default))
        self.tried.append(first)
        opened = clock()
        first.runs(self.feeds[0])
        self.open_seconds, self.estimate = opened - self.start, clock() - opened
        if self.estimate < SLOW:  # the first run of a fast model takes longer than the others
            self.estimate = self.turn(first, 1)
        best = self.halved(first, [first, *self.opened(others, first, 0.4)], 0.5)
        more = [replace(best.setting, graph_level=level) for level in levels if level != best.setting.graph_level]
        best = self.halved(first, [first, best, *self.opened(more, best, 0.55)], 0.62)
        if sizes:
            best = self.halved(first, [first, best, *self.opened([replace(best.setting, sizes=sizes)], best, 0.66)], 0.72)
        best = self.halved(first, [first, best, *self.opened([replace(best.setting, binding="run_into")], best, 0.75)], 0.8)
        ratio = self.duel(best, first) if best is not first else 1.0
        chosen = best if ratio > 1.0 else first
        first.times = first.times or [max(self.estimate, 1e-9)]  # there was no time to measure it
        first.ratio, first.verdict = 1.0, "default"
        chosen.verdict = "chosen"
        trials = tuple(Trial(c.setting, c.median if c.times else None, c.ratio, c.verdict or NO_TIME) for c in self.tried)
        return Plan(batch, chosen.setting, chosen.median, first.median, ratio, trials)

    def left(self, share: float) -> float:
        """Seconds left until this share of the time limit is used."""
        return self.start + share * self.seconds - clock()

    def opened(self, settings: Sequence[Setting], reference: Candidate, share: float) -> list[Candidate]:
        """The candidates that can be chosen: each has run and given the reference's outputs."""
        fit = []
        feeds = self.feeds if self.estimate < SLOW else self.feeds[:1]
        expected = [dict(reference.runs(feed)) for feed in feeds]
        for setting in settings:
            if any(setting == candidate.setting for candidate in self.tried):
                continue
            candidate = Candidate(setting, dict)
            self.tried.append(candidate)
            if self.left(share) < self.open_seconds + self.estimate:
                candidate.verdict = NO_TIME
                continue
            try:
                candidate.runs = self.pool.runs(setting)
                if setting.binding == "run_into":  # the first run allocates the buffers, the second uses them
                    candidate.runs(self.feeds[-1])
                actual = [dict(candidate.runs(feed)) for feed in feeds]
                if setting.variant == reference.setting.variant:
                    for one, other in zip(actual, expected, strict=True):
                        check_same(one, other)
                else:
                    check_certified(actual, expected, self.pool.certificate(setting))
            except Unfit as reason:
                candidate.verdict = str(reason)
            except OnnxFerryError as error:
                candidate.verdict = f"failed: {str(error).partition(chr(10))[0]}"
            else:
                fit.append(candidate)
        return fit

    def halved(self, first: Candidate, field: list[Candidate], share: float) -> Candidate:
        """The fastest of the field. The default is always part of it, and is timed in the same turns as the others."""
        others = [candidate for candidate in field if candidate is not first]
        # Times of another minute, when the machine was busier or less, would decide instead of what is compared.
        earlier = {candidate: candidate.times for candidate in field}
        for candidate in field:
            candidate.times = []
        while others:
            whole = self.timed([first, *others], share)
            others.sort(key=lambda candidate: candidate.median)
            if not whole or len(others) == 1:
                break
            others = others[: len(others) // 2]
        beside = {candidate: list(candidate.times) for candidate in field}
        for candidate, times in earlier.items():
            candidate.times = candidate.times or times
        best = min([first, *others], key=lambda candidate: candidate.median)
        for candidate, times in beside.items():
            if times and beside[first] and beside[best]:
                faster = ratios(beside[first], times)
                candidate.ratio = statistics.median(faster)
                beaten = median_bounds(ratios(times, beside[best]))[0] > 1
                candidate.verdict = IN_NOISE if not beaten else "slower" if median_bounds(faster)[1] < 1 else "not fastest"
        return best

    def timed(self, field: Sequence[Candidate], share: float) -> bool:
        """Some turns for each candidate; False if the time was not enough for all of them."""
        turns = int(ROUND_SHARE * self.seconds / sum(max(self.cost(candidate), 1e-9) for candidate in field))
        for turn in range(min(max(turns, MIN_TURNS), MAX_TURNS)):
            for candidate in alternating(field, turn):
                if self.left(share) < self.cost(candidate):
                    return False
                candidate.times.append(self.turn(candidate))
        return True

    def duel(self, challenger: Candidate, default: Candidate) -> float:
        """Times as fast as the default, from pairs of turns; 1 if the difference is within the noise."""
        faster: list[float] = []
        challenger.times, default.times, earlier = [], [], (challenger.times, default.times)
        while len(faster) < MAX_PAIRS and self.left(1.0) > self.cost(challenger) + self.cost(default):
            pair = {}
            for candidate in alternating((challenger, default), len(faster)):
                pair[candidate] = self.turn(candidate)
                candidate.times.append(pair[candidate])
            faster.append(pair[default] / pair[challenger])
            low, high = median_bounds(faster)
            if len(faster) >= MIN_PAIRS and (low > MARGIN or high < MARGIN):
                break
        if not faster:
            challenger.times, default.times = earlier
        if len(faster) < MIN_PAIRS:
            challenger.verdict = NO_TIME
            return 1.0
        low, high = median_bounds(faster)
        challenger.ratio = statistics.median(faster)
        challenger.verdict = f"under {MARGIN - 1:.0%}" if low > 1 and high < MARGIN else "slower" if high < 1 else IN_NOISE
        return challenger.ratio if low > MARGIN else 1.0

    def cost(self, candidate: Candidate) -> float:
        """Estimated seconds of its next turn."""
        seconds = candidate.median if candidate.times else self.estimate
        return seconds * (self.repeats() + (self.estimate < SLOW)) + (REST_SECONDS if self.estimate < SLOW else 0)

    def repeats(self) -> int:
        return max(1, min(MAX_RUNS, int(TURN_SECONDS / max(self.estimate, 1e-9))))

    def turn(self, candidate: Candidate, repeats: int = 0) -> float:
        """Mean seconds per run of a few runs in a row, each on other inputs. The first one after another candidate's is not counted."""
        repeats = repeats or self.repeats()
        feeds = [self.feeds[(self.turns + i) % len(self.feeds)] for i in range(repeats)]
        self.turns += 1
        if self.estimate < SLOW:
            time.sleep(REST_SECONDS)
        return time_runs(candidate, feeds, warm=self.estimate < SLOW)


def check_same(outputs: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    """The same file must give the same outputs with every setting. Raises Unfit."""
    if set(outputs) != set(expected):
        raise Unfit("failed: it gives other outputs")
    for name, array in outputs.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
            continue  # text, sequences and maps: no rewrite of numbers changes them
        compared = compare_output(0, name, array, expected[name], setting_tolerance(expected[name]))
        if not compared.passed:
            raise Unfit(f"failed: output {name!r} differs from the default's: {compared.problem}")


def check_certified(
    actual: Sequence[Mapping[str, np.ndarray]], expected: Sequence[Mapping[str, np.ndarray]], certificate: Mapping[str, Any]
) -> None:
    """A variant must be about as accurate here as where it was certified: kernels differ between CPUs. Raises Unfit.

    ``certificate["rms"]``: by output, the root mean square of the differences, relative to that of the output.
    """
    if any(set(one) != set(other) for one, other in zip(actual, expected, strict=True)):
        raise Unfit("failed: it gives other outputs")
    for name, share in certified_rms(certificate).items():
        if name not in expected[0]:
            continue
        found = rms_share([each[name] for each in expected], [each[name] for each in actual])
        if not found <= allowed_rms(share):
            raise Unfit(f"failed: output {name!r} is {found:.1%} off here, and was {share:.1%} off where it was certified")


def time_runs(candidate: Candidate, feeds: Sequence[Feeds], warm: bool) -> float:
    """Mean seconds per run."""
    runs = candidate.runs
    if warm:
        runs(feeds[-1])
    start = clock()
    for each in feeds:
        runs(each)
    return max(clock() - start, 1e-9) / len(feeds)
