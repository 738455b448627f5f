"""The search for the fastest setting at one batch size: interleaved timing of those that may still be fastest.

Candidates are timed in rounds; those that are clearly slower than the best so far drop out (as in Even-Dar, Mannor and Mansour 2006,
"Action elimination and stopping conditions"), so that time goes where the decision is close. All rounds count
(:mod:`onnxferry.runtime.tuning.evidence`), and the candidate that is expected to be fastest is chosen.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from onnxferry.runtime.artifact.describe import Description
from onnxferry.runtime.artifact.variants import certified_backends
from onnxferry.runtime.engine.backends.choose import AnyEngine
from onnxferry.runtime.engine.ort import ONNXRUNTIME, Sizes
from onnxferry.runtime.engine.replay import replay
from onnxferry.runtime.errors import OnnxFerryError
from onnxferry.runtime.machine.load import LoadMeter
from onnxferry.runtime.machine.memory import memory_to_open, shortage
from onnxferry.runtime.timing import alternating, clock
from onnxferry.runtime.tuning.agreement import Unfit, check_certified, check_same
from onnxferry.runtime.tuning.bound_run import BoundRun, can_be_bound
from onnxferry.runtime.tuning.evidence import Beliefs, Evidence, Prior, Session, may_be_best
from onnxferry.runtime.tuning.expected import doubt, expectation, kept_rounds, with_measured
from onnxferry.runtime.tuning.inputs import Feeds
from onnxferry.runtime.tuning.plan import Measured, Plan, Setting, Trial

MARGIN = 1.02
"""A smaller speed-up is not worth leaving the default for."""

CAUTION = 0.5
"""Standard deviations by which the best one must lead the default: of many that are no faster, one leads by chance."""


TURN_SECONDS = 1e-2  # of one turn of a fast model: after a pause, a core needs some milliseconds to reach full speed


MAX_RUNS = 64  # in one turn


FEW = 3  # turns, with fewer of which a candidate's median may be a burst


MIN_ROUNDS, MAX_ROUNDS = 4, 150  # of one stage; all take part in the first ones


DOUBT = 2.5  # standard deviations: a candidate further behind than this is not timed again


EQUAL = 0.003  # a lead, as a share, that is none


REGRET, LAST_REGRET = 0.001, 0.0003
"""Share of its time that the best one is expected to lose to another, at which more rounds change little: in a stage, in the last one."""


CLOSE, CLOSE_TURNS = 0.06, 16
"""In the last stage, turns that the best one and those so close behind it have at least: a few times that agree may do so by chance."""


WORTH = 0.15  # share of the largest regret: what may gain less than this is not timed in a round


BOUND_SECONDS, BOUND = 5e-5, 0.01
"""What bound buffers may save a run on the CPU, at most: where that is a smaller share, they are not tried."""


REST_SECONDS = 4e-3  # before a turn of a fast model: the previous candidate's threads keep spinning for a while, on the same CPUs


SLOW = 0.03  # seconds: runs that take longer need no run to warm up before each turn


PAIRED = 3  # candidates, with no more of which a turn of a slow model is two runs: the one that warms up is then a third of the time


PROMISING, ALWAYS = 4, 2
"""Settings that are tried first, as earlier searches found them fast; and of a fast model that are timed again, as they were likeliest."""


PARTS = ("threads", "sizes", "graph_level", "binding")  # the latter two are ONNX Runtime's alone


MOST_MORE, MAY_GAIN = 12, 0.003
"""Combinations that are tried at the end, at most; and the share of its time that the best one is expected to lose to each, at least."""


UNKNOWN = Prior(0.0, 1.0)


NEAR = 0.4  # logarithm of how much a back end may gain from a graph for fixed sizes


NO_TIME, IN_NOISE, BEFORE, SLOWER, NOT_FASTEST = "no time left", "within noise", "slower before", "slower", "not fastest"
LITTLE = f"under {MARGIN - 1:.0%}"
"""Verdicts; ``onnxferry tune`` explains them."""


NOISY = 0.25  # standard deviation of a turn, as a share, from which on a machine counts as busy


UNSURE = 0.015  # share of time that the chosen one is expected to lose to another, from which on a later search adds to this one


LEFT_OUT, BEHIND = 4.0, 0.1
"""Standard deviations, and a share, by which an earlier search found a candidate slower than the best: it is not opened again."""


Runs = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


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
        contract = self.files[setting.variant].contract  # it is asked for of settings that are never opened
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

    def __init__(
        self, pool: Pool, feeds: Sequence[Feeds], seconds: float, *, on_cpu: bool = True, earlier: Sequence[Measured] = ()
    ) -> None:
        self.pool, self.feeds, self.seconds, self.on_cpu, self.earlier = pool, feeds, seconds, on_cpu, earlier
        self.meter = LoadMeter()
        self.start = clock()
        self.open_seconds = self.estimate = 0.0  # seconds to open and check the default, and to run it
        self.turns = 0
        self.last: Candidate | None = None  # whose turn was last
        self.tried: list[Candidate] = []
        self.known: dict[Setting, Candidate] = {}  # of earlier searches
        self.evidence: Evidence[Candidate] = Evidence()
        self.expected: Callable[[Setting], Prior] = lambda _: UNKNOWN  # of a setting, before it is timed

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
        self.recall(first)

        self.expected = lambda setting: expectation(setting, default, self.pool.certificate(setting) if setting.variant else {}, batch)
        best = self.raced(first, self.opened([*self.promising(first), *others], first, 0.4), 0.55)
        of_ort = best.setting.backend == ONNXRUNTIME  # graph levels and bound buffers are its own
        more = [replace(best.setting, graph_level=level) for level in levels if of_ort and level != best.setting.graph_level]
        best = self.raced(first, self.opened(more, best, 0.6), 0.67)
        if sizes:  # also for the best of the other back ends: which one is faster may depend on it
            near = [best, *self.best_elsewhere(first, best)]
            fixed = [each for one in near for each in self.opened([replace(one.setting, sizes=sizes)], one, 0.7)]
            best = self.raced(first, fixed, 0.76)
        if best.setting.backend == ONNXRUNTIME and (not self.on_cpu or BOUND * self.estimate < BOUND_SECONDS):
            best = self.raced(first, self.opened([replace(best.setting, binding="run_into")], best, 0.78), 0.84)
        best = self.raced(first, [], 0.88)
        for _ in range(MOST_MORE):  # what won beside others may win beside these, too
            more_still = self.opened(self.untried(best), best, 0.9)
            if not more_still:
                break
            best = self.raced(first, more_still, 0.94)
        best = self.raced(first, [], 1.0)  # all that may still be fastest, once more
        beliefs = self.evidence.beliefs(first)
        chosen = best if beliefs[best].mean < -max(math.log(MARGIN), CAUTION * beliefs[best].deviation) else first
        ratio = math.exp(-beliefs[chosen].measured)
        first.times = first.times or [max(self.estimate, 1e-9)]  # there was no time to measure it
        for candidate in self.tried:
            self.judge(candidate, beliefs, best)
        first.ratio, first.verdict = 1.0, "default"
        chosen.verdict = "chosen"
        trials = tuple(Trial(c.setting, c.median if c.times else None, c.ratio, c.verdict or NO_TIME) for c in self.tried)
        regret = max((beliefs.regret(chosen, each) for each in beliefs if each is not chosen), default=0.0)
        busy = ", ".join(filter(None, (self.meter.words(), f"turns varied by {self.evidence.noise:.0%}" * (self.evidence.noise > NOISY))))
        unsure = "the machine was busy" if busy else "the fastest ones are too close to tell apart" if regret > UNSURE else ""
        rounds = [{each.setting: math.exp(log) for each, log in times.items()} for times in self.evidence.rounds]
        new = kept_rounds([each.setting for each in self.tried], rounds, busy)
        still = [each for each, dropped in zip(self.earlier, self.evidence.dropped, strict=True) if not dropped]
        # Medians of the two alone would compare what the machine was doing in different rounds.
        return with_measured(Plan(batch, chosen.setting, chosen.median, chosen.median * ratio, ratio, trials, unsure, (new,)), *still)

    def recall(self, first: Candidate) -> None:
        """What earlier searches measured."""
        self.known[first.setting] = first
        for measured in self.earlier:
            candidates = [self.known.setdefault(setting, Candidate(setting, dict)) for setting in measured.settings]
            rounds = [{candidates[place]: seconds for place, seconds in each} for each in measured.rounds]
            self.evidence.add_session(Session(rounds, doubt(measured)), first)

    def promising(self, first: Candidate) -> list[Setting]:
        """Those that earlier searches found fastest, likeliest first."""
        for candidate in self.known.values():
            self.evidence.priors.setdefault(candidate, UNKNOWN)
        beliefs = self.evidence.beliefs(first)
        found = [each.setting for each in may_be_best(beliefs, [*self.known.values()], DOUBT)]
        self.evidence.priors = {first: self.evidence.priors[first]}
        return found[:PROMISING]

    def best_elsewhere(self, first: Candidate, best: Candidate) -> list[Candidate]:
        """The one that is expected to be fastest among those of other back ends than the best one's, if it may still win."""
        beliefs = self.evidence.beliefs(first)
        others = [each for each in self.evidence.priors if each.setting.backend != best.setting.backend]
        found = min(others, key=lambda each: beliefs[each].mean, default=None)
        return [] if found is None or beliefs[found].mean - beliefs[best].mean > NEAR else [found]

    def untried(self, best: Candidate) -> list[Setting]:
        """Of all other ways to put parts of those that were tried together, the one that the best one loses most to, if that is much.

        None where no time is left to see it.
        """
        if self.left(0.94) < self.open_seconds + 2 * FEW * self.cost(best, 2):
            return []
        names = PARTS if best.setting.backend == ONNXRUNTIME else PARTS[:2]
        parts = [dict.fromkeys(getattr(each.setting, name) for each in self.evidence.priors) for name in names]
        made = (replace(best.setting, **dict(zip(names, chosen, strict=True))) for chosen in itertools.product(*parts))
        tried = {each.setting for each in self.tried}
        new = [Candidate(setting, dict) for setting in made if setting not in tried]
        for candidate in new:
            self.evidence.priors[candidate] = self.expected(candidate.setting)
        beliefs = self.evidence.beliefs(self.tried[0])
        for candidate in new:
            del self.evidence.priors[candidate]
        found = max(new, key=lambda each: beliefs.regret(best, each), default=best)
        return [found.setting] if beliefs.regret(best, found) > MAY_GAIN else []

    def judge(self, candidate: Candidate, beliefs: Beliefs[Candidate], best: Candidate) -> None:
        """Its ratio and the reason why it was not chosen."""
        if not candidate.times or candidate.verdict:
            return
        belief, leader = beliefs[candidate], beliefs[best]
        candidate.ratio = math.exp(-belief.measured)
        if belief.mean - DOUBT * belief.deviation > 0:
            candidate.verdict = SLOWER
        elif candidate is best:  # and still not chosen
            candidate.verdict = LITTLE if belief.mean + DOUBT * belief.deviation < 0 else IN_NOISE
        else:
            behind = belief.mean - leader.mean > DOUBT * beliefs.apart(candidate, best)
            candidate.verdict = NOT_FASTEST if behind else IN_NOISE

    def left(self, share: float) -> float:
        """Seconds left until this share of the time limit is used."""
        return self.start + share * self.seconds - clock()

    def opened(self, settings: Sequence[Setting], reference: Candidate, share: float) -> list[Candidate]:
        """The candidates that can be chosen: each has run and given the reference's outputs."""
        fit = []
        feeds = self.feeds[: max(1, min(len(self.feeds), int(SLOW / max(self.estimate, 1e-9))))]
        expected: list[dict[str, np.ndarray]] = []  # once there is something to compare with it: a run of a large model takes long
        likeliest = sorted(settings, key=lambda setting: self.expected(setting).total)[: ALWAYS if self.estimate < SLOW else 0]
        for setting in settings:
            if any(setting == candidate.setting for candidate in self.tried):
                continue
            candidate = self.known.get(setting) or Candidate(setting, dict)
            self.tried.append(candidate)
            if setting in self.known and setting not in likeliest and self.slower_before(candidate, self.expected(setting)):
                candidate.verdict = BEFORE
                continue
            if self.left(share) < self.open_seconds + self.estimate * (1 if expected else 2):
                candidate.verdict = NO_TIME
                continue
            expected = expected or [dict(reference.runs(feed)) for feed in feeds]
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
                self.evidence.priors[candidate] = self.expected(setting)
                fit.append(candidate)
        return fit

    def slower_before(self, candidate: Candidate, prior: Prior) -> bool:
        """Whether earlier searches leave no hope for it."""
        first = self.tried[0]
        self.evidence.priors[candidate] = prior
        beliefs = self.evidence.beliefs(first)
        del self.evidence.priors[candidate]
        best = min(beliefs, key=lambda each: beliefs[each].mean)
        behind = beliefs[candidate].mean - beliefs[best].mean
        return behind > BEHIND and behind > LEFT_OUT * beliefs.apart(candidate, best)

    def raced(self, first: Candidate, new: Sequence[Candidate], share: float) -> Candidate:
        """Times the new ones beside those that may be fastest, and returns the one that is expected to be.

        Without new ones: all that may be. The default takes part in the first rounds of each stage, as everything is compared with it.
        """
        fit = list(self.evidence.priors)
        field: list[Candidate] = []
        look = 0  # the round before which the evidence is looked at next: more and more seldom, as that takes time too
        for number in range(MAX_ROUNDS):
            if number == look:
                look += max(MIN_ROUNDS if number == 0 or self.estimate < TURN_SECONDS else 1, number // 4)
                beliefs = self.evidence.beliefs(first)
                near = may_be_best(beliefs, fit, DOUBT)
                field = [each for each in near if not new or each in new or each is near[0]]
                if number == 0:
                    field = list(dict.fromkeys([first, near[0], *new, *field]))
                elif self.settled(field, beliefs, first, last=share == 1.0):
                    break
                else:
                    field = worth_timing(field, beliefs)
                if len(field) < 2:
                    field = [near[0], first] if near[0] is not first else [first, *near[1:2]]
            if len(field) < 2 or self.left(share) < sum(self.cost(each, len(field)) for each in field):
                break
            times = {candidate: self.turn(candidate, self.repeats(len(field))) for candidate in alternating(field, number)}
            for candidate, seconds in times.items():
                candidate.times.append(seconds)
            self.evidence.add(times)
        beliefs = self.evidence.beliefs(first)
        timed = [candidate for candidate in fit if candidate is first or self.evidence.turns(candidate)]
        # Among equals the one that was tried first, which is the simplest.
        lead = min(beliefs[candidate].mean for candidate in timed)
        return next(candidate for candidate in timed if beliefs[candidate].mean <= lead + EQUAL)

    def settled(self, field: Sequence[Candidate], beliefs: Beliefs[Candidate], first: Candidate, last: bool) -> bool:
        """Whether more rounds would hardly change which one is chosen."""
        best = beliefs[field[0]]
        if field[0] is not first and abs(best.mean + math.log(MARGIN)) < DOUBT * best.deviation:
            return False  # it may be no faster than the default
        if not last:
            return all(beliefs.regret(field[0], each) < REGRET for each in field[1:])
        return not self.unseen(field, beliefs) and all(beliefs.regret(field[0], each) < LAST_REGRET for each in field[1:])

    def unseen(self, field: Sequence[Candidate], beliefs: Beliefs[Candidate]) -> list[Candidate]:
        close = [each for each in field if beliefs[each].mean - beliefs[field[0]].mean < CLOSE]
        return [each for each in close if self.evidence.turns(each) < CLOSE_TURNS]

    def cost(self, candidate: Candidate, among: int) -> float:
        """Estimated seconds of its next turn."""
        # One time that a burst or a jump of the clock made long is no reason to leave a candidate out.
        seconds = candidate.median if len(candidate.times) >= FEW else max(min(candidate.times, default=0.0), self.estimate)
        return seconds * (self.repeats(among) + (self.estimate < SLOW)) + (REST_SECONDS if self.estimate < SLOW else 0)

    def repeats(self, among: int) -> int:
        """Runs in a turn, where that many candidates are timed in a round."""
        least = 2 if among <= PAIRED and self.estimate < SLOW else 1
        return max(least, min(MAX_RUNS, int(TURN_SECONDS / max(self.estimate, 1e-9))))

    def turn(self, candidate: Candidate, repeats: int) -> float:
        """Mean seconds per run of a few runs in a row, each on other inputs. The first one after another candidate's is not counted."""
        feeds = [self.feeds[(self.turns + i) % len(self.feeds)] for i in range(repeats)]
        self.turns += 1
        fresh, self.last = self.last is not candidate, candidate
        if self.estimate < SLOW and fresh:
            time.sleep(REST_SECONDS)
        return time_runs(candidate, feeds, warm=fresh and self.estimate < SLOW)


def worth_timing(field: Sequence[Candidate], beliefs: Beliefs[Candidate]) -> list[Candidate]:
    """The likeliest one, and those that may win most from it."""
    gains = [beliefs.regret(field[0], each) for each in field[1:]]
    return [field[0], *(each for each, gain in zip(field[1:], gains, strict=True) if gain >= WORTH * max(gains))]


def time_runs(candidate: Candidate, feeds: Sequence[Feeds], warm: bool) -> float:
    """Mean seconds per run."""
    runs = candidate.runs
    if warm:
        runs(feeds[-1])
    start = clock()
    for each in feeds:
        runs(each)
    return max(clock() - start, 1e-9) / len(feeds)
