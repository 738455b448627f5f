"""Interleaved timing of the original and a variant: a disturbance of the machine affects both, and their ratio stays."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np

from onnxferry.export.optimize.samples import count_rows, rows_of
from onnxferry.runtime.engine.runner import Runner
from onnxferry.runtime.machine.cpu import cpu_name
from onnxferry.runtime.machine.nvidia import device_names
from onnxferry.runtime.timing import median_and_error, ratios, repeat_for, time_call, time_in_turns

FEEDS = 16
"""Different inputs that take turns, so that no result comes from a cache."""


WARM_SECONDS = 0.1


MIN_ROUNDS, FEW_ROUNDS = 9, 5


ROUND_SECONDS = 0.5
"""Of one side in a round, at most, as long as two inputs fit into it: for slower models there are fewer inputs, then fewer rounds."""


Feeds = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Speed:
    """Speed of a variant relative to the original, at one batch size."""

    ratio: float  # original's time / variant's: above 1 is faster
    noise: float  # standard error of the ratio
    original: float  # seconds a run, median
    variant: float

    @property
    def faster(self) -> bool:
        """Faster by more than the noise, and by enough to be worth a file."""
        return self.ratio - 2 * self.noise > 1.02


def feeds_for(run: float) -> int:
    """How many inputs take turns where a run takes so many seconds."""
    return max(2, min(FEEDS, int(ROUND_SECONDS / max(run, 1e-9))))


def _rounds_for(run: float, feeds: int) -> int:
    return MIN_ROUNDS if run * feeds <= 4 * ROUND_SECONDS else FEW_ROUNDS


def timing_seconds(run: float, seconds: float) -> float:
    """What :func:`compare_speed` takes, about, where a run takes ``run`` seconds, with ``feeds_for(run)`` inputs."""
    feeds = feeds_for(run)
    return max(seconds, 2 * run * feeds * _rounds_for(run, feeds)) + 2 * max(run, min(WARM_SECONDS, seconds))


def compare_speed(original: Runner, variant: Runner, feeds: Sequence[Feeds], *, rows_alone: bool = False, seconds: float = 1.0) -> Speed:
    """Medians of rounds in which each side runs all of ``feeds`` once, in turns; ``rows_alone``: the variant runs one row at a time.

    ``feeds``: as many as :func:`feeds_for` says. ``seconds``: that the rounds take at least.
    """
    sides = {"original": (original, [[each] for each in feeds]), "variant": (variant, [[each] for each in feeds])}
    if rows_alone:
        sides["variant"] = variant, [_rows(each) for each in feeds]
    slowest = 0.0
    for engine, runs in sides.values():
        for _ in repeat_for(min(WARM_SECONDS, seconds)):
            last = time_call(_run_each, engine, runs[0])
        slowest = max(slowest, last)
    calls = {side: partial(_run_each, engine, list(chain.from_iterable(runs))) for side, (engine, runs) in sides.items()}
    times = time_in_turns(calls, seconds, _rounds_for(slowest, len(feeds)))
    ratio, error = median_and_error(ratios(times["original"], times["variant"]))
    medians = {side: statistics.median(spent) / len(feeds) for side, spent in times.items()}
    return Speed(ratio, error, medians["original"], medians["variant"])


def _run_each(engine: Runner, feeds: Sequence[Feeds]) -> None:
    for each in feeds:
        engine.run(each)


def rotating(feeds: Feeds, batch: int, count: int = FEEDS) -> list[dict[str, np.ndarray]]:
    """``count`` batches of ``batch`` rows of ``feeds``, drawn with replacement."""
    rng = np.random.default_rng(batch)
    drawn = (rows_of(feeds, rng.integers(0, count_rows(feeds), batch)) for _ in range(count))
    return [{name: np.ascontiguousarray(array) if array.ndim else array for name, array in each.items()} for each in drawn]


def _rows(feeds: Feeds) -> list[Feeds]:
    return [rows_of(feeds, slice(i, i + 1)) for i in range(count_rows(feeds))]


def machine_name(device: str) -> str:
    """Display name of the processor for "cpu" or "cuda"."""
    return cpu_name() if device == "cpu" else next(iter(device_names()), "a GPU")


def ort_version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)
