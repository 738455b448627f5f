"""Results of tuning: settings, the trials of each candidate, and the plan for each batch size; to and from JSON."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from onnxferry.runtime.artifact.describe import Description
from onnxferry.runtime.engine.ort import GRAPH_LEVELS, ONNXRUNTIME, Sizes

BINDINGS = ("run", "run_into")
"""``run``: the session allocates new outputs; ``run_into``: it uses bound buffers, and inputs and outputs are copied."""


@dataclass(frozen=True)
class Setting:
    """One way to run a model."""

    variant: str = ""  # tag of a certified variant; "" for the file itself
    threads: int = 1
    graph_level: str = "all"  # one of ort.GRAPH_LEVELS
    binding: str = "run"  # one of BINDINGS
    sizes: Sizes = ()  # of dynamic axes that its graph is optimized for; inputs of other sizes run without
    backend: str = ONNXRUNTIME  # a name of engine.backends.choose; graph level and binding are ONNX Runtime's alone


@dataclass(frozen=True)
class Trial:
    """The result of one candidate at one batch size."""

    setting: Setting
    seconds: float | None  # per run, median over its turns; None if it was not timed
    ratio: float | None  # times as fast as the default in the same turns; None if it was not timed
    verdict: str  # "chosen", "default", or why it was not chosen: a word or two, details after a colon


@dataclass(frozen=True)
class Measured:
    """What one search, or one check of a plan in use, measured: rounds in which settings took turns."""

    at: float  # seconds since 1970
    busy: str  # what else kept the machine busy meanwhile, in words; "" for nothing
    settings: tuple[Setting, ...]  # the default first
    rounds: tuple[tuple[tuple[int, float], ...], ...]  # of each turn: the setting's place and the seconds of a run


@dataclass(frozen=True)
class Plan:
    """The way to run one batch size."""

    batch: int
    setting: Setting
    seconds: float  # per run, median
    default_seconds: float  # per run with the default setting, under the conditions of those runs
    ratio: float  # times as fast as the default, from all rounds; 1 if the default stays
    trials: tuple[Trial, ...]
    unsure: str = ""  # why another search may find something else, in words; "" where that is not likely
    measured: tuple[Measured, ...] = ()  # by this search and those before it, the newest last

    @property
    def busy(self) -> str:
        """What kept the machine busy when it was found; "" for nothing."""
        return self.measured[-1].busy if self.measured else ""


@dataclass(frozen=True)
class Tuning:
    """Plans by batch size, for one file on one machine."""

    path: Path
    plans: Mapping[int, Plan]
    machine: str
    per_row: frozenset[str] = frozenset()  # tags of variants that run one row at a time
    text: bool = False  # a run writes text: inputs.WRITTEN bytes per row
    remembered: bool = False  # nothing had to be measured
    not_kept: str = ""  # why the result could not be kept; "" if it was
    seconds: float = field(default=0.0, compare=False)  # that measuring took
    files: Mapping[str, Description] = field(default_factory=dict, compare=False, repr=False)  # as read; the model itself under ""
    keep: Callable[[Plan], str] | None = field(default=None, compare=False, repr=False)  # keeps a plan that was checked in use

    @property
    def best_batch(self) -> int:
        """The tuned batch size with the least time per row: the one to group many inputs by."""
        return min(self.plans.values(), key=lambda plan: plan.seconds / plan.batch).batch

    def nearest(self, rows: int) -> Plan:
        """The plan of the tuned batch size that is nearest in ratio; of two equally near, the larger."""
        return min(self.plans.values(), key=lambda plan: (abs(math.log(max(rows, 1) / plan.batch)), -plan.batch))


def plan_to_json(plan: Plan) -> dict[str, Any]:
    return asdict(plan)


def plan_from_json(value: Any, batch: int, tags: frozenset[str]) -> Plan | None:
    """None if the value is not a valid plan for that batch size with these variants."""
    try:
        plan = Plan(
            batch=value["batch"],
            setting=_setting(value["setting"]),
            seconds=_positive(value["seconds"]),
            default_seconds=_positive(value["default_seconds"]),
            ratio=_positive(value["ratio"]),
            trials=tuple(_trial(trial) for trial in value["trials"]),
            unsure=_text(value["unsure"]),
            measured=tuple(_measured(each) for each in value["measured"]),
        )
    except (KeyError, TypeError, ValueError):
        return None
    return plan if plan.batch == batch and plan.setting.variant in {"", *tags} else None


def _trial(value: Any) -> Trial:
    seconds, ratio = (None if value[key] is None else _positive(value[key]) for key in ("seconds", "ratio"))
    return Trial(_setting(value["setting"]), seconds, ratio, _text(value["verdict"]))


def _measured(value: Any) -> Measured:
    settings = tuple(_setting(each) for each in value["settings"])
    rounds = tuple(tuple((int(place), _positive(seconds)) for place, seconds in each) for each in value["rounds"])
    if not all(0 <= place < len(settings) for each in rounds for place, _ in each):
        raise ValueError("rounds")
    return Measured(_positive(value["at"]), _text(value["busy"]), settings, rounds)


def _setting(value: Any) -> Setting:
    sizes = tuple((_text(axis), size) for axis, size in value["sizes"])
    variant, level, binding, backend = (_text(value[key]) for key in ("variant", "graph_level", "binding", "backend"))
    setting = Setting(variant, value["threads"], level, binding, sizes, backend)
    if type(setting.threads) is not int or not 1 <= setting.threads <= 1024:
        raise ValueError("threads")
    if setting.graph_level not in GRAPH_LEVELS or setting.binding not in BINDINGS:
        raise ValueError("names")
    if not re.fullmatch(r"[a-z0-9-]{1,64}", backend):
        raise ValueError("backend")
    if not all(type(size) is int and size > 0 for _, size in sizes):
        raise ValueError("sizes")
    return setting


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("text")
    return value


def _positive(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError("number")
    return float(value)
