"""Measures of arrays: units in the last place, magnitude, signal-to-noise ratio, and whether a run repeats."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from onnxferry.export.parity.tolerances import repeat_tolerance
from onnxferry.runtime.artifact.comparison import outside


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
    return not outside(again, first, repeat_tolerance(first.dtype, magnitude(first)), equal_nan=True).any()
