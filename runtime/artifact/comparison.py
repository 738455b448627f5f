"""Comparing arrays: how far they are apart, element by element, and where that is more than a tolerance allows.

Everything that compares the outputs of two runs uses these functions; reports are built on them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxferry.runtime.artifact.tolerances import EXACT, Tolerance, batch_tolerance


@dataclass(frozen=True)
class Comparison:
    """One output of one sample, compared with the expected one."""

    sample: int  # position among the golden samples
    output: str
    passed: bool
    problem: str  # as text; empty if it passed
    max_abs: float | None  # largest |actual - expected|; None where nothing could be compared, inf where one is not a number
    tolerance: Tolerance
    worst: tuple[int, ...] | None  # index of the element that is furthest outside its tolerance, or nearest to it
    actual: float | None  # that element
    expected: float | None
    rms: float | None = None  # root mean square of the differences of all samples, as a share of that of what is expected
    rms_allowed: float | None = None  # of an output that is held to its certificate by that; the tolerance then says nothing


def absolute_difference(actual: np.ndarray, expected: np.ndarray, equal_nan: bool = False) -> np.ndarray:
    """``|actual - expected|`` in float64, of two arrays of one shape.

    0 where they are equal, also infinities; infinite where either is not a number, unless both are and ``equal_nan`` is true.
    """
    with np.errstate(invalid="ignore", over="ignore"):  # arithmetic with infinities and not-a-number, which is decided here
        a, e = actual.astype(np.float64), expected.astype(np.float64)
        equal = actual == expected
        if equal_nan:
            equal = equal | (np.isnan(a) & np.isnan(e))
        difference: np.ndarray = np.where(equal, 0.0, np.abs(a - e))
    difference[np.isnan(difference)] = np.inf
    return difference


def allowed_difference(expected: np.ndarray, tolerance: Tolerance) -> np.ndarray:
    """``atol + rtol * |expected|`` in float64; 0 where ``expected`` is not finite, which must be equal."""
    with np.errstate(invalid="ignore", over="ignore"):
        allowed = tolerance.atol + tolerance.rtol * np.abs(expected.astype(np.float64))
    return np.where(np.isfinite(allowed), allowed, 0.0)


def outside(actual: np.ndarray, expected: np.ndarray, tolerance: Tolerance, equal_nan: bool = False) -> np.ndarray:
    """Where two arrays of one shape differ by more than the tolerance allows: a mask of that shape."""
    if tolerance == EXACT and expected.dtype.kind in "iub":
        return np.asarray(actual != expected)  # float64 shows two large 64-bit integers that differ as the same number
    return np.asarray(absolute_difference(actual, expected, equal_nan) > allowed_difference(expected, tolerance))


def rms_share(expected: Sequence[np.ndarray], actual: Sequence[np.ndarray]) -> float:
    """Root mean square of the differences of all arrays, as a share of that of ``expected``; infinite for other shapes, or no numbers."""
    if not all(isinstance(array, np.ndarray) and array.dtype.kind in "biuf" for array in (*expected, *actual)):
        return math.inf
    if any(a.shape != b.shape for a, b in zip(expected, actual, strict=True)):
        return math.inf
    off = whole = 0.0
    for a, b in zip(expected, actual, strict=True):
        exact = a.astype(np.float64)
        off += float(np.square(b - exact).sum())
        whole += float(np.square(exact).sum())
    share = math.sqrt(off / whole) if whole else math.sqrt(off)
    return share if math.isfinite(share) else math.inf


def compare_output(sample: int, output: str, actual: np.ndarray | None, expected: np.ndarray, tolerance: Tolerance) -> Comparison:
    """``|actual - expected| <= atol + rtol * |expected|`` everywhere, after dtype and shape.

    NaN on either side fails. Infinities must be equal.
    """

    def failed(problem: str) -> Comparison:
        return Comparison(sample, output, False, problem, None, tolerance, None, None, None)

    if actual is None:
        return failed("the model has no such output")
    if not isinstance(actual, np.ndarray):  # a sequence or a map
        return failed(f"expected a tensor, got a {type(actual).__name__}")
    if actual.dtype != expected.dtype:
        return failed(f"dtype {actual.dtype}, expected {expected.dtype}")
    if actual.shape != expected.shape:
        return failed(f"shape {actual.shape}, expected {expected.shape}")
    if actual.size == 0:
        return Comparison(sample, output, True, "", 0.0, tolerance, None, None, None)

    difference, allowed = absolute_difference(actual, expected), allowed_difference(expected, tolerance)
    beyond = outside(actual, expected, tolerance)
    with np.errstate(over="ignore"):  # a difference beyond a tolerance of 0 is infinitely far
        excess = difference / np.maximum(allowed, np.finfo(np.float64).tiny)
    place = int(np.argmax(np.where(beyond, excess, -1.0) if beyond.any() else excess))
    index = tuple(int(i) for i in np.unravel_index(place, actual.shape))
    values = actual[index].item(), expected[index].item()
    problem = ""
    if beyond.any():
        where = f"[{', '.join(map(str, index))}]" if index else "the value"
        within = f" within {allowed[index]:.3g}" if allowed[index] else ""
        problem = f"{where} is {_number(values[0])}, expected {_number(values[1])}{within}"
        problem += f" ({int(beyond.sum())} of {beyond.size} elements differ too much)"
    return Comparison(sample, output, not beyond.any(), problem, float(difference.max()), tolerance, index, *values)


def _number(value: float) -> str:
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def alike_in_a_batch(alone: Mapping[str, np.ndarray], merged: Mapping[str, np.ndarray]) -> bool:
    """Whether a row's outputs in a batch are those that it gives by itself, up to rounding.

    Classes and indices count only where there are no floating-point numbers: rounding decides between equals.
    """
    floats = [name for name, array in alone.items() if array.dtype.kind == "f"]
    for name in floats or alone:
        one, other = alone[name], merged[name]
        if one.shape != other.shape:
            return False
        if one.dtype.kind != "f":
            if not np.array_equal(one, other):
                return False
        elif absolute_difference(other, one, equal_nan=True).max(initial=0) > batch_tolerance(one).atol:
            return False
    return True
