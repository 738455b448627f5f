from __future__ import annotations

import math
import re
import warnings

import numpy as np
import pytest

from onnxferry.runtime.artifact.comparison import (
    absolute_difference,
    alike_in_a_batch,
    allowed_difference,
    compare_output,
    outside,
    rms_share,
)
from onnxferry.runtime.artifact.contract import Contract, Golden, Tolerance
from onnxferry.runtime.artifact.tolerances import EXACT, golden_tolerance, setting_tolerance
from onnxferry.runtime.engine.replay import replay_goldens
from onnxferry.runtime.errors import CheckFailedError

LOOSE = Tolerance(rtol=0.1, atol=0.01)


def compare(actual, expected, tolerance: Tolerance = LOOSE):
    return compare_output(0, "y", None if actual is None else np.asarray(actual), np.asarray(expected), tolerance)


@pytest.mark.parametrize(
    ("actual", "expected", "passes"),
    [
        (1.1099, 1.0, True),
        (1.1101, 1.0, False),
        (0.8899, 1.0, False),
        (-0.0, 0.0, True),
        (0.0101, 0.0, False),
        (np.nan, 1.0, False),
        (1.0, np.nan, False),
        (np.nan, np.nan, False),
        (np.inf, np.inf, True),
        (-np.inf, np.inf, False),
        (1e308, np.inf, False),
        (np.inf, 1.0, False),
    ],
)
def test_a_float_passes_only_within_its_tolerance(actual: float, expected: float, passes: bool) -> None:
    result = compare([0.5, actual], [0.5, expected])
    assert result.passed is passes
    assert bool(result.problem) is not passes
    if not passes:
        assert result.worst == (1,)


def test_the_worst_element_is_the_furthest_outside_its_own_tolerance() -> None:
    expected = np.array([[100.0, 0.0], [1.0, 1.0]])
    actual = expected + np.array([[5.0, 0.03], [0.115, 0.0]])  # 5 is within 10.01; 0.03 is 3 times 0.01; 0.115 just beyond 0.11
    result = compare(actual, expected)
    assert not result.passed
    assert result.worst == (0, 1)
    assert (result.actual, result.expected) == (pytest.approx(0.03), 0.0)
    assert result.max_abs == pytest.approx(5.0)
    assert result.problem == "[0, 1] is 0.03, expected 0 within 0.01 (2 of 4 elements differ too much)"


def test_not_a_number_counts_before_any_other() -> None:
    result = compare([9.0, np.nan], [0.0, 1.0])
    assert result.max_abs == np.inf
    assert "2 of 2" in result.problem
    assert compare([0.0, np.nan], [0.0, 1.0]).problem.startswith("[1] is nan, expected 1")


@pytest.mark.parametrize(
    ("actual", "says"),
    [
        (None, "no such output"),
        (np.zeros(3, np.float64), "dtype float64, expected float32"),
        (np.zeros((3, 1), np.float32), r"shape \(3, 1\), expected \(3,\)"),
        (np.zeros((), np.float32), "shape"),
    ],
)
def test_dtype_and_shape_come_first(actual, says: str) -> None:
    result = compare_output(0, "y", actual, np.zeros(3, np.float32), LOOSE)
    assert not result.passed
    assert result.max_abs is None
    assert re.search(says, result.problem)


def test_a_tolerance_of_zero_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not compare_output(0, "y", np.array([1e300]), np.array([-1e300]), Tolerance(0, 0)).passed


def test_the_share_that_differences_have() -> None:
    one, other = np.array([3.0, 4.0], np.float32), np.array([3.0, 4.5], np.float32)
    assert rms_share([one], [other]) == pytest.approx(0.1)
    assert rms_share([one, one], [other, one]) == pytest.approx(math.sqrt(0.005))
    assert rms_share([np.array([200], np.uint8)], [np.array([100], np.uint8)]) == 0.5
    assert rms_share([0 * one], [other]) == pytest.approx(math.sqrt(3**2 + 4.5**2))
    for wrong in (other[:1], other * np.nan, other * np.inf):
        assert rms_share([one], [wrong]) == math.inf


def test_integers_are_exact_unless_a_tolerance_is_given() -> None:
    assert compare(np.array([2**62]), np.array([2**62]), EXACT).passed
    result = compare(np.array([2**62 + 1]), np.array([2**62]), EXACT)  # the same number in float64
    assert not result.passed
    assert result.problem.startswith("[0] is 4611686018427387905, expected 4611686018427387904 (1 of 1")
    assert compare(np.array([7], np.uint8), np.array([8], np.uint8), Tolerance(0, 1)).passed
    assert not compare(np.array([6], np.uint8), np.array([8], np.uint8), Tolerance(0, 1)).passed
    assert not compare(np.array([True]), np.array([False]), EXACT).passed


def test_scalars_and_empty_arrays() -> None:
    assert compare(1.0, 1.0).worst == ()
    assert "the value is 3" in compare(3.0, 1.0).problem
    assert compare(np.zeros((0, 3)), np.zeros((0, 3))).passed


def contract(tolerances: dict[str, Tolerance]) -> Contract:
    golden = Golden({"x": np.array([1.0, 2.0])}, {"double": np.array([2.0, 4.0]), "index": np.array([1])})
    return Contract("model", "doubler", goldens=(golden, golden), tolerances=tolerances)


def test_replaying_runs_every_sample_and_compares_every_output() -> None:
    fed = []

    def run(feeds):
        fed.append(feeds)
        return {"double": feeds["x"] * 2, "index": np.array([1]), "more": np.zeros(2)}

    report = replay_goldens(run, contract({}))
    assert len(fed) == 2
    assert [(c.sample, c.output, c.passed) for c in report.comparisons] == [(i, name, True) for i in (0, 1) for name in ("double", "index")]
    assert [c.tolerance for c in report.comparisons[:2]] == [Tolerance(), EXACT]
    assert report.passed
    report.raise_if_failed("m.onnx")


def test_the_contracts_own_tolerance_decides() -> None:
    def run(feeds):
        return {"double": feeds["x"] * 2 + 0.5, "index": np.array([2])}

    assert not replay_goldens(run, contract({})).passed
    assert replay_goldens(run, contract({"double": Tolerance(0, 0.5), "index": Tolerance(0, 1)})).passed


def test_failures_are_told_in_one_line() -> None:
    report = replay_goldens(lambda feeds: {"double": feeds["x"] * 3, "index": np.array([1])}, contract({}))
    with pytest.raises(CheckFailedError) as caught:
        report.raise_if_failed("m.onnx")
    assert str(caught.value).startswith("m.onnx does not give what it should on this machine: 2 of 4 comparisons failed, ")
    assert "first sample 0, output 'double': [1] is 6, expected 4" in str(caught.value)


def test_comparing_nothing_is_a_failure() -> None:
    report = replay_goldens(lambda feeds: {}, Contract("model", "bare"))
    assert not report.passed
    with pytest.raises(CheckFailedError, match="no golden samples"):
        report.raise_if_failed("m.onnx")


def test_what_is_no_array_fails_and_is_infinitely_far() -> None:
    one = np.ones(3, np.float32)
    found = compare_output(0, "y", [one], one, LOOSE)  # type: ignore[arg-type]  # a sequence, as ONNX Runtime gives it
    assert (found.passed, found.problem) == (False, "expected a tensor, got a list")
    assert rms_share([one], [[one]]) == math.inf  # type: ignore[list-item]
    assert rms_share([np.array(["a"])], [np.array(["a"])]) == math.inf


def test_difference_of_what_is_not_finite() -> None:
    nan, inf = np.nan, np.inf
    actual = np.array([1.0, inf, inf, nan, nan, 3.0], np.float32)
    expected = np.array([1.5, inf, -inf, nan, 1.0, nan], np.float32)
    assert absolute_difference(actual, expected).tolist() == [0.5, 0.0, inf, inf, inf, inf]
    assert absolute_difference(actual, expected, equal_nan=True).tolist() == [0.5, 0.0, inf, 0.0, inf, inf]
    wide = Tolerance(rtol=1.0, atol=1.0)
    assert allowed_difference(expected, wide).tolist() == [2.5, 0.0, 0.0, 0.0, 2.0, 0.0]
    assert outside(actual, expected, wide, equal_nan=True).tolist() == [False, False, True, False, True, True]


def test_exact_comparison_tells_large_integers_apart() -> None:
    large = np.array([2**62, 2**62 + 1])
    assert outside(large, large[::-1], EXACT).tolist() == [True, True]
    assert not outside(large, large.copy(), EXACT).any()


def test_tolerances_by_dtype() -> None:
    assert golden_tolerance(np.dtype("float32")) == Tolerance()
    assert golden_tolerance(np.dtype("int64")) == EXACT
    assert setting_tolerance(np.array([-5.0, 2.0], np.float32)) == Tolerance(1e-3, 5e-4)
    assert setting_tolerance(np.zeros(3, np.uint8)) == setting_tolerance(np.array([np.inf])) == Tolerance(0, 1)


@pytest.mark.parametrize(
    ("alone", "merged", "same"),
    [
        ({"y": np.float32([1, 2])}, {"y": np.float32([1.005, 2])}, True),
        ({"y": np.float32([1, 2])}, {"y": np.float32([1.05, 2])}, False),
        ({"y": np.float32([np.nan, np.inf])}, {"y": np.float32([np.nan, np.inf])}, True),
        ({"y": np.float32([np.nan, 1])}, {"y": np.float32([0, 1])}, False),
        ({"i": np.array([3])}, {"i": np.array([4])}, False),
        ({"i": np.array([3]), "y": np.float32([0.5])}, {"i": np.array([4]), "y": np.float32([0.5])}, True),  # a tie, rounded
        ({"t": np.array(["a"], object)}, {"t": np.array(["b"], object)}, False),
        ({"y": np.zeros((0, 2), np.float32)}, {"y": np.zeros((0, 2), np.float32)}, True),
    ],
)
def test_a_row_s_results_in_a_batch_and_alone(alone: dict[str, np.ndarray], merged: dict[str, np.ndarray], same: bool) -> None:
    assert alike_in_a_batch(alone, merged) is same
