"""Golden samples replayed: does a file, on this machine, still give what its source framework gave?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxferry.runtime.artifact.contract import Contract, Tolerance
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.errors import CheckFailedError
from onnxferry.runtime.rows import row_by_row

Run = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
"""Arrays by input name to arrays by output name, such as :meth:`onnxferry.runtime.Engine.run`."""


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


@dataclass(frozen=True)
class GoldenReport:
    """All outputs of all samples. Passed only if something was compared and all of it passed."""

    comparisons: tuple[Comparison, ...]

    @property
    def passed(self) -> bool:
        return bool(self.comparisons) and all(comparison.passed for comparison in self.comparisons)

    def raise_if_failed(self, name: str) -> None:
        """Raises CheckFailedError, whose first line names the first failure. ``name``: the file, for the message."""
        failures = [comparison for comparison in self.comparisons if not comparison.passed]
        if not self.comparisons:
            raise CheckFailedError(f"{name} carries no golden samples, so there is nothing to check it by; export it again with some")
        if failures:
            first = failures[0]
            raise CheckFailedError(
                f"{name} does not give what it should on this machine: {len(failures)} of {len(self.comparisons)} comparisons failed, "
                f"first sample {first.sample}, output {first.output!r}: {first.problem}"
            )


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


def replay_goldens(run: Run, contract: Contract) -> GoldenReport:
    """Runs every golden sample and compares every output by the contract's tolerance for it.

    Floating-point outputs that the contract names no tolerance for are held to Tolerance()'s own, others must be equal.
    """
    comparisons = []
    for sample, golden in enumerate(contract.goldens):
        actual = run(golden.inputs)
        for output, expected in golden.outputs.items():
            default = Tolerance() if expected.dtype.kind == "f" else EXACT
            tolerance = contract.tolerances.get(output, default)
            comparisons.append(compare_output(sample, output, actual.get(output), expected, tolerance))
    return GoldenReport(tuple(comparisons))


def replay(engine: Engine) -> GoldenReport:
    """The golden samples that an open file carries, none where it carries none. Rows run alone where the file says that they must."""
    return replay_goldens(row_by_row(engine), engine.contract) if engine.contract else GoldenReport(())


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
