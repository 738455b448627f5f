"""What is expected of a candidate before it is timed: from certificates, from earlier searches, from what settings usually do."""

from __future__ import annotations

import math
import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from onnxferry.runtime.artifact.variants import certified_speeds
from onnxferry.runtime.engine.ort import ONNXRUNTIME
from onnxferry.runtime.machine.cpu import cpu_name
from onnxferry.runtime.tuning.evidence import Effect, Prior
from onnxferry.runtime.tuning.plan import Measured, Plan, Setting

CERTIFIED_HERE, CERTIFIED, BACKEND = 0.1, 0.25, 0.5
"""Standard deviations of what is expected before timing: of a variant's certified speed, on this kind of CPU and elsewhere; of another
back end."""


THREADS, LEVEL, SIZES, BINDING = Effect(0.0, 0.35), Effect(0.03, 0.08), Effect(-0.01, 0.05), Effect(-0.01, 0.05)
"""What is expected of another number of threads; of a lower graph level, which is seldom faster; of fixed sizes; and of bound buffers."""


OTHERWISE = 0.5
"""Of an effect's deviation: how far it may be another one for another file or back end."""


ITSELF = 0.02
"""Standard deviation of what a setting has to itself, beside what its parts do."""


SAME, BUSY, MONTH = 0.02, 0.2, 0.03
"""How far a candidate may be from what an earlier search measured, as standard deviations: at least; where the machine was busy; for each
month that has passed."""


KEPT, KEPT_ROUNDS = 5, 120
"""Searches that are kept for a batch size, and rounds of each."""


def expectation(setting: Setting, default: Setting, certificate: Mapping[str, Any], batch: int) -> Prior:
    """Of a setting, by what it has other than the default; another file's speed is the certified one of the batch nearest in ratio."""
    file = setting.variant, setting.backend
    effects: dict[Hashable, Effect] = {}
    if setting.variant:
        speed, deviation = certified_speed(certificate, batch)
        effects[file] = Effect(-math.log(speed), deviation)
    elif setting.backend != ONNXRUNTIME:
        effects[file] = Effect(0.0, BACKEND)
    for part, usual in (("threads", THREADS), ("graph_level", LEVEL), ("sizes", SIZES), ("binding", BINDING)):
        value = getattr(setting, part)
        if value != getattr(default, part):
            effects[part, value] = usual
            effects[part, value, file] = Effect(0.0, OTHERWISE * usual.deviation)
    return Prior(0.0, ITSELF, effects)


def certified_speed(certificate: Mapping[str, Any], batch: int) -> tuple[float, float]:
    """Times as fast as the original at the certified batch size nearest in ratio, and how far that may be off here, as a share."""
    speeds = {size: ratio for size, ratio in certified_speeds(certificate.get("speed")).items() if 0.01 < ratio < 100}
    if not speeds:
        return 1.0, CERTIFIED
    nearest = min(speeds, key=lambda size: abs(math.log(size / batch)))
    return speeds[nearest], CERTIFIED_HERE if certificate.get("machine") == cpu_name() else CERTIFIED


def doubt(measured: Measured) -> float:
    """How far the machine may be from what it was then, as a share."""
    months = max(time.time() - measured.at, 0.0) / (30 * 86_400)
    return math.hypot(BUSY if measured.busy else SAME, MONTH * months)


def kept_rounds(settings: Sequence[Setting], rounds: Sequence[Mapping[Setting, float]], busy: str) -> Measured:
    """What one search measured, as it is kept: of many rounds some, spread evenly. ``settings``: the default first."""
    places = {setting: place for place, setting in enumerate(settings)}
    count = min(len(rounds), KEPT_ROUNDS)
    some = [rounds[number * len(rounds) // count] for number in range(count)]
    shortened = tuple(tuple((places[setting], float(f"{seconds:.4g}")) for setting, seconds in each.items()) for each in some)
    return Measured(time.time(), busy, tuple(settings), shortened)


def with_measured(plan: Plan, *others: Measured) -> Plan:
    """A plan with what others measured too, by time; the oldest are dropped."""
    every = dict.fromkeys((*others, *plan.measured))  # what both have once
    return replace(plan, measured=tuple(sorted(every, key=lambda each: each.at)[-KEPT:]))
