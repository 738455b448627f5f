"""A plan that is in use is checked again, beside the default, in pauses between real runs.

A plan that was found on a busy machine is checked at once, one that a single search found after an hour, as the CPUs of a virtual machine
may share a core for some minutes and no counter says so; any other one after a week. Every so often a real run's inputs are copied; a
thread waits for a pause, and runs them with the chosen setting and with the default, in turns. Its runs are about 1 % of all, 5 % where
the machine was busy. When enough of them have been timed, the plan is kept with what they say, or gives way to the default.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from onnxferry.runtime.engine.backends.choose import AnyEngine
from onnxferry.runtime.errors import OnnxFerryError
from onnxferry.runtime.machine.load import LoadMeter
from onnxferry.runtime.timing import clock
from onnxferry.runtime.tuning.evidence import Evidence, Prior, Session
from onnxferry.runtime.tuning.expected import doubt, kept_rounds, with_measured
from onnxferry.runtime.tuning.plan import Plan, Setting

SHARE, BUSY_SHARE = 0.01, 0.05
"""Of all runs; and of those with a plan that was found on a busy machine, which may be far from the best."""


ROUNDS = 12  # after which it is decided


HOUR, WEEK = 3_600.0, 7 * 86_400.0
"""Seconds until a plan is checked that nothing speaks against: of one search, of several or one that was checked."""


MAX_FILE, MAX_FEEDS, MAX_SECONDS = 64 * 2**20, 16 * 2**20, 0.5
"""Bytes of the model's weights and of one run's inputs, and seconds of a run, above which nothing is checked: it would need a second
session's memory, or take too long."""


PAUSE, PATIENCE = 0.02, 50
"""Seconds without a new run that count as a pause, and how many of them are waited for."""


SLOWER_IN_USE = "it was slower in use than when it was tuned"


Run = Callable[[Mapping[str, np.ndarray]], object]


def is_due(plan: Plan) -> bool:
    """Whether something speaks for checking it, and it can be."""
    if os.environ.get("ONNXFERRY_TUNE_CHECK") == "0" or not plan.measured or plan.seconds > MAX_SECONDS:
        return False
    if plan.setting == plan.measured[-1].settings[0]:
        return False  # it is the default
    return bool(plan.busy) or time.time() - plan.measured[-1].at > (WEEK if len(plan.measured) > 1 else HOUR)


class PlanCheck:
    """The check of one plan. ``run``: the chosen setting's; ``open_default`` opens the default, in the check's own thread.
    ``is_for``: whether the plan is the one for these inputs; others may share its setting.
    ``decided``: called once, from that thread, with the plan as it is to be kept, and with the default's engine where the plan gives way to
    it, which then belongs to the callee.
    """

    def __init__(
        self,
        plan: Plan,
        run: Run,
        open_default: Callable[[], AnyEngine],
        decided: Callable[[Plan, AnyEngine | None], None],
        is_for: Callable[[Mapping[str, np.ndarray]], bool] = lambda feeds: True,
    ) -> None:
        self.plan, self._run, self._open_default, self._decided, self._is_for = plan, run, open_default, decided, is_for
        self._default: AnyEngine | None = None
        self._rounds: list[dict[Setting, float]] = []
        self._meter = LoadMeter()
        self._lock = threading.Lock()  # held while a round is under way
        self._calls = 0
        # A round is two runs of each, and the default's takes longer.
        self._apart = int(2 * (1 + max(plan.ratio, 1.0)) / (BUSY_SHARE if plan.busy else SHARE))
        self._next = self._apart
        self.ended = False

    def seen(self, feeds: Mapping[str, np.ndarray]) -> None:
        """Before each real run with the chosen setting. Costs nothing but counting, except where a round is due."""
        self._calls += 1  # of several threads one may be lost
        if self._calls < self._next or self.ended or not self._lock.acquire(blocking=False):
            return
        self._next = self._calls + self._apart
        try:
            if not self._is_for(feeds) or sum(array.nbytes for array in feeds.values()) > MAX_FEEDS:
                raise ValueError("not these")
            copies = {name: array.copy() for name, array in feeds.items()}
            threading.Thread(target=self._round, args=(copies,), name="onnxferry plan check").start()
        except (AttributeError, ValueError, RuntimeError, MemoryError):  # no arrays: the run reports it; or no thread can be started
            self._lock.release()

    def close(self) -> None:
        """No more rounds; one that is under way ends."""
        self.ended = True

    def _round(self, feeds: Mapping[str, np.ndarray]) -> None:
        try:
            self._wait_for_a_pause()
            if self.ended:
                return
            if self._default is None:
                self._default = self._open_default()
            ways: list[tuple[Setting, Run]] = [(self.plan.setting, self._run), (self._settings[0], self._default.run)]
            self._rounds.append({setting: _seconds(run, feeds) for setting, run in (ways if len(self._rounds) % 2 else ways[::-1])})
            if len(self._rounds) >= ROUNDS:
                self._decide()
        except OnnxFerryError:  # closed meanwhile, or the default cannot be opened: the plan stays as it is
            self.ended = True
        finally:
            if self.ended and self._default is not None:
                self._default.close()
                self._default = None
            self._lock.release()

    @property
    def _settings(self) -> tuple[Setting, Setting]:
        return self.plan.measured[-1].settings[0], self.plan.setting

    def _wait_for_a_pause(self) -> None:
        for _ in range(PATIENCE):
            calls = self._calls
            time.sleep(PAUSE)
            # At the interpreter's end nothing may wait for this thread.
            self.ended = self.ended or not threading.main_thread().is_alive()
            if self.ended or calls == self._calls:
                return

    def _decide(self) -> None:
        self.ended = True
        default, chosen = self._settings
        evidence: Evidence[Setting] = Evidence()
        evidence.priors = {default: Prior(0.0, 0.0), chosen: Prior(0.0, 1.0)}
        for measured in self.plan.measured:
            rounds = [{measured.settings[place]: seconds for place, seconds in each} for each in measured.rounds]
            evidence.add_session(Session(rounds, doubt(measured)), default)
        for times in self._rounds:
            evidence.add(times)
        belief = evidence.beliefs(default)[chosen]
        busy = self._meter.words()
        new = kept_rounds([default, chosen], self._rounds, busy)
        still = [each for each, dropped in zip(self.plan.measured, evidence.dropped, strict=True) if not dropped]
        plan = with_measured(replace(self.plan, measured=(new,), unsure="the machine was busy" if busy else ""), *still)
        if belief.mean <= 0:
            self._decided(plan, None)
            return
        gone = replace(plan, setting=default, seconds=plan.default_seconds, ratio=1.0, unsure=SLOWER_IN_USE)
        engine, self._default = self._default, None
        self._decided(gone, engine)


def _seconds(run: Run, feeds: Mapping[str, np.ndarray]) -> float:
    run(feeds)  # warms up
    start = clock()
    run(feeds)
    return max(clock() - start, 1e-9)
