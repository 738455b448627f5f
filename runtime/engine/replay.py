"""Replays golden samples: does a model give the source framework's outputs on this machine?"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from onnxferry.runtime.artifact.comparison import Comparison, allowed_difference, compare_output, rms_share
from onnxferry.runtime.artifact.contract import Contract
from onnxferry.runtime.artifact.tolerances import ANY_NUMBER, LOOSE_SHARE, golden_tolerance, rms_limits
from onnxferry.runtime.engine.batches import per_row_run
from onnxferry.runtime.engine.runner import Runner
from onnxferry.runtime.errors import CheckFailedError

Run = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
"""Arrays by input name to arrays by output name, such as :meth:`onnxferry.runtime.engine.runner.Runner.run`."""


@dataclass(frozen=True)
class GoldenReport:
    """Comparisons of all outputs of all samples. Passed if there is at least one and all of them passed."""

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


def replay_goldens(run: Run, contract: Contract, allow_loose: bool = True) -> GoldenReport:
    """Runs every golden sample and compares every output by the contract's tolerance for it.

    Floating-point outputs without a tolerance in the contract are held to that of float32 (rtol 1e-4, atol 1e-5); others must be equal.
    The outputs of a certified variant that its certificate measured are held to that instead (:func:`tolerances.rms_limits`, over all
    samples): one pixel of an 8-bit image may be far off, so a tolerance for each pixel would pass any image.
    ``allow_loose``: False to fail where a tolerance is of the output's own size (:data:`tolerances.LOOSE_SHARE`).
    """
    limits = rms_limits(contract.certificate)
    comparisons = []
    compared: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in limits}
    for sample, golden in enumerate(contract.goldens):
        actual = run(golden.inputs)
        for output, expected in golden.outputs.items():
            tolerance = contract.tolerances.get(output) or golden_tolerance(expected.dtype)
            comparison = compare_output(sample, output, actual.get(output), expected, ANY_NUMBER if output in limits else tolerance)
            if output in limits and comparison.max_abs is not None:
                compared[output].append((expected, actual[output]))
            if expected.size or not comparison.passed:  # a comparison of no elements is none
                if output not in limits:
                    comparison = _unless_vacuous(comparison, expected)
                    if not allow_loose and not contract.certificate:
                        comparison = _unless_loose(comparison, expected)
                comparisons.append(comparison)
    found = {name: rms_share([one for one, _ in pairs], [other for _, other in pairs]) for name, pairs in compared.items() if pairs}
    return GoldenReport(tuple(_with_rms(comparison, found, limits) for comparison in comparisons))


def _with_rms(comparison: Comparison, found: Mapping[str, float], limits: Mapping[str, float]) -> Comparison:
    """Failed where the output as a whole is further off than its certificate allows."""
    name = comparison.output
    if name not in found:
        return comparison
    measured = dataclasses.replace(comparison, rms=found[name], rms_allowed=limits[name])
    if not comparison.passed or found[name] <= limits[name]:
        return measured
    problem = f"it is {found[name]:.1%} off (root mean square of all samples), and its certificate allows {limits[name]:.1%}"
    return dataclasses.replace(measured, passed=False, problem=problem)


def _unless_vacuous(comparison: Comparison, expected: np.ndarray) -> Comparison:
    """Failed if the tolerance is so wide that being wrong by the largest expected value, and by at least 1, would pass.

    Whole numbers may always differ by 1, as rounded pixels do.
    """
    tolerance = comparison.tolerance
    if expected.dtype.kind in "iu" and tolerance.rtol == 0 and tolerance.atol <= 1:
        return comparison
    if not comparison.passed or expected.dtype.kind not in "iuf" or max(tolerance.rtol, tolerance.atol) < 1:
        return comparison
    if allowed_difference(expected, tolerance).min() < max(1.0, float(np.abs(expected.astype(np.float64)).max())):
        return comparison
    problem = f"its tolerance (rtol {tolerance.rtol:g}, atol {tolerance.atol:g}) would accept any value, so it verifies nothing"
    return dataclasses.replace(comparison, passed=False, problem=problem)


def _unless_loose(comparison: Comparison, expected: np.ndarray) -> Comparison:
    """Failed if the tolerance of floats is wider than any that an export gives by itself."""
    tolerance = comparison.tolerance
    if not comparison.passed or expected.dtype.kind != "f":
        return comparison
    finite = np.abs(expected[np.isfinite(expected)].astype(np.float64))
    size = float(finite.max(initial=0.0))
    if tolerance.atol + tolerance.rtol * size <= LOOSE_SHARE * (size or 1.0):
        return comparison
    given = f"its tolerance (rtol {tolerance.rtol:g}, atol {tolerance.atol:g})"
    problem = f"{given} is more than {LOOSE_SHARE:.0%} of its largest value, {size:.3g}, so passing says little; --allow-loose passes it"
    return dataclasses.replace(comparison, passed=False, problem=problem)


def replay(runner: Runner, timeout: float | None = None, allow_loose: bool = True) -> GoldenReport:
    """The golden samples of an open model, none where it has none. Rows run one by one where they must.

    ``timeout``: seconds for each run. ``allow_loose``: as of :func:`replay_goldens`. Raises TimeLimitError where a run takes longer.
    """
    return replay_goldens(per_row_run(runner, timeout), runner.contract, allow_loose) if runner.contract else GoldenReport(())
