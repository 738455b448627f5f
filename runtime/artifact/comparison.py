"""Two outputs, one tolerance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxferry.runtime.artifact.contract import Tolerance

EXACT = Tolerance(rtol=0.0, atol=0.0)
"""For integers and booleans, where the contract names no tolerance: decisions and bytes are right or wrong."""


@dataclass(frozen=True)
class Comparison:
    """One output of one sample, against what it should be."""

    sample: int  # position among the golden samples
    output: str
    passed: bool
    problem: str  # in words; empty where it passed
    max_abs: float | None  # largest |actual - expected|; None where nothing could be compared, inf where one is not a number
    tolerance: Tolerance
    worst: tuple[int, ...] | None  # index of the element that is furthest outside, or nearest to, its tolerance
    actual: float | None  # that element
    expected: float | None


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

    Not-a-number fails on either side: a comparison with it proves nothing. Infinities must be equal.
    """

    def failed(problem: str) -> Comparison:
        return Comparison(sample, output, False, problem, None, tolerance, None, None, None)

    if actual is None:
        return failed("the model gives no such output")
    if not isinstance(actual, np.ndarray):  # a sequence or a map
        return failed(f"it is no tensor but a {type(actual).__name__}")
    if actual.dtype != expected.dtype:
        return failed(f"dtype {actual.dtype}, expected {expected.dtype}")
    if actual.shape != expected.shape:
        return failed(f"shape {actual.shape}, expected {expected.shape}")
    if actual.size == 0:
        return Comparison(sample, output, True, "", 0.0, tolerance, None, None, None)

    equal = actual == expected
    # Arithmetic with infinities and not-a-number, which are decided below; a difference beyond a tolerance of 0 is infinitely far.
    with np.errstate(invalid="ignore", over="ignore"):
        a, e = actual.astype(np.float64), expected.astype(np.float64)
        difference = np.where(equal, 0.0, np.abs(a - e))
        difference[np.isnan(difference)] = np.inf
        allowed = tolerance.atol + tolerance.rtol * np.abs(e)
        near = (difference <= allowed) & np.isfinite(e)
        excess = np.where(equal, 0.0, difference / np.maximum(allowed, np.finfo(np.float64).tiny))
    # Float64 shows two large 64-bit integers that differ as the same number, so without a tolerance only equality counts.
    outside = ~equal if tolerance == EXACT else ~equal & ~near
    excess = np.where(np.isnan(excess), np.inf, excess)
    index = tuple(int(i) for i in np.unravel_index(int(np.argmax(np.where(outside, excess, -1.0) if outside.any() else excess)), a.shape))
    values = actual[index].item(), expected[index].item()
    problem = ""
    if outside.any():
        where = f"[{', '.join(map(str, index))}]" if index else "the value"
        within = f" within {allowed[index]:.3g}" if np.isfinite(allowed[index]) and allowed[index] else ""
        problem = f"{where} is {_number(values[0])}, expected {_number(values[1])}{within}"
        problem += f" ({int(outside.sum())} of {outside.size} elements differ too much)"
    return Comparison(sample, output, not outside.any(), problem, float(difference.max()), tolerance, index, *values)


def _number(value: float) -> str:
    return f"{value:.9g}" if isinstance(value, float) else str(value)
