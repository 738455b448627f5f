"""Timing of calls: one call, calls for a while, several calls in turns; their medians and how far these can be trusted.

    times = time_in_turns({"plain": lambda: plain.run(inputs), "tuned": lambda: tuned.run(inputs)}, seconds=2.0, min_rounds=9)
    ratio, error = median_and_error(ratios(times["plain"], times["tuned"]))    # above 1: tuned is faster

Times are in seconds, of a monotonic clock. Calls that are compared take turns, so that a disturbance of the machine affects all of
them, and the ratio of times from the same round stays.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")


clock = time.perf_counter


def time_call(call: Callable[..., object], *arguments: object) -> float:
    """Seconds that one call takes."""
    start = clock()
    call(*arguments)
    return clock() - start


def repeat_for(seconds: float, *, at_least: int = 1, at_most: int | None = None) -> Iterator[int]:
    """0, 1, 2 … until ``seconds`` have passed; never fewer than ``at_least`` nor more than ``at_most`` numbers."""
    start, number = clock(), 0
    while (at_most is None or number < at_most) and (number < at_least or clock() - start < seconds):
        yield number
        number += 1


def alternating(items: Sequence[T], number: int) -> Sequence[T]:
    """The order for round ``number``: each round goes through the items the other way, the first one backwards."""
    return items if number % 2 else items[::-1]


def rotated(items: Sequence[T], number: int) -> list[T]:
    """The order for round ``number``: each round begins with the next item."""
    shift = number % len(items) if items else 0
    return [*items[shift:], *items[:shift]]


def time_in_turns(calls: Mapping[str, Callable[[], object]], seconds: float, min_rounds: int = 1) -> dict[str, list[float]]:
    """Seconds of each call, by name, one a round. Rounds alternate in order and go on for ``seconds``, at least ``min_rounds`` of them."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in repeat_for(seconds, at_least=min_rounds):
        for name in alternating(tuple(calls), number):
            times[name].append(time_call(calls[name]))
    return times


def ratios(times: Sequence[float], others: Sequence[float]) -> list[float]:
    """``times`` over ``others``, round by round, for as many rounds as both have."""
    return [one / other for one, other in zip(times, others, strict=False)]


def median_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The median, and its standard error estimated from the median absolute deviation, assuming normal noise."""
    median = statistics.median(values)
    deviation = 1.4826 * statistics.median(abs(each - median) for each in values)
    # The standard error of a median is 1.2533 times that of a mean.
    return median, 1.2533 * deviation / len(values) ** 0.5
