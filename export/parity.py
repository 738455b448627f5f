"""The judge: does the file do what its source does? Element by element, decision by decision, at sizes never traced.

    report = judge(source, engine, cases, …)      # compares; never raises for a difference
    report.passed, report.failures, report.explain()

What is compared is the file as users will run it: ONNX Runtime with all its optimisations. Tolerances come by dtype
with their reasons; a float64 run of the source shows how much of a difference is float32's own.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from onnxferry.export.parity_probes import Case, redrawn
from onnxferry.export.sources import Feeds, Source, dynamic_axes
from onnxferry.runtime.artifact import Tolerance
from onnxferry.runtime.errors import OnnxFerryError

# By dtype: tolerance and reason. atol is a share of the output's largest magnitude (see _bound): an error of float
# arithmetic is relative to the terms that were summed, not to a sum that happens to come out near zero.
DEFAULT_TOLERANCES: Mapping[str, tuple[Tolerance, str]] = {
    "float64": (Tolerance(1e-7, 1e-8), "float64: sums in another order, and functions to within a few units in the last place"),
    "float32": (Tolerance(1e-4, 1e-5), "float32: sums in another order, and polynomial sigmoid, tanh and exp, through some tens of layers"),
    "float16": (Tolerance(1e-2, 2e-3), "float16: one unit in the last place is 1e-3, and the file may keep float32 between operators"),
}
EXACT = (Tolerance(0.0, 0.0), "whole numbers and flags must be equal")

# A difference beyond tolerance is float32's own where the file is no farther from float64 than this times the source …
FLOAT64_FACTOR = 4.0
# … and the source's own error is itself no larger than this times the tolerance: beyond it, it would prove nothing.
FLOAT64_CAP = 100.0

# Points of (magnitude, error) kept for an output's plot.
PLOT_POINTS = 400


FAILURE_KINDS: Mapping[str, str] = {
    "source": "the model itself fails on an input that was given",
    "random-source": "the model gives another output each time",
    "random": "the file gives another output each time",
    "outputs": "an output is missing, or there is one too many",
    "dtype": "an output has another dtype",
    "shape": "an output has another shape",
    "frozen-axis": "a dynamic axis works at the traced size only",
    "runtime": "ONNX Runtime cannot load or run the file",
    "all-nan": "the model gives nothing but NaN",
    "not-finite": "the file gives NaN or infinity where the model does not",
    "difference": "values differ by more than the tolerance",
    "decision": "an argmax changes",
    "nothing-compared": "there was nothing to compare",
    "axis-untested": "a dynamic axis could be compared at its traced size only",
    "branch-untested": "one side of a branch was never taken",
}


class Runner(Protocol):
    """What runs the file: :class:`onnxferry.runtime.engine.Engine`."""

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]: ...


@dataclass(frozen=True)
class Worst:
    """The element that is farthest beyond (or nearest to) its tolerance."""

    case: str
    index: tuple[int, ...]
    source: float
    file: float
    ulp: int | None  # units in the last place between the two; None for whole numbers


@dataclass
class OutputParity:
    """How one output compared, over all cases."""

    name: str
    dtype: str
    rtol: float
    atol: float
    reason: str  # why this tolerance
    elements: int = 0
    max_abs: float = 0.0
    max_rel: float = 0.0  # over elements larger than a thousandth of the largest
    p99_abs: float = 0.0  # the largest over cases of the case's 99th percentile
    max_ulp: int = 0  # over elements larger than a thousandth of the largest
    worst: Worst | None = None
    beyond: int = 0  # elements beyond tolerance
    decisions: int = 0  # places where an argmax (or a whole number) was compared
    decisions_changed: int = 0
    ties: int = 0  # decisions left out because the source itself takes them otherwise when nudged by 1e-6
    float64_source: float | None = None  # largest error of the source against its own float64 run
    float64_file: float | None = None  # the same of the file
    scale: float = 0.0  # largest magnitude seen
    points: list[tuple[float, float]] = field(default_factory=list)  # (|source|, |difference|), for plots


@dataclass(frozen=True)
class CaseRecord:
    """What became of one case."""

    name: str
    shapes: Mapping[str, tuple[int, ...]]
    traced: bool  # all sizes as traced
    compared: bool
    why_dropped: str = ""


@dataclass(frozen=True)
class Failure:
    """One reason to refuse the file."""

    kind: str  # one of FAILURE_KINDS
    message: str
    case: str = ""
    output: str = ""


@dataclass
class ParityReport:
    """What the judge found. ``passed`` is the verdict; :meth:`explain` says it in words."""

    outputs: dict[str, OutputParity] = field(default_factory=dict)
    cases: list[CaseRecord] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    strategy: str = ""  # how the graph was made
    mends: list[str] = field(default_factory=list)  # what was done to make it right
    refused: list[tuple[str, str]] = field(default_factory=list)  # (strategy, why) of the ones tried before
    notes: list[str] = field(default_factory=list)
    located: dict[str, Any] = field(default_factory=dict)  # first node that differs, likely cause, line to try

    @property
    def passed(self) -> bool:
        return not self.failures

    @property
    def compared(self) -> list[CaseRecord]:
        return [case for case in self.cases if case.compared]

    @property
    def dropped(self) -> list[CaseRecord]:
        return [case for case in self.cases if not case.compared]

    def summary(self) -> dict[str, Any]:
        """The short form that a file carries."""
        outputs = {
            name: {
                "elements": o.elements,
                "max_abs": _rounded(o.max_abs),
                "rtol": o.rtol,
                "atol": o.atol,
                "decisions": o.decisions,
                "decisions_changed": o.decisions_changed,
            }
            for name, o in self.outputs.items()
        }
        return {
            "passed": self.passed,
            "strategy": self.strategy,
            "cases": len(self.compared),
            "untraced_shapes": sum(not case.traced for case in self.compared),
            "dropped": len(self.dropped),
            "outputs": outputs,
        }

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain JSON values (not-finite numbers as strings)."""
        plain = _plain({**dataclasses.asdict(self), "passed": self.passed})
        assert isinstance(plain, dict)  # noqa: S101 - for the type checker: a dict goes in
        return plain

    def explain(self) -> str:
        """The verdict in words: what differs, where, by how much, why perhaps, and what to try."""
        untraced = sum(not case.traced for case in self.compared)
        head = f"compared {len(self.compared)} inputs, {untraced} of them at sizes never traced"
        if self.dropped:
            head += f"; {len(self.dropped)} probes left out, which the model itself cannot take"
        lines = [f"passed: {head}" if self.passed else f"failed: {head}"]
        lines += [f"  {failure.message}" for failure in self.failures]
        for o in self.outputs.values():
            lines.append(
                f"  {o.name}: {o.elements} elements, largest difference {o.max_abs:.3g} ({o.max_ulp} ulp), "
                f"allowed {o.atol:.3g} + {o.rtol:.3g} x |value|"
            )
            if o.worst is not None and o.max_abs > 0:
                lines.append(
                    f"    worst at {list(o.worst.index)} of case {o.worst.case!r}: "
                    f"{o.worst.source!r} in the model, {o.worst.file!r} in the file"
                )
            if o.float64_source is not None and o.float64_file is not None:
                lines.append(f"    against float64: the model is off by {o.float64_source:.3g}, the file by {o.float64_file:.3g}")
            if o.decisions:
                tied = f", {o.ties} ties left out" if o.ties else ""
                lines.append(f"    decisions: {o.decisions_changed} of {o.decisions} change{tied}")
        for key, words in (("node", "first difference"), ("cause", "likely cause"), ("try", "try")):
            if key in self.located:
                lines.append(f"  {words}: {self.located[key]}")
        lines += [f"  mended: {mend}" for mend in self.mends]
        lines += [f"  refused before: {name}: {why}" for name, why in self.refused]
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)

    def first_line(self) -> str:
        """One sentence for an error: the first failure."""
        if not self.failures:
            return "the file does what its source does"
        more = f" (and {len(self.failures) - 1} more)" if len(self.failures) > 1 else ""
        return self.failures[0].message + more


@dataclass
class SourceRun:
    """A case and what the source gave for it; ``outputs`` is None where it was dropped."""

    case: Case
    outputs: dict[str, np.ndarray] | None
    why_dropped: str = ""


def run_source(source: Source, cases: Sequence[Case], given: int) -> tuple[list[SourceRun], list[Failure]]:
    """The source's outputs for all cases. The first ``given`` cases are the user's and must run; probes may be dropped."""
    runs: list[SourceRun] = []
    failures: list[Failure] = []
    finite_in_examples: dict[str, bool] = {}
    for number, case in enumerate(cases):
        try:
            outputs = source.run(case.feeds)
        except Exception as error:  # noqa: BLE001 - the user's model may raise anything
            why = f"{type(error).__name__}: {(str(error).strip() or '(no message)').splitlines()[0][:200]}"
            if number < given:
                failures.append(Failure("source", f"the model itself fails on {case.name} ({why})", case.name))
            runs.append(SourceRun(case, None, f"the model cannot take it ({why})"))
            continue
        if number < given:
            for name, array in outputs.items():
                finite_in_examples[name] = finite_in_examples.get(name, True) and _all_finite(array)
        else:
            # Where the examples have infinities of their own (masked logits), a probe's are compared place by place.
            bad = [n for n, a in outputs.items() if not _all_finite(a) and finite_in_examples.get(n, True)]
            if bad:
                runs.append(SourceRun(case, None, f"output {bad[0]!r} of the model itself is not finite"))
                continue
        runs.append(SourceRun(case, outputs))
    if not failures and given:
        failures += _repeatability(source, [r for r in runs if r.outputs is not None])
    return runs, failures


def _repeatability(source: Source, runs: Sequence[SourceRun]) -> list[Failure]:
    """Runs the first given and the last generated case again: the same input must give the same output."""
    for run in dict.fromkeys((0, len(runs) - 1)) if runs else ():
        expected = runs[run].outputs or {}
        again = source.run(runs[run].case.feeds)
        for name, array in expected.items():
            if array.shape != again[name].shape or not np.array_equal(array, again[name], equal_nan=array.dtype.kind == "f"):
                return [
                    Failure(
                        "random-source",
                        f"output {name!r} of the model changes from run to run on the same input, so nothing can be proved: "
                        "take random numbers as an input, and leave dropout off (model.eval())",
                        runs[run].case.name,
                        name,
                    )
                ]
    return []


def judge(
    source: Source,
    runner: Runner,
    runs: Sequence[SourceRun],
    *,
    tolerances: Mapping[str, Tolerance] | None = None,
    decisions: Collection[str] = (),
) -> ParityReport:
    """Compare the file with what the source gave. Differences become failures of the report; nothing is raised for them."""
    report = ParityReport()
    traced = dynamic_axes(source.inputs)
    scales = _scales(runs)
    given = dict(tolerances or {})
    compared_sizes: dict[str, set[int]] = {axis: set() for axis in traced}
    first_compared: tuple[Case, dict[str, np.ndarray]] | None = None
    for run in runs:
        shapes = {name: tuple(np.shape(array)) for name, array in run.case.feeds.items()}
        is_traced = all(run.case.sizes.get(axis) == size for axis, size in traced.items())
        if run.outputs is None:
            report.cases.append(CaseRecord(run.case.name, shapes, is_traced, False, run.why_dropped))
            continue
        report.cases.append(CaseRecord(run.case.name, shapes, is_traced, True))
        try:
            actual = runner.run(run.case.feeds)
        except OnnxFerryError as error:
            report.failures.append(_run_failure(run.case, error, traced))
            continue
        for axis, size in run.case.sizes.items():
            compared_sizes[axis].add(size)
        if first_compared is None:
            first_compared = (run.case, actual)
        failures = _compare_case(report, source, runner, run, actual, given, scales, decisions, traced)
        report.failures += failures
    if first_compared is not None:
        report.failures += _file_repeatability(runner, *first_compared)
    report.failures += _coverage(report, traced, compared_sizes)
    return report


def default_tolerance(dtype: np.dtype[Any], scale: float) -> tuple[Tolerance, str]:
    """Tolerance and reason for an output of this dtype whose largest magnitude is ``scale``."""
    if dtype.name not in DEFAULT_TOLERANCES:
        return EXACT
    base, reason = DEFAULT_TOLERANCES[dtype.name]
    return Tolerance(base.rtol, base.atol * scale if math.isfinite(scale) else base.atol), reason


def _scales(runs: Sequence[SourceRun]) -> dict[str, float]:
    """Largest finite magnitude of every output over the user's own cases."""
    scales: dict[str, float] = {}
    for run in runs:
        if run.outputs is not None and not run.case.generated:
            for name, array in run.outputs.items():
                scales[name] = max(scales.get(name, 0.0), _magnitude(array))
    return scales


def _compare_case(
    report: ParityReport,
    source: Source,
    runner: Runner,
    run: SourceRun,
    actual: Mapping[str, np.ndarray],
    given: Mapping[str, Tolerance],
    scales: Mapping[str, float],
    decisions: Collection[str],
    traced: Mapping[str, int],
) -> list[Failure]:
    expected = run.outputs or {}
    missing, extra = sorted(set(expected) - set(actual)), sorted(set(actual) - set(expected))
    if missing or extra:
        what = f"lacks the output {missing[0]!r}" if missing else f"has an output {extra[0]!r} that the model does not have"
        return [Failure("outputs", f"the file {what}", run.case.name, (missing or extra)[0])]
    failures: list[Failure] = []
    exact: dict[str, np.ndarray] | None = None
    for name, want in expected.items():
        got = np.asarray(actual[name])
        failure = _structure(name, want, got, run.case, traced)
        if failure is not None:
            failures.append(failure)
            continue
        tolerance, reason = (
            (given[name], "given") if name in given else default_tolerance(want.dtype, max(scales.get(name, 0.0), _magnitude(want)))
        )
        entry = report.outputs.setdefault(name, OutputParity(name, want.dtype.name, tolerance.rtol, tolerance.atol, reason))
        entry.atol = max(entry.atol, tolerance.atol)
        beyond = _measure(entry, run.case, want, got, tolerance)
        if want.dtype.kind == "f":
            failure = _finiteness(name, want, got, run.case)
            if failure is not None:
                failures.append(failure)
                continue
            if exact is None and name not in given:
                exact = source.run_float64(run.case.feeds) or {}
            if exact and name in exact and exact[name].shape == want.shape and want.dtype != np.float64:
                excused = _against_float64(entry, want, got, exact[name], tolerance)
                if excused and beyond.any():
                    report.notes.append(
                        f"output {name!r} in case {run.case.name!r}: the difference is float32's own, "
                        "the file is as near to float64 as the model is"
                    )
                    beyond = np.zeros_like(beyond)
            if name in decisions:
                failure = _decisions(entry, source, run.case, want, got)
                if failure is not None:
                    failures.append(failure)
        else:
            beyond = _without_ties(entry, source, run.case, want, beyond)
            entry.decisions += int(want.size)
            entry.decisions_changed += int(np.count_nonzero(beyond))
        entry.beyond += int(np.count_nonzero(beyond))
        if beyond.any():
            failures.append(_difference(entry, run.case, want, got, beyond, tolerance))
    return failures


def _structure(name: str, want: np.ndarray, got: np.ndarray, case: Case, traced: Mapping[str, int]) -> Failure | None:
    if want.dtype != got.dtype:
        return Failure("dtype", f"output {name!r} is {got.dtype} in the file and {want.dtype} in the model", case.name, name)
    if want.shape != got.shape:
        text = f"output {name!r} has shape {got.shape} in the file and {want.shape} in the model, for the case {case.name!r}"
        changed = [axis for axis, size in traced.items() if case.sizes.get(axis) != size]
        if changed:
            return Failure(
                "frozen-axis", f"{text}: the export froze something at the traced size of {' or '.join(changed)}", case.name, name
            )
        return Failure("shape", text, case.name, name)
    return None


def _measure(entry: OutputParity, case: Case, want: np.ndarray, got: np.ndarray, tolerance: Tolerance) -> np.ndarray:
    """Adds the case to the output's figures; gives a mask of the elements beyond tolerance."""
    entry.elements += want.size
    if want.size == 0:
        return np.zeros(want.shape, dtype=bool)
    a, b = want.astype(np.float64), got.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.abs(a - b)
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        difference = np.where(same, 0.0, difference)
        allowed = tolerance.atol + tolerance.rtol * np.abs(a)
        beyond = ~(difference <= allowed)  # NaN counts as beyond
    if want.dtype.kind in "iub" and tolerance == EXACT[0]:
        beyond = want != got  # float64 cannot tell large int64 apart
    finite = np.isfinite(difference)
    scale = _magnitude(want)
    entry.scale = max(entry.scale, scale)
    case_max = float(difference.max(initial=0.0, where=finite)) if finite.all() else math.inf
    with np.errstate(invalid="ignore", divide="ignore"):
        over = np.where(finite, difference - allowed, np.inf)
    if entry.worst is None or case_max > entry.max_abs:
        place = np.unravel_index(int(np.argmax(over)), want.shape)
        index = tuple(int(i) for i in place)
        ulps = _ulp_distance(want[place], got[place]) if want.dtype.kind == "f" else None
        entry.worst = Worst(case.name, index, want[place].item(), got[place].item(), ulps)
    entry.max_abs = max(entry.max_abs, case_max)
    entry.p99_abs = max(entry.p99_abs, float(np.percentile(np.where(finite, difference, np.inf), 99, method="lower")))
    large = finite & (np.abs(a) > 1e-3 * scale)
    if large.any():
        entry.max_rel = max(entry.max_rel, float((difference[large] / np.abs(a[large])).max()))
        if want.dtype.kind == "f":
            entry.max_ulp = max(entry.max_ulp, int(ulp_distance(want[large], got[large]).max(initial=0)))
    if want.dtype.kind == "f" and len(entry.points) < PLOT_POINTS:
        order = np.argsort(-difference.ravel(), kind="stable")[: PLOT_POINTS // 8]
        spread = np.linspace(0, want.size - 1, min(want.size, PLOT_POINTS // 8)).astype(int)
        for i in dict.fromkeys([*order.tolist(), *spread.tolist()]):
            entry.points.append((float(np.abs(a).ravel()[i]), float(difference.ravel()[i])))
        entry.points = [p for p in entry.points if math.isfinite(p[0]) and math.isfinite(p[1])][:PLOT_POINTS]
    return np.asarray(beyond)


def _finiteness(name: str, want: np.ndarray, got: np.ndarray, case: Case) -> Failure | None:
    if want.size and np.isnan(want).all():
        return Failure(
            "all-nan",
            f"output {name!r} of the model is all NaN for {case.name!r}: that proves nothing; give inputs it can compute",
            case.name,
            name,
        )
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
    """Notes both errors against float64; True where the file is as near to it as the source is, and the source near enough."""
    usable = np.isfinite(exact) & np.isfinite(want)
    if not usable.any():
        return False
    source_error = float(np.abs(want[usable].astype(np.float64) - exact[usable]).max())
    file_error = float(np.abs(got[usable].astype(np.float64) - exact[usable]).max())
    entry.float64_source = max(entry.float64_source or 0.0, source_error)
    entry.float64_file = max(entry.float64_file or 0.0, file_error)
    cap = FLOAT64_CAP * (tolerance.atol + tolerance.rtol * _magnitude(want))
    return file_error <= FLOAT64_FACTOR * source_error and source_error <= cap


def _decisions(entry: OutputParity, source: Source, case: Case, want: np.ndarray, got: np.ndarray) -> Failure | None:
    """Compares argmax along the last axis."""
    if want.ndim == 0 or want.shape[-1] < 2 or want.size == 0:
        return None
    a, b = want.argmax(-1), got.argmax(-1)
    changed = _without_ties(entry, source, case, a, a != b, lambda outputs: outputs[entry.name].argmax(-1))
    entry.decisions += a.size
    entry.decisions_changed += int(np.count_nonzero(changed))
    if not changed.any():
        return None
    place = tuple(int(i) for i in np.argwhere(changed)[0])
    return Failure(
        "decision",
        f"{int(np.count_nonzero(changed))} of {a.size} decisions change in {entry.name!r}: at {list(place)} of case {case.name!r} "
        f"the model says {int(a[place])} and the file {int(b[place])}",
        case.name,
        entry.name,
    )


def _without_ties(entry: OutputParity, source: Source, case: Case, want: np.ndarray, changed: np.ndarray, read: Any = None) -> np.ndarray:
    """Takes ties out of a mask of changed decisions: places where the source, nudged by 1e-6, decides otherwise itself."""
    if not changed.any():
        return changed
    unstable = np.zeros(want.shape, dtype=bool)
    for seed in range(4):
        try:
            nudged = source.run_nudged(case.feeds, seed)
        except Exception:  # noqa: BLE001 - the user's model may raise anything; then this nudge tells nothing
            continue
        if nudged is None:
            break
        other = read(nudged) if read is not None else nudged[entry.name]
        if other.shape == want.shape:
            unstable |= other != want
    entry.ties += int(np.count_nonzero(changed & unstable))
    return np.asarray(changed & ~unstable)


def _difference(entry: OutputParity, case: Case, want: np.ndarray, got: np.ndarray, beyond: np.ndarray, tolerance: Tolerance) -> Failure:
    difference = np.abs(want.astype(np.float64) - got.astype(np.float64))
    difference = np.where(beyond, np.nan_to_num(difference, nan=np.inf), -1.0)
    place = tuple(int(i) for i in np.unravel_index(int(np.argmax(difference)), want.shape))
    share = f"{int(np.count_nonzero(beyond))} of {want.size} elements"
    if want.dtype.kind == "f":
        ulps = _ulp_distance(want[place], got[place])
        size = f"{difference[place]:.3g} ({ulps} ulp), allowed {tolerance.atol + tolerance.rtol * abs(float(want[place])):.3g}"
    else:
        size = "they must be equal" if tolerance == EXACT[0] else f"allowed {tolerance.atol:g}"
    return Failure(
        "difference",
        f"output {entry.name!r} differs at {list(place)} of case {case.name!r}: {want[place].item()!r} in the model, "
        f"{got[place].item()!r} in the file, {size}; {share} differ",
        case.name,
        entry.name,
    )


def _run_failure(case: Case, error: OnnxFerryError, traced: Mapping[str, int]) -> Failure:
    changed = [f"{axis} from {size} to {case.sizes[axis]}" for axis, size in traced.items() if case.sizes.get(axis, size) != size]
    text = str(error).splitlines()[0]
    if changed:
        return Failure(
            "frozen-axis",
            f"the file cannot run with {' and '.join(changed)}, which the model can: the export froze an axis ({text})",
            case.name,
        )
    return Failure("runtime", f"ONNX Runtime cannot run the file on {case.name!r}: {text}", case.name)


def _file_repeatability(runner: Runner, case: Case, first: Mapping[str, np.ndarray]) -> list[Failure]:
    again = runner.run(case.feeds)
    for name, array in first.items():
        other = again[name]
        if array.shape != other.shape or not np.array_equal(array, other, equal_nan=array.dtype.kind == "f"):
            return [
                Failure(
                    "random",
                    f"output {name!r} of the file changes from run to run on the same input: it draws random numbers",
                    case.name,
                    name,
                )
            ]
    return []


def _coverage(report: ParityReport, traced: Mapping[str, int], compared: Mapping[str, set[int]]) -> list[Failure]:
    if not any(o.elements for o in report.outputs.values()) and not report.failures:
        return [Failure("nothing-compared", "nothing was compared: the model gives no element on any input")]
    if report.failures:
        return []
    failures = []
    for axis, size in traced.items():
        if not compared[axis] - {size}:
            why = next((c.why_dropped for c in report.dropped if not c.traced), "no probe fitted")
            failures.append(
                Failure(
                    "axis-untested",
                    f"the axis {axis!r} was named dynamic, and no other size than the traced {size} could be compared ({why}): "
                    "give samples of another size, or leave the axis fixed",
                )
            )
    return failures


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


def _ulp_distance(a: Any, b: Any) -> int:
    return int(ulp_distance(np.asarray(a).reshape(1), np.asarray(b).reshape(1))[0])


def _magnitude(array: np.ndarray) -> float:
    if array.size == 0 or array.dtype.kind not in "fiu":
        return 0.0
    values = np.abs(array.astype(np.float64))
    return float(values.max(initial=0.0, where=np.isfinite(values)))


def _all_finite(array: np.ndarray) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def _rounded(value: float) -> float | str:
    return float(f"{value:.3g}") if math.isfinite(value) else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, dict | Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


__all__ = ["Case", "CaseRecord", "Failure", "OutputParity", "ParityReport", "SourceRun", "judge", "redrawn", "run_source"]
