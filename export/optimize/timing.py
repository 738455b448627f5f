"""Original and variant, timed in turns: what disturbs the machine disturbs both, and their ratio stays."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxferry.export.optimize.samples import count_rows, rows_of
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.machine.cpu import cpu_name
from onnxferry.runtime.machine.nvidia import device_names

FEEDS = 16
"""Different inputs that take turns, so that no answer is in a cache."""


WARM_SECONDS = 0.1


MIN_ROUNDS = 9


Feeds = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Speed:
    """Of a variant beside the original, at one batch size."""

    ratio: float  # original's time / variant's: above 1 is faster
    noise: float  # standard error of the ratio
    original: float  # seconds a run, median
    variant: float

    @property
    def faster(self) -> bool:
        """By more than the noise, and by enough to be worth a file."""
        return self.ratio - 2 * self.noise > 1.02


def compare_speed(original: Engine, variant: Engine, feeds: Sequence[Feeds], *, rows_alone: bool = False, seconds: float = 1.0) -> Speed:
    """Medians of rounds in which each runs all of ``feeds`` once, in turns; ``rows_alone``: the variant takes a row at a time."""
    alone = [_rows(each) for each in feeds] if rows_alone else [[each] for each in feeds]

    def run_original(index: int) -> None:
        original.run(feeds[index])

    def run_variant(index: int) -> None:
        for each in alone[index]:
            variant.run(each)

    sides: tuple[Callable[[int], None], ...] = (run_original, run_variant)
    for side in sides:
        start = time.perf_counter()
        while time.perf_counter() - start < min(WARM_SECONDS, seconds):
            side(0)
    spent: tuple[list[float], list[float]] = ([], [])
    start, rounds = time.perf_counter(), 0
    while rounds < MIN_ROUNDS or time.perf_counter() - start < seconds:
        for index in (0, 1) if rounds % 2 else (1, 0):
            begin = time.perf_counter()
            for feed in range(len(feeds)):
                sides[index](feed)
            spent[index].append((time.perf_counter() - begin) / len(feeds))
        rounds += 1
    ratios = [a / b for a, b in zip(*spent, strict=True)]
    ratio = statistics.median(ratios)
    deviation = 1.4826 * statistics.median(abs(each - ratio) for each in ratios)
    # The standard error of a median is 1.2533 times that of a mean.
    return Speed(ratio, 1.2533 * deviation / len(ratios) ** 0.5, statistics.median(spent[0]), statistics.median(spent[1]))


def rotating(feeds: Feeds, batch: int, count: int = FEEDS) -> list[dict[str, np.ndarray]]:
    """``count`` batches of ``batch`` rows of ``feeds``, drawn with repetition where there are too few."""
    rng = np.random.default_rng(batch)
    drawn = (rows_of(feeds, rng.integers(0, count_rows(feeds), batch)) for _ in range(count))
    return [{name: np.ascontiguousarray(array) if array.ndim else array for name, array in each.items()} for each in drawn]


def _rows(feeds: Feeds) -> list[Feeds]:
    return [rows_of(feeds, slice(i, i + 1)) for i in range(count_rows(feeds))]


def machine_name(device: str) -> str:
    """Of what is timed on "cpu" or "cuda", for people."""
    return cpu_name() if device == "cpu" else next(iter(device_names()), "a GPU")


def ort_version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)
