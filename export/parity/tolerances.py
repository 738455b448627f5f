"""Tolerances with their reasons, and how far two arrays are apart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxferry.runtime.artifact.contract import Tolerance

# By dtype: tolerance and reason. atol is a share of the output's largest magnitude (see default_tolerance): an error of float
# arithmetic is relative to the terms that were summed, not to a sum that happens to come out near zero.
DEFAULT_TOLERANCES: Mapping[str, tuple[Tolerance, str]] = {
    "float64": (Tolerance(1e-7, 1e-8), "float64: sums in another order, and functions to within a few units in the last place"),
    "float32": (Tolerance(1e-4, 1e-5), "float32: sums in another order, and polynomial sigmoid, tanh and exp, through some tens of layers"),
    "float16": (Tolerance(1e-2, 2e-3), "float16: one unit in the last place is 1e-3, and the file may keep float32 between operators"),
}


EXACT = (Tolerance(0.0, 0.0), "whole numbers and flags must be equal")


def default_tolerance(dtype: np.dtype[Any], scale: float) -> tuple[Tolerance, str]:
    """Tolerance and reason for an output of this dtype whose largest magnitude is ``scale``."""
    if dtype.name not in DEFAULT_TOLERANCES:
        return EXACT
    base, reason = DEFAULT_TOLERANCES[dtype.name]
    return Tolerance(base.rtol, base.atol * scale if math.isfinite(scale) else base.atol), reason


@dataclass(frozen=True)
class FloatTolerance:
    """What a user asked of every float output; None leaves that half as the dtype has it. Whole numbers and flags stay equal."""

    rtol: float | None = None
    atol: float | None = None


GivenTolerance = Tolerance | FloatTolerance
"""Of one output: held as it is, whatever the dtype, or for floats only."""


def resolved_tolerance(given: GivenTolerance | None, dtype: np.dtype[Any], scale: float) -> tuple[Tolerance, str]:
    """Tolerance and reason, with what was given for the output. ``scale``: as of :func:`default_tolerance`."""
    if isinstance(given, Tolerance):
        return given, "given"
    default, reason = default_tolerance(dtype, scale)
    if given is None or dtype.kind != "f":
        return default, reason
    return Tolerance(default.rtol if given.rtol is None else given.rtol, default.atol if given.atol is None else given.atol), "given"


def ulp_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Units in the last place between two arrays of the same float dtype, as int64 (saturated)."""
    kind: Any = {2: np.int16, 4: np.int32, 8: np.int64}[a.dtype.itemsize]

    def ordered(x: np.ndarray) -> np.ndarray:
        # IEEE bits order like whole numbers, but the negative ones run backwards.
        bits = np.ascontiguousarray(x).view(kind).astype(np.int64)
        lowest = np.int64(np.iinfo(kind).min)
        return np.asarray(np.where(bits < 0, lowest - bits, bits))

    x, y = ordered(a), ordered(b)
    with np.errstate(over="ignore"):
        distance = np.abs(x - y)
    # Opposite signs of float64 can be farther apart than int64 holds.
    return np.where(distance < 0, np.iinfo(np.int64).max, distance)


def ulps_between(a: Any, b: Any) -> int:
    return int(ulp_distance(np.asarray(a).reshape(1), np.asarray(b).reshape(1))[0])


def magnitude(array: np.ndarray) -> float:
    if array.size == 0 or array.dtype.kind not in "fiu":
        return 0.0
    values = np.abs(array.astype(np.float64))
    return float(values.max(initial=0.0, where=np.isfinite(values)))


def psnr(want: np.ndarray, got: np.ndarray, peak: float = 255.0) -> float:
    """Peak signal-to-noise ratio in decibels, over all elements; infinite where they are equal."""
    error = float(np.mean(np.square(want.astype(np.float64) - got.astype(np.float64))))
    return math.inf if error == 0 else 10 * math.log10(peak**2 / error)


def all_finite(array: np.ndarray) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def repeated(first: np.ndarray, again: np.ndarray) -> bool:
    """Whether two runs on the same input gave the same, but for a few roundings: sums over threads may change their order."""
    if first.shape != again.shape or first.dtype != again.dtype:
        return False
    if first.dtype.kind != "f":
        return bool(np.array_equal(first, again))
    roundings = 8 * float(np.finfo(first.dtype).eps)
    return bool(np.allclose(again, first, rtol=roundings, atol=roundings * magnitude(first), equal_nan=True))


# A pixel is rounded from a float, and may fall on the other side of a half level; the judge also counts how often.
PIXELS = Tolerance(rtol=0.0, atol=1.0)


# float32 through some ten layers: what an element may be off by, beside the same share of its size.
FLOATS = Tolerance(rtol=1e-4, atol=1e-4)


# A score is a mean of squares, far below 1: held to its own size.
SCORES = Tolerance(rtol=1e-4, atol=1e-6)
