"""How many requests share a run: decided by what runs were measured to take when the model was opened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from onnxferry.runtime.server import opening
from onnxferry.runtime.server.opening import PATIENT_GAIN, _Speed

MS = 0.001


def speed(monkeypatch: pytest.MonkeyPatch, seconds: Mapping[int, float]) -> _Speed:
    monkeypatch.setattr(opening, "_least_seconds", lambda engine, choices: dict(seconds))
    nothing: Any = None
    return _Speed(nothing, {rows: {} for rows in seconds})


@pytest.mark.parametrize(
    ("seconds", "rows"),
    [
        ({1: 1.0 * MS}, 1),  # no batch can be made
        ({1: 1.0 * MS, 8: 7.8 * MS, 16: 15.4 * MS, 32: 33.0 * MS}, 8),  # a larger one brings next to nothing
        ({1: 1.0 * MS, 8: 7.8 * MS, 16: 13.0 * MS, 32: 25.9 * MS}, 16),
        ({1: 50 * MS, 8: 400 * MS}, 1),  # to begin a run takes nothing beside it
        ({1: 1.0 * MS, 8: 12.0 * MS, 16: 26.0 * MS}, 1),  # a batch that does not fit a cache
        ({1: 0.02 * MS, 8: 0.16 * MS, 16: 0.32 * MS, 32: 0.64 * MS}, 32),  # next to nothing but beginning a run
        ({1: 1.0 * MS, 8: 2.0 * MS, 16: 4.0 * MS}, 32),  # worth waiting for: as many as come
    ],
)
def test_the_smallest_batch_whose_rows_cost_next_to_least(monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float], rows: int) -> None:
    assert speed(monkeypatch, seconds).rows == rows


def test_what_beginning_a_run_takes_is_no_reason_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    assert speed(monkeypatch, {1: 0.02 * MS, 8: 0.16 * MS}).gain == pytest.approx(1.0)
    assert speed(monkeypatch, {1: 1.0 * MS, 8: 2.0 * MS}).gain >= PATIENT_GAIN
