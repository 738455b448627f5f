"""Compares source and file on value probes, within a time budget, and shrinks a probe that fails.

The yardstick of a difference is the source's own rounding on that very probe (:mod:`.rounding`): what is beyond the tolerance of the
dtype must be explained by it. A probe that the source does not take, or answers with something not finite, says nothing and is left out.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnxferry.export.graphs.loops import may_not_end
from onnxferry.export.graphs.roles import roles
from onnxferry.export.parity.measures import all_finite
from onnxferry.export.parity.probes import Case, given_case
from onnxferry.export.parity.reference import SourceRun
from onnxferry.export.parity.report import CaseRecord, Failure, ParityReport
from onnxferry.export.parity.rounding import Wobble, rounded_rows
from onnxferry.export.parity.special.patterns import nonfinite_probes, value_probes
from onnxferry.export.parity.special.rows import row_probes, some_rows
from onnxferry.export.parity.special.sizes import size_probes
from onnxferry.export.parity.special.smaller import shown, smaller
from onnxferry.export.parity.tolerances import (
    FLOAT64_CAP,
    KERNEL_FLOOR,
    GivenTolerance,
    default_tolerance,
    probe_tolerance,
    resolved_tolerance,
)
from onnxferry.export.progress import say
from onnxferry.export.source import Feeds, RoundedSource, Source, TableSource, dynamic_axes
from onnxferry.runtime.artifact.comparison import absolute_difference, allowed_difference, outside
from onnxferry.runtime.artifact.tolerances import EXACT, Tolerance
from onnxferry.runtime.errors import OnnxFerryError

SECONDS = 2.0
"""For all value probes of one file, and half as much for the non-finite ones. What does not fit is left out, and named."""

LEAST = 4
"""Probes that are tried however long they take."""

MOST_FAILURES = 2
"""Then no more are looked for: every one is shrunk."""

SHRINKING_SECONDS = 1.0
"""For one probe."""

ROW_ATTEMPTS = 40
"""Of one probe of a table: how often the source is asked to find out which rows it takes."""


@dataclass(frozen=True)
class Found:
    """Where a file gives something else."""

    output: str
    kind: str
    place: tuple[int, ...]
    words: str


class ValueCheck:
    """One file beside its source. ``runner``: as of :func:`onnxferry.export.parity.compare.compare`."""

    def __init__(self, source: Source, runner: object, tolerances: Mapping[str, GivenTolerance], report: ParityReport) -> None:
        self.source = source
        self.runner = runner
        self.tolerances = tolerances
        self.report = report
        self.table = source if isinstance(source, TableSource) else None
        self.failed: list[SourceRun] = []  # the shrunk probes, as cases that can be explained

    def check_values(self, model: onnx.ModelProto, runs: Sequence[SourceRun]) -> None:
        """Adds the probes to the report's cases, and what differs to its failures."""
        inputs, examples = self.source.inputs, self.source.examples
        cases = (
            list(row_probes(inputs, examples))
            if self.table is not None
            else [*size_probes(model, inputs, examples), *value_probes(inputs, examples, roles(model), _shapes(self.source, runs))]
        )
        end = time.monotonic() + SECONDS
        for number, case in enumerate(cases):
            if number >= LEAST and time.monotonic() > end:
                self.report.notes.append(_left_out(cases[number:]))
                return
            say(f"comparing special values, {number + 1} of {len(cases)}")
            if self._failing(case) and len(self.failed) >= MOST_FAILURES:
                return

    def check_nonfinite(self, model: onnx.ModelProto, strict: bool) -> None:
        """Records by output whether the file answers NaN and infinity as the source does. A difference is a failure if ``strict``."""
        if may_not_end(model):
            self.report.notes.append("NaN and infinity were not tried: the model has a loop that ends by a value, and may never end there")
            return
        end = time.monotonic() + SECONDS / 2
        for case in nonfinite_probes(self.source.inputs, self.source.examples, dynamic_axes(self.source.inputs)):
            if time.monotonic() > end:
                self.report.notes.append("NaN and infinity were tried in part only: the model takes long")
                break
            want = self._answer(case.feeds)
            if want is None:
                continue
            got = self._file(case.feeds)
            for name, array in want.items():
                words = "the file cannot run" if isinstance(got, str) else _other_nonfinite(array, got[name])
                known = self.report.nonfinite.setdefault(name, "same")
                if words and known == "same":
                    self.report.nonfinite[name] = f"differs: {case.name}: {words}"
        for name, verdict in self.report.nonfinite.items():
            if verdict != "same":
                text = f"output {name!r} answers NaN or infinity otherwise than the model ({verdict.removeprefix('differs: ')})"
                if strict:
                    self.report.failures.append(Failure("nonfinite", text, output=name))
                else:
                    self.report.notes.append(text)

    def _failing(self, case: Case) -> bool:
        if self.table is not None:
            kept = self._taken(case)
            case = some_rows(case, np.array(kept)) if kept else case
        want = self._answer(case.feeds)
        shapes = {name: tuple(np.shape(array)) for name, array in case.feeds.items()}
        traced = dynamic_axes(self.source.inputs) == dict(case.sizes)
        usable = want is not None and all(all_finite(array) for array in want.values())
        why = "" if usable else "the model cannot take it" if want is None else "the model's answer is not finite"
        self.report.cases.append(CaseRecord(case.name, shapes, traced, True, usable, why))
        if want is None or not usable:
            return False
        found = self._compared(case.feeds, want)
        if found is None:
            return False
        feeds, want, found = self._shrunk(case.feeds, want, found)
        self.failed.append(SourceRun(Case(case.name, feeds, given_case("", feeds, self.source.inputs).sizes, generated=True), want))
        given = ", ".join(f"{name} = {shown(array)}" for name, array in feeds.items())
        self.report.failures.append(Failure(found.kind, f"{found.words}, for {given} (probe {case.name!r})", case.name, found.output))
        return True

    def _taken(self, case: Case) -> list[int]:
        """The rows of a table that the source answers by finite numbers. What it does not take together is asked by halves."""
        found: list[int] = []
        todo = [np.arange(len(next(iter(case.feeds.values()))))]
        for _ in range(ROW_ATTEMPTS):
            if not todo:
                break
            rows = todo.pop(0)
            want = self._answer(some_rows(case, rows).feeds)
            if want is None:
                half = len(rows) // 2
                todo += [rows[:half], rows[half:]] if half else []
                continue
            fine = np.ones(len(rows), dtype=bool)
            for array in want.values():
                if array.dtype.kind == "f":
                    fine &= np.isfinite(array).reshape(len(rows), -1).all(1)
            found += [int(row) for row in rows[fine]]
        return sorted(found)

    def _answer(self, feeds: Feeds) -> dict[str, np.ndarray] | None:
        try:
            return self.source.run(feeds)
        except Exception:  # noqa: BLE001 - a probe may be invalid for the user's model
            return None

    def _file(self, feeds: Feeds) -> dict[str, np.ndarray] | str:
        try:
            return self.runner.run(feeds)  # type: ignore[attr-defined, no-any-return]
        except OnnxFerryError as error:
            return str(error).splitlines()[0]

    def _compared(self, feeds: Feeds, want: Mapping[str, np.ndarray]) -> Found | None:
        """The first difference that the source's rounding does not explain."""
        got = self._file(feeds)
        if isinstance(got, str):
            return Found("", "runtime", (), f"ONNX Runtime cannot run the file where the model can ({got})")
        wobble = Wobble(self.source, feeds, want, None if self.table is None else rounded_rows(self.table))
        for name, array in want.items():
            found = self._output(name, array, np.asarray(got[name]), wobble)
            if found is not None:
                return found
        return None

    def _output(self, name: str, want: np.ndarray, got: np.ndarray, wobble: Wobble) -> Found | None:
        if want.shape != got.shape or want.dtype != got.dtype:
            words = f"output {name!r} is {got.dtype} {got.shape} in the file and {want.dtype} {want.shape} in the model"
            return Found(name, "shape", (), words)
        if want.size == 0:
            return None
        given = self.tolerances.get(name)
        if want.dtype.kind == "f":
            allowed = probe_tolerance(want.dtype, want)
            if given is not None:
                scale = float(np.abs(want.astype(np.float64)).max())
                allowed = np.maximum(allowed, allowed_difference(want, resolved_tolerance(given, want.dtype, scale)[0]))
            difference = absolute_difference(got, want)
            beyond = difference > allowed
            if beyond.any():
                beyond = wobble.unexplained(name, beyond, difference, allowed)
        else:
            tolerance = given if isinstance(given, Tolerance) else EXACT
            beyond = outside(got, want, tolerance)
            difference = np.where(beyond, 1.0, 0.0)
            if beyond.any():
                beyond = wobble.untied(name, beyond)
        if not beyond.any():
            return None
        place = tuple(int(i) for i in np.unravel_index(int(np.argmax(np.where(beyond, difference, -1.0))), want.shape))
        words = f"output {name!r} is {got[place].item()!r} in the file and {want[place].item()!r} in the model"
        kind = "difference" if np.isfinite(got[place]) else "not-finite"
        return Found(name, kind, place, f"{words} at {list(place)}; {int(beyond.sum())} of {want.size} elements differ")

    def _shrunk(self, feeds: Feeds, want: dict[str, np.ndarray], found: Found) -> tuple[Feeds, dict[str, np.ndarray], Found]:
        """The smallest input, by halving the dynamic axes and then setting elements to zero, that still fails."""
        end = time.monotonic() + SHRINKING_SECONDS
        changed = True
        while changed:
            changed = False
            for less in smaller(self.source.inputs, feeds):
                if time.monotonic() > end:
                    break
                answer = self._answer(less)
                if answer is None or not all(all_finite(array) for array in answer.values()):
                    continue
                again = self._compared(less, answer)
                if again is not None and again.kind == found.kind:
                    feeds, want, found, changed = less, answer, again, True
                    break
        return feeds, want, found


def check_values(
    source: Source,
    runner: object,
    model: onnx.ModelProto,
    report: ParityReport,
    runs: Sequence[SourceRun],
    tolerances: Mapping[str, GivenTolerance] | None = None,
    strict_nonfinite: bool = False,
) -> list[SourceRun]:
    """Compare on value probes, if everything else passed: adds to the report; returns all runs, with the probes that failed.

    A source whose rounding is not known has no fair yardstick: it is not probed.
    """
    # Who gives exact tolerances (our own families) brings the inputs that fit them, too.
    own = any(isinstance(tolerance, Tolerance) for tolerance in (tolerances or {}).values())
    if own or not report.passed or not isinstance(source, RoundedSource | TableSource):
        return list(runs)
    check = ValueCheck(source, runner, tolerances or {}, report)
    check.check_values(model, runs)
    if report.passed:
        check.check_nonfinite(model, strict_nonfinite)
    return [*runs, *check.failed]


def _shapes(source: Source, runs: Sequence[SourceRun]) -> list[dict[str, int]]:
    """The traced sizes, and the largest others that the source took within twice as many elements."""
    traced = dynamic_axes(source.inputs)
    size = max(1, sum(np.size(array) for array in source.examples.values()))
    others = [
        (sum(np.size(array) for array in run.case.feeds.values()), dict(run.case.sizes))
        for run in runs
        if run.outputs is not None and run.case.generated and dict(run.case.sizes) != traced
    ]
    fitting = [(elements, sizes) for elements, sizes in others if elements <= 4 * size]
    return [traced, *([max(fitting, key=lambda pair: pair[0])[1]] if fitting else ())]


def _other_nonfinite(want: np.ndarray, got: np.ndarray) -> str:
    """How the answers differ, in words; "" if they do not."""
    if want.shape != got.shape or want.dtype != got.dtype:
        return f"shape {got.shape} in the file, {want.shape} in the model"
    if want.dtype.kind != "f":
        tolerance = EXACT
        beyond = outside(got, want, tolerance)
    else:
        finite = np.abs(want[np.isfinite(want)].astype(np.float64))
        default, _ = default_tolerance(want.dtype, float(finite.max(initial=0.0)))
        tolerance = Tolerance(default.rtol, default.atol + FLOAT64_CAP * KERNEL_FLOOR)  # how large a finite answer is, is not the question
        beyond = outside(got, want, tolerance, equal_nan=True)
    if not beyond.any():
        return ""
    place = tuple(int(i) for i in np.argwhere(beyond)[0])
    return f"{got[place].item()!r} in the file, {want[place].item()!r} in the model"


def _left_out(cases: Sequence[Case]) -> str:
    names = "; ".join(case.name.removeprefix("values: ") for case in cases[:4])
    more = f" and {len(cases) - 4} more" if len(cases) > 4 else ""
    return f"{len(cases)} value probes were left out, for the model takes long: {names}{more}"
