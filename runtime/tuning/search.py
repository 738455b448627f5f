"""The search for the fastest setting at one batch size: interleaved timing of those that may still be fastest.

Candidates are timed in rounds; those that are clearly slower than the best so far drop out (as in Even-Dar, Mannor and Mansour 2006,
"Action elimination and stopping conditions"), so that time goes where the decision is close. All rounds count
(:mod:`onnxferry.runtime.tuning.evidence`), and the candidate that is expected to be fastest is chosen.
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
from onnxferry.runtime.artifact.variants import certified_backends, certified_speeds
from onnxferry.runtime.engine.backends.choose import AnyEngine
from onnxferry.runtime.engine.ort import ONNXRUNTIME, Sizes
from onnxferry.runtime.engine.replay import replay
from onnxferry.runtime.errors import OnnxFerryError
from onnxferry.runtime.machine.cpu import cpu_name
from onnxferry.runtime.machine.memory import memory_to_open, shortage
from onnxferry.runtime.timing import alternating, clock
from onnxferry.runtime.tuning.bound_run import BoundRun, can_be_bound
from onnxferry.runtime.tuning.evidence import Belief, Evidence, Prior, may_be_best
from onnxferry.runtime.tuning.inputs import Feeds
from onnxferry.runtime.tuning.plan import Plan, Setting, Trial

MARGIN = 1.02
"""A smaller speed-up is not worth leaving the default for."""


TURN_SECONDS = 1e-2  # of one turn of a fast model: after a pause, a core needs some milliseconds to reach full speed


MAX_RUNS = 64  # in one turn


FEW = 3  # turns, with fewer of which a candidate's median may be a burst


MIN_ROUNDS, MAX_ROUNDS = 4, 150  # of one stage; all take part in the first ones


DOUBT = 2.5  # standard deviations: a candidate further behind than this is not timed again


EQUAL = 0.003  # a lead, as a share, that is none


UNSURE = 0.01  # standard deviation of the best one's lead at which more rounds would change little


CERTIFIED_HERE, CERTIFIED, THREADS, BACKEND, STEP = 0.1, 0.25, 0.4, 0.5, 0.1
"""Standard deviations of what is expected before timing: of a variant's certified speed, on this kind of CPU and elsewhere; of another
number of threads; of another back end; of a graph level, fixed sizes or bound buffers, beside the setting that they vary."""


REST_SECONDS = 4e-3  # before a turn of a fast model: the previous candidate's threads keep spinning for a while, on the same CPUs


SLOW = 0.1  # seconds: runs that take longer need no run to warm up before each turn


NEAR = 0.4  # logarithm of how much a back end may gain from a graph for fixed sizes


NO_TIME, IN_NOISE = "no time left", "within noise"


Runs = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


class Unfit(Exception):  # noqa: N818 (not an error: a verdict that stays within this module)
    """The reason why a setting cannot be chosen."""


class Opener(Protocol):
    def __call__(self, file: Description, setting: Setting, /) -> AnyEngine: ...


class Pool:
    """Engines by setting, opened on first use; their golden samples are replayed."""

    def __init__(self, files: Mapping[str, Description], open_engine: Opener) -> None:
        """``files``: by the variant's tag; the model itself under ""."""
        self.files, self.open_engine = files, open_engine
        self.needs = {tag: memory_to_open(file.summary.weight_bytes) for tag, file in files.items()}  # bytes of memory
        self.engines: dict[Setting, AnyEngine] = {}
        self.refused: dict[Setting, OnnxFerryError] = {}  # settings that failed their golden samples

    def runs(self, setting: Setting) -> Runs:
        """Raises Unfit, or, for the model itself, any error of an engine."""
        engine = self.engine(replace(setting, binding="run"))
        if setting.binding == "run":
            return engine.run
        if not can_be_bound(engine):
            raise Unfit("not bound: its outputs' shapes are known only after a run")
        return BoundRun(engine).run

    def engine(self, setting: Setting) -> AnyEngine:
        if setting in self.refused:
            raise self.refused[setting]
        if setting not in self.engines:
            full = shortage(self.needs[setting.variant]) if self.engines else ""  # the others stay open, to be timed in turns
            if full:
                raise Unfit(f"skipped: {full}")
            engine = self.open_engine(self.files[setting.variant], setting)
            try:
                self.check(engine, setting)
            except OnnxFerryError as error:  # also for the batch sizes that follow
                self.refused[setting] = error
                engine.close()
                raise
            self.engines[setting] = engine
        return self.engines[setting]

    def check(self, engine: AnyEngine, setting: Setting) -> None:
        if setting.sizes:  # golden samples seldom have these sizes: the outputs are compared with those of the same file at dynamic sizes
            return
        report = replay(engine)
        if report.comparisons or setting.variant:
            report.raise_if_failed(str(engine.path))

    def certificate(self, setting: Setting) -> Mapping[str, Any]:
        contract = self.engine(replace(setting, binding="run")).contract
        return certified_backends(contract.certificate).get(setting.backend, {}) if contract else {}

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
        self.evidence: Evidence[Candidate] = Evidence()

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
            self.estimate = statistics.median(self.turn(first, 1) for _ in range(3))  # the clock may jump
        self.evidence.priors[first] = Prior(0.0, 0.0)
        best = self.raced(first, self.opened(others, first, 0.4, lambda setting: self.expected(setting, first, batch)), 0.55)
        of_ort = best.setting.backend == ONNXRUNTIME  # graph levels and bound buffers are its own
        more = [replace(best.setting, graph_level=level) for level in levels if of_ort and level != best.setting.graph_level]
        best = self.raced(first, self.varied(more, best, 0.6), 0.67)
        if sizes:  # also for the best of the other back ends: which one is faster may depend on it
            near = [best, *self.best_elsewhere(first, best)]
            fixed = [each for one in near for each in self.varied([replace(one.setting, sizes=sizes)], one, 0.7)]
            best = self.raced(first, fixed, 0.76)
        if best.setting.backend == ONNXRUNTIME:
            best = self.raced(first, self.varied([replace(best.setting, binding="run_into")], best, 0.78), 0.84)
        best = self.raced(first, [], 1.0)  # all that may still be fastest, once more
        beliefs = self.evidence.beliefs(first)
        chosen = best if beliefs[best].mean < -math.log(MARGIN) else first
        ratio = math.exp(-beliefs[chosen].measured)
        first.times = first.times or [max(self.estimate, 1e-9)]  # there was no time to measure it
        for candidate in self.tried:
            self.judge(candidate, beliefs, best)
        first.ratio, first.verdict = 1.0, "default"
        chosen.verdict = "chosen"
        trials = tuple(Trial(c.setting, c.median if c.times else None, c.ratio, c.verdict or NO_TIME) for c in self.tried)
        # Medians of the two alone would compare what the machine was doing in different rounds.
        return Plan(batch, chosen.setting, chosen.median, chosen.median * ratio, ratio, trials)

    def expected(self, setting: Setting, first: Candidate, batch: int) -> Prior:
        """Of another file or number of threads, before it is timed: what its certificate says of the batch size nearest in ratio."""
        speed, deviation = certified_speed(self.pool.certificate(setting), batch) if setting.variant else (1.0, 0.0)
        more = THREADS if setting.threads != first.setting.threads else 0.0
        elsewhere = BACKEND if setting.backend != ONNXRUNTIME and not setting.variant else 0.0
        return Prior(-math.log(speed), math.hypot(deviation, more, elsewhere) or STEP)

    def best_elsewhere(self, first: Candidate, best: Candidate) -> list[Candidate]:
        """The one that is expected to be fastest among those of other back ends than the best one's, if it may still win."""
        beliefs = self.evidence.beliefs(first)
        others = [each for each in self.evidence.priors if each.setting.backend != best.setting.backend]
        found = min(others, key=lambda each: beliefs[each].mean, default=None)
        return [] if found is None or beliefs[found].mean - beliefs[best].mean > NEAR else [found]

    def varied(self, settings: Sequence[Setting], best: Candidate, share: float) -> list[Candidate]:
        """Candidates that vary the best one in one thing: expected to be about as fast."""
        around = self.evidence.beliefs(self.tried[0])[best]
        return self.opened(settings, best, share, lambda _: Prior(around.mean, math.hypot(around.deviation, STEP)))

    def judge(self, candidate: Candidate, beliefs: Mapping[Candidate, Belief], best: Candidate) -> None:
        """Its ratio and the reason why it was not chosen."""
        if not candidate.times or candidate.verdict:
            return
        belief, leader = beliefs[candidate], beliefs[best]
        candidate.ratio = math.exp(-belief.measured)
        if belief.mean - DOUBT * belief.deviation > 0:
            candidate.verdict = "slower"
        elif candidate is best:  # and still not chosen
            candidate.verdict = f"under {MARGIN - 1:.0%}" if belief.mean + DOUBT * belief.deviation < 0 else IN_NOISE
        else:
            behind = belief.mean - leader.mean > DOUBT * math.hypot(belief.deviation, leader.deviation)
            candidate.verdict = "not fastest" if behind else IN_NOISE

    def left(self, share: float) -> float:
        """Seconds left until this share of the time limit is used."""
        return self.start + share * self.seconds - clock()

    def opened(self, settings: Sequence[Setting], reference: Candidate, share: float, prior: Callable[[Setting], Prior]) -> list[Candidate]:
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
                self.evidence.priors[candidate] = prior(setting)
                fit.append(candidate)
        return fit

    def raced(self, first: Candidate, new: Sequence[Candidate], share: float) -> Candidate:
        """Times the new ones beside those that may be fastest, and returns the one that is expected to be.

        Without new ones: all that may be. The default takes part in the first rounds of each stage, as everything is compared with it.
        """
        fit = list(self.evidence.priors)
        field: list[Candidate] = []
        look = 0  # the round before which the evidence is looked at next: more and more seldom, as that takes time too
        for number in range(MAX_ROUNDS):
            if number == look:
                look += max(MIN_ROUNDS, number // 4)
                beliefs = self.evidence.beliefs(first)
                near = may_be_best(beliefs, fit, DOUBT)
                field = [each for each in near if not new or each in new or each is near[0]]
                if number == 0:
                    field = list(dict.fromkeys([first, near[0], *new, *field]))
                elif self.settled(field, beliefs, first):
                    break
                if len(field) < 2:
                    field = [near[0], first] if near[0] is not first else [first, *near[1:2]]
            if len(field) < 2 or self.left(share) < sum(map(self.cost, field)):
                break
            times = {candidate: self.turn(candidate) for candidate in alternating(field, number)}
            for candidate, seconds in times.items():
                candidate.times.append(seconds)
            self.evidence.add(times)
        beliefs = self.evidence.beliefs(first)
        timed = [candidate for candidate in fit if candidate is first or self.evidence.turns(candidate)]
        # Among equals the one that was tried first, which is the simplest.
        lead = min(beliefs[candidate].mean for candidate in timed)
        return next(candidate for candidate in timed if beliefs[candidate].mean <= lead + EQUAL)

    def settled(self, field: Sequence[Candidate], beliefs: Mapping[Candidate, Belief], first: Candidate) -> bool:
        """Whether more rounds would hardly change which one is chosen."""
        best = beliefs[field[0]]
        if field[0] is not first and abs(best.mean + math.log(MARGIN)) < DOUBT * best.deviation:
            return False  # it may be no faster than the default
        return all(math.hypot(beliefs[each].deviation, best.deviation) < UNSURE for each in field[1:])

    def cost(self, candidate: Candidate) -> float:
        """Estimated seconds of its next turn."""
        # One time that a burst or a jump of the clock made long is no reason to leave a candidate out.
        seconds = candidate.median if len(candidate.times) >= FEW else max(min(candidate.times, default=0.0), self.estimate)
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


def certified_speed(certificate: Mapping[str, Any], batch: int) -> tuple[float, float]:
    """Times as fast as the original at the certified batch size nearest in ratio, and how far that may be off here, as a share."""
    speeds = {size: ratio for size, ratio in certified_speeds(certificate.get("speed")).items() if 0.01 < ratio < 100}
    if not speeds:
        return 1.0, CERTIFIED
    nearest = min(speeds, key=lambda size: abs(math.log(size / batch)))
    return speeds[nearest], CERTIFIED_HERE if certificate.get("machine") == cpu_name() else CERTIFIED


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
