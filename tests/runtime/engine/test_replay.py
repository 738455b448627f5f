"""Replaying golden samples passes only where something was verified."""

from __future__ import annotations

import numpy as np
import pytest

from onnxferry.runtime.artifact.contract import Contract, Golden
from onnxferry.runtime.artifact.tolerances import Tolerance
from onnxferry.runtime.engine.replay import replay_goldens


def replayed(actual: np.ndarray, expected: np.ndarray, tolerance: Tolerance | None = None):
    golden = Golden({"x": np.zeros((1, 1), np.float32)}, {"y": expected})
    contract = Contract("model", "m", goldens=(golden,), tolerances={"y": tolerance} if tolerance else {})
    return replay_goldens(lambda _: {"y": actual}, contract)


def test_samples_without_elements_verify_nothing() -> None:
    empty = np.zeros((0, 3), np.float32)
    report = replayed(empty, empty)
    assert not report.passed
    assert report.comparisons == ()
    assert not replayed(np.zeros((0, 4), np.float32), empty).passed  # a wrong shape is still reported
    assert len(replayed(np.zeros((0, 4), np.float32), empty).comparisons) == 1


@pytest.mark.parametrize("tolerance", [Tolerance(0.0, 1e308), Tolerance(1.0, 1.0), Tolerance(0.0, 12_345.0)])
def test_a_tolerance_that_accepts_anything_fails(tolerance: Tolerance) -> None:
    one, expected = np.array([1.0], np.float32), np.array([12_345.0], np.float32)
    (comparison,) = replayed(one, expected, tolerance).comparisons
    assert not comparison.passed
    assert "accept any value" in comparison.problem


def test_a_wide_but_meaningful_tolerance_passes() -> None:
    expected = np.array([200.0, 0.0], np.float32)
    assert replayed(expected + 20, expected, Tolerance(0.0, 24.0)).passed
    assert replayed(expected, expected, Tolerance(1e-4, 1e-5)).passed
    assert replayed(np.zeros(2, np.float32), np.zeros(2, np.float32), Tolerance(1e-4, 1e-5)).passed
