"""Timing in turns: how often, in which order, and what the medians are worth. By a clock of the test's own."""

from __future__ import annotations

import numpy as np
import pytest

from onnxferry.runtime import timing
from onnxferry.runtime.timing import alternating, median_and_error, ratios, repeat_for, rotated, time_call, time_in_turns


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in a list of one: a test moves it on."""
    now = [100.0]
    monkeypatch.setattr(timing, "clock", lambda: now[0])
    return now


@pytest.mark.parametrize(("at_least", "at_most", "expected"), [(1, None, 4), (9, None, 9), (1, 2, 2), (0, 0, 0), (0, None, 4)], ids=str)
def test_repeats_for_a_while(now: list[float], at_least: int, at_most: int | None, expected: int) -> None:
    seen = []
    for number in repeat_for(1.0, at_least=at_least, at_most=at_most):
        seen.append(number)
        now[0] += 0.3
    assert seen == list(range(expected))


def test_one_call_is_always_made(now: list[float]) -> None:
    assert list(repeat_for(0.0)) == [0]
    assert list(repeat_for(0.0, at_least=0)) == []


def test_times_of_calls_in_turns(now: list[float]) -> None:
    order = []

    def takes(name: str, seconds: float) -> None:
        order.append(name)
        now[0] += seconds

    times = time_in_turns({"a": lambda: takes("a", 0.25), "b": lambda: takes("b", 0.5)}, seconds=1.0, min_rounds=3)
    assert times == {"a": [0.25] * 3, "b": [0.5] * 3}
    assert order == ["b", "a", "a", "b", "b", "a"]
    assert ratios(times["b"], times["a"][:2]) == [2.0, 2.0]
    assert time_call(takes, "a", 0.75) == 0.75


def test_orders_of_rounds() -> None:
    assert [list(alternating("abc", number)) for number in range(3)] == [list("cba"), list("abc"), list("cba")]
    assert [rotated("abc", number) for number in range(4)] == [list("abc"), list("bca"), list("cab"), list("abc")]
    assert rotated([], 3) == []


def test_the_error_of_a_median_is_about_right() -> None:
    """Against the spread of medians of many samples of normal noise of deviation 0.1."""
    drawn = np.random.default_rng(0).normal(2.0, 0.1, (400, 101))
    found = [median_and_error(list(row)) for row in drawn]
    medians, errors = (np.array(column) for column in zip(*found, strict=True))
    assert np.median(errors) == pytest.approx(medians.std(), rel=0.15)
    assert median_and_error([3.0]) == (3.0, 0.0)
