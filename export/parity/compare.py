"""Compares a file with its source: element by element, decision by decision, at sizes never traced.

    report = compare(source, engine, runs)      # never raises for a difference
    report.passed, report.failures, report.explain()

The file is compared as users will run it: in ONNX Runtime with all its optimizations. Each dtype has a default tolerance; a float64
run of the source shows how much of a difference is due to float32 itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

import numpy as np

from onnxferry.export.parity.measures import magnitude, repeated, ulp_distance, ulps_between
from onnxferry.export.parity.probes import Case
from onnxferry.export.parity.reference import SourceRun
from onnxferry.export.parity.report import CaseRecord as CaseRecord
from onnxferry.export.parity.report import Failure as Failure
from onnxferry.export.parity.report import OutputParity as OutputParity
from onnxferry.export.parity.report import ParityReport as ParityReport
from onnxferry.export.parity.report import Worst
from onnxferry.export.parity.rounding import Wobble
from onnxferry.export.parity.tolerances import (
    FLOAT64_CAP,
    FLOAT64_FACTOR,
    KERNEL_FLOOR,
    NOISE_FACTOR,
    NOISE_SHARE,
    NUDGES,
    PIXEL_SHARE,
    GivenTolerance,
    resolved_tolerance,
)
from onnxferry.export.progress import say
from onnxferry.export.source import Feeds, Source, dynamic_axes
from onnxferry.runtime.artifact.comparison import absolute_difference, allowed_difference, outside
from onnxferry.runtime.artifact.tolerances import EXACT, Tolerance
from onnxferry.runtime.errors import OnnxFerryError

# Points of (magnitude, error) kept for an output's plot, and the most that one case adds: its worst, and some spread evenly.
PLOT_POINTS = 400


PLOT_POINTS_CASE = 50


class Runner(Protocol):
    """What runs the file: :class:`onnxferry.runtime.engine.engine.Engine`."""

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]: ...


def compare(
    source: Source,
    runner: Runner,
    runs: Sequence[SourceRun],
    *,
    tolerances: Mapping[str, GivenTolerance] | None = None,
    decisions: Collection[str] = (),
) -> ParityReport:
    """Compare the file with the reference outputs. Differences become failures of the report; nothing is raised for them.

    ``tolerances`` by output name are used as given; other outputs get the default of their dtype. The argmax along the last
    axis of the outputs in ``decisions`` must not change.
    """
    return _Comparer(source, runner, tolerances or {}, decisions, _scales(runs)).report_of(runs)


class _Comparer:
    def __init__(
        self,
        source: Source,
        runner: Runner,
        tolerances: Mapping[str, GivenTolerance],
        decisions: Collection[str],
        scales: Mapping[str, float],
    ) -> None:
        self.source = source
        self.runner = runner
        self.tolerances = tolerances
        self.decisions = decisions
        self.scales = scales
        self.traced = dynamic_axes(source.inputs)
        self.report = ParityReport()

    def report_of(self, runs: Sequence[SourceRun]) -> ParityReport:
        compared: dict[str, set[int]] = {axis: set() for axis in self.traced}
        first: tuple[Case, dict[str, np.ndarray]] | None = None
        for number, run in enumerate(runs):
            say(f"comparing input {number + 1} of {len(runs)}")
            shapes = {name: tuple(np.shape(array)) for name, array in run.case.feeds.items()}
            is_traced = all(run.case.sizes.get(axis) == size for axis, size in self.traced.items())
            why = run.why_dropped
            if run.outputs is not None and run.case.generated and any(_all_nan(array) for array in run.outputs.values()):
                why = "the model's own answer is NaN alone"  # log(x) / x of zeros
            self.report.cases.append(
                CaseRecord(run.case.name, shapes, is_traced, run.case.generated, run.outputs is not None and not why, why)
            )
            if run.outputs is None or why:
                continue
            try:
                actual = self.runner.run(run.case.feeds)
            except OnnxFerryError as error:
                self.report.failures.append(self._run_failure(run.case, error))
                continue
            for axis, size in run.case.sizes.items():
                compared[axis].add(size)
            first = first or (run.case, actual)
            self.report.failures += self._compare(run.case, run.outputs, actual)
        if first is not None:
            self.report.failures += self._repeatability(*first)
        if not self.report.failures:
            self.report.failures += self._images() or self._coverage(compared)
        return self.report

    def _images(self) -> list[Failure]:
        """Integers that may differ by 1 (pixels, rounded from floats near a half) may do so in few places only."""
        return [
            Failure(
                "difference",
                f"{entry.differing} of {entry.elements} elements of {entry.name!r} are a level apart, allowed are {PIXEL_SHARE:.2%}",
                output=entry.name,
            )
            for entry in self.report.outputs.values()
            if np.dtype(entry.dtype).kind in "iu" and entry.atol == 1 and entry.differing > max(1, PIXEL_SHARE * entry.elements)
        ]

    def _compare(self, case: Case, expected: Mapping[str, np.ndarray], actual: Mapping[str, np.ndarray]) -> list[Failure]:
        for name in expected:
            if name not in actual:
                return [Failure("outputs", f"the file lacks the output {name!r}", case.name, name)]
        for name in actual:
            if name not in expected:
                return [Failure("outputs", f"the file has an output {name!r} that the model does not have", case.name, name)]
        failures: list[Failure] = []
        exact: dict[str, np.ndarray] | None = None
        for name, want in expected.items():
            got = np.asarray(actual[name])
            failure = self._structure(name, want, got, case)
            if failure is None and want.dtype.kind == "f":
                failure = _finiteness(name, want, got, case)
            if failure is not None:
                failures.append(failure)
                continue
            given = self.tolerances.get(name)
            tolerance, reason = resolved_tolerance(given, want.dtype, max(self.scales.get(name, 0.0), magnitude(want)))
            entry = self.report.outputs.setdefault(name, OutputParity(name, want.dtype.name, tolerance.rtol, tolerance.atol, reason))
            entry.atol = max(entry.atol, tolerance.atol)
            beyond = _measure(entry, case, want, got, tolerance)
            if want.dtype.kind == "f":
                if exact is None:
                    exact = self.source.run_float64(case.feeds) or {}
                if name in exact and exact[name].shape == want.shape and want.dtype != np.float64:
                    excused = _against_float64(entry, want, got, exact[name], tolerance)
                    if excused and given is None and beyond.any():
                        self.report.notes.append(
                            f"output {name!r} in case {case.name!r}: the difference is due to float32, "
                            "the file is as near to float64 as the model is"
                        )
                        beyond = np.zeros_like(beyond)
                if given is None and beyond.any():
                    beyond = self._beyond_rounding(entry, case, expected, got, tolerance, beyond)
                if name in self.decisions:
                    failures += self._argmax(entry, case, want, got)
            else:
                beyond = self._without_ties(entry, case, want, beyond, lambda outputs, name=name: outputs[name])  # type: ignore[misc]
                entry.decisions += int(want.size)
                entry.decisions_changed += int(np.count_nonzero(beyond))
            entry.beyond += int(np.count_nonzero(beyond))
            if beyond.any():
                failures.append(_difference(entry, case, want, got, beyond, tolerance))
        return failures

    def _beyond_rounding(
        self,
        entry: OutputParity,
        case: Case,
        expected: Mapping[str, np.ndarray],
        got: np.ndarray,
        tolerance: Tolerance,
        beyond: np.ndarray,
    ) -> np.ndarray:
        """Removes what the source's own rounding and the known errors of kernels explain, as far as the source is a measure at all."""
        want = expected[entry.name]
        spread = Wobble(self.source, case.feeds, expected).spread(entry.name)
        allowed = allowed_difference(want, tolerance)
        cap = FLOAT64_CAP * (tolerance.atol + tolerance.rtol * magnitude(want) + KERNEL_FLOOR)
        explained = beyond & (spread <= cap) & (absolute_difference(got, want) <= allowed + NOISE_FACTOR * spread)
        entry.rounding = max(entry.rounding, float((allowed + NOISE_FACTOR * spread).max(initial=0.0, where=explained)))
        return np.asarray(beyond & ~explained)

    def _structure(self, name: str, want: np.ndarray, got: np.ndarray, case: Case) -> Failure | None:
        if want.dtype != got.dtype:
            return Failure("dtype", f"output {name!r} is {got.dtype} in the file and {want.dtype} in the model", case.name, name)
        if want.shape != got.shape:
            text = f"output {name!r} has shape {got.shape} in the file and {want.shape} in the model, for the case {case.name!r}"
            changed = [axis for axis, size in self.traced.items() if case.sizes.get(axis) != size]
            if changed:
                text += f": the export froze something at the traced size of {' or '.join(changed)}"
                return Failure("frozen-axis", text, case.name, name)
            return Failure("shape", text, case.name, name)
        return None

    def _argmax(self, entry: OutputParity, case: Case, want: np.ndarray, got: np.ndarray) -> list[Failure]:
        """Compares argmax along the last axis."""
        if want.ndim == 0 or want.shape[-1] < 2 or want.size == 0:
            return []
        a, b = want.argmax(-1), got.argmax(-1)
        changed = self._without_ties(entry, case, a, np.asarray(a != b), lambda outputs: outputs[entry.name].argmax(-1))
        entry.decisions += a.size
        entry.decisions_changed += int(np.count_nonzero(changed))
        if not changed.any():
            return []
        place = tuple(int(i) for i in np.argwhere(changed)[0])
        return [
            Failure(
                "decision",
                f"{int(np.count_nonzero(changed))} of {a.size} decisions change in {entry.name!r}: at {list(place)} of case {case.name!r} "
                f"the model says {int(a[place])} and the file {int(b[place])}",
                case.name,
                entry.name,
            )
        ]

    def _without_ties(
        self, entry: OutputParity, case: Case, want: np.ndarray, changed: np.ndarray, read: Callable[[dict[str, np.ndarray]], np.ndarray]
    ) -> np.ndarray:
        """Removes ties from a mask of changed decisions: where the source decides otherwise when its weights change by 1e-6."""
        if not changed.any():
            return changed
        unstable = np.zeros(want.shape, dtype=bool)
        for seed in range(NUDGES):
            try:
                nudged = self.source.run_nudged(case.feeds, seed)
            except Exception:  # noqa: BLE001 - the user's model may raise anything; this nudge is then skipped
                continue
            if nudged is None:
                break
            other = read(nudged)
            if other.shape == want.shape:
                unstable |= other != want
        entry.ties += int(np.count_nonzero(changed & unstable))
        return np.asarray(changed & ~unstable)

    def _run_failure(self, case: Case, error: OnnxFerryError) -> Failure:
        changed = [f"{axis} from {size} to {case.sizes[axis]}" for axis, size in self.traced.items() if case.sizes.get(axis, size) != size]
        text = str(error).splitlines()[0]
        if changed:
            return Failure(
                "frozen-axis",
                f"the file cannot run with {' and '.join(changed)}, which the model can: the export froze an axis ({text})",
                case.name,
            )
        return Failure("runtime", f"ONNX Runtime cannot run the file on {case.name!r}: {text}", case.name)

    def _repeatability(self, case: Case, first: Mapping[str, np.ndarray]) -> list[Failure]:
        again = self.runner.run(case.feeds)
        for name, array in first.items():
            if not repeated(array, again[name]):
                text = f"output {name!r} of the file changes from run to run on the same input: it draws random numbers"
                return [Failure("random", text, case.name, name)]
        return []

    def _coverage(self, compared: Mapping[str, set[int]]) -> list[Failure]:
        outputs = self.report.outputs.values()
        if not any(o.elements for o in outputs):
            return [Failure("nothing-compared", "nothing was compared: the model gives no element on any input")]
        tied = next((o for o in outputs if o.ties and o.ties >= o.decisions / 2), None)
        if tied is not None:
            return [
                Failure(
                    "nothing-compared",
                    f"most values of output {tied.name!r} are ties, which rounding decides, so nothing is verified; "
                    "give samples with clear answers",
                    output=tied.name,
                )
            ]
        failures = []
        for axis, size in self.traced.items():
            if not compared[axis] - {size}:
                why = next((c.why_dropped for c in self.report.dropped if not c.traced), "no probe fitted")
                failures.append(
                    Failure(
                        "axis-untested",
                        f"the axis {axis!r} was named dynamic, and no other size than the traced {size} could be compared ({why}): "
                        "give samples of another size, or leave the axis fixed",
                    )
                )
        return failures


def _scales(runs: Sequence[SourceRun]) -> dict[str, float]:
    """Largest finite magnitude of every output over the user's own cases."""
    scales: dict[str, float] = {}
    for run in runs:
        if run.outputs is not None and not run.case.generated:
            for name, array in run.outputs.items():
                scales[name] = max(scales.get(name, 0.0), magnitude(array))
    return scales


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Bit for bit, but for the sign of zero; NaN equals NaN."""
    return a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))


def _measure(entry: OutputParity, case: Case, want: np.ndarray, got: np.ndarray, tolerance: Tolerance) -> np.ndarray:
    """Adds the case to the figures of the output; returns a mask of the elements beyond tolerance."""
    entry.elements += want.size
    if want.size == 0:
        return np.zeros(want.shape, dtype=bool)
    difference = absolute_difference(got, want, equal_nan=True)
    allowed = allowed_difference(want, tolerance)
    beyond = outside(got, want, tolerance, equal_nan=True)
    entry.differing += int(np.count_nonzero(difference))
    scale = magnitude(want)
    entry.scale = max(entry.scale, scale)
    largest = float(difference.max())
    if entry.worst is None or largest > entry.max_abs:
        place = np.unravel_index(int(np.argmax(difference - allowed if beyond.any() else difference)), want.shape)
        ulps = ulps_between(want[place], got[place]) if want.dtype.kind == "f" else None
        entry.worst = Worst(case.name, tuple(int(i) for i in place), want[place].item(), got[place].item(), ulps)
    entry.max_abs = max(entry.max_abs, largest)
    entry.p99_abs = max(entry.p99_abs, float(np.percentile(difference, 99, method="lower")))
    # The relative error of a number that is nearly zero compared with the others means nothing.
    size = np.abs(want.astype(np.float64))
    large = np.isfinite(difference) & (size > 1e-3 * scale)
    if large.any():
        entry.max_rel = max(entry.max_rel, float((difference[large] / size[large]).max()))
        if want.dtype.kind == "f":
            entry.max_ulp = max(entry.max_ulp, int(ulp_distance(want[large], got[large]).max(initial=0)))
    if want.dtype.kind == "f":
        _keep_points(entry, size.ravel(), difference.ravel())
    return beyond


def _keep_points(entry: OutputParity, values: np.ndarray, difference: np.ndarray) -> None:
    room = min(PLOT_POINTS - len(entry.points), PLOT_POINTS_CASE)
    if room <= 0:
        return
    worst = np.argsort(-difference, kind="stable")[: room // 2]
    spread = np.linspace(0, values.size - 1, min(values.size, room // 2)).astype(int)
    for i in dict.fromkeys([*worst.tolist(), *spread.tolist()]):
        if math.isfinite(values[i]) and math.isfinite(difference[i]):
            entry.points.append((float(values[i]), float(difference[i])))


def _all_nan(array: np.ndarray) -> bool:
    return array.dtype.kind == "f" and bool(array.size and np.isnan(array).all())


def _finiteness(name: str, want: np.ndarray, got: np.ndarray, case: Case) -> Failure | None:
    if _all_nan(want):
        text = f"output {name!r} of the model is all NaN for {case.name!r}, so nothing is verified; give inputs for which it is not"
        return Failure("all-nan", text, case.name, name)
    worse = ~np.isfinite(got) & np.isfinite(want)
    if worse.any():
        place = tuple(int(i) for i in np.argwhere(worse)[0])
        return Failure(
            "not-finite",
            f"output {name!r} is {got[place]} in the file where the model gives {want[place]:.6g}, at {list(place)} of case {case.name!r} "
            f"({int(worse.sum())} of {want.size} elements)",
            case.name,
            name,
        )
    return None


def _against_float64(entry: OutputParity, want: np.ndarray, got: np.ndarray, exact: np.ndarray, tolerance: Tolerance) -> bool:
    """Records both errors against float64; true if the file is as near to it as the source is, and the source near enough."""
    usable = np.isfinite(exact) & np.isfinite(want) & np.isfinite(got)
    if not usable.any():
        return False
    source_error = float(absolute_difference(want[usable], exact[usable]).max())
    file_error = float(absolute_difference(got[usable], exact[usable]).max())
    entry.float64_source = max(entry.float64_source or 0.0, source_error)
    entry.float64_file = max(entry.float64_file or 0.0, file_error)
    cap = FLOAT64_CAP * (tolerance.atol + tolerance.rtol * magnitude(want))
    # An output without one correct digit (a norm of constant rows magnifies its own rounding) is random, and so is the file's:
    # neither is a reference for the other.
    noise = source_error >= NOISE_SHARE * magnitude(exact[usable])
    near = file_error <= (cap if noise else FLOAT64_FACTOR * source_error)
    # NaN and infinity must be equal; float64 excuses nothing there.
    return bool(near and source_error <= cap and same(want[~usable], got[~usable]))


def _difference(entry: OutputParity, case: Case, want: np.ndarray, got: np.ndarray, beyond: np.ndarray, tolerance: Tolerance) -> Failure:
    difference = absolute_difference(got, want, equal_nan=True)
    place = tuple(int(i) for i in np.unravel_index(int(np.argmax(np.where(beyond, difference, -1.0))), want.shape))
    off = float(difference[place])
    allowed = tolerance.atol + tolerance.rtol * abs(float(want[place])) if want.dtype.kind in "iuf" else 0.0
    if want.dtype.kind == "f":
        size = f"{difference[place]:.3g} apart ({ulps_between(want[place], got[place])} ulp), allowed {allowed:.3g}"
    else:
        size = "they must be equal" if tolerance == EXACT else f"allowed {tolerance.atol:g}"
    return Failure(
        "difference",
        f"output {entry.name!r} differs at {list(place)} of case {case.name!r}: {want[place]!s} in the model, "
        f"{got[place]!s} in the file, {size}; {int(np.count_nonzero(beyond))} of {want.size} elements differ",
        case.name,
        entry.name,
        off / allowed if allowed and math.isfinite(off) else math.inf,
    )
