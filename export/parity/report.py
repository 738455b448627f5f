"""The result of a comparison, as data and as text: :class:`ParityReport`."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxferry.runtime.errors import InputError
from onnxferry.runtime.files import write_json, write_text_whole

REPORT_SUFFIXES = (".html", ".json")


SOURCE_FAULTS = ("source", "random-source", "all-nan", "nothing-compared", "axis-untested")


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
    differing: int = 0  # elements that are not equal
    decisions: int = 0  # places where an argmax (or a whole number) was compared
    decisions_changed: int = 0
    ties: int = 0  # decisions left out: the source itself decides otherwise when its weights change by 1e-6
    float64_source: float | None = None  # largest error of the source against its own float64 run
    float64_file: float | None = None  # the same of the file
    rounding: float = 0.0  # largest difference allowed beyond the tolerance: the source's own rounding moves its answer as far
    scale: float = 0.0  # largest magnitude seen
    points: list[tuple[float, float]] = field(default_factory=list)  # (|source|, |difference|), for plots


@dataclass(frozen=True)
class CaseRecord:
    """One case, and whether it was compared."""

    name: str
    shapes: Mapping[str, tuple[int, ...]]
    traced: bool  # all sizes as traced
    generated: bool  # a probe, not given
    compared: bool
    why_dropped: str = ""


@dataclass(frozen=True)
class Failure:
    """One reason to refuse the file."""

    kind: str  # what failed, in one word: "difference", "shape", "runtime" …
    message: str
    case: str = ""
    output: str = ""
    excess: float = 0.0  # of a difference: how many times as large as allowed


SHOWN = 3
"""Failures that the text of a report has; the file that --report writes has all."""


@dataclass
class ParityReport:
    """The result of a comparison. ``passed`` is the verdict; :meth:`explain` gives it as text."""

    outputs: dict[str, OutputParity] = field(default_factory=dict)
    cases: list[CaseRecord] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    strategy: str = ""  # how the graph was made
    fixes: list[str] = field(default_factory=list)  # fixes that were applied to the graph
    refused: list[tuple[str, str]] = field(default_factory=list)  # (strategy, why) of the ones tried before
    notes: list[str] = field(default_factory=list)
    nonfinite: dict[str, str] = field(default_factory=dict)  # output -> "same", or "differs: …", where NaN and infinity go in
    located: dict[str, Any] = field(default_factory=dict)  # first node that differs, likely cause, line to try

    @property
    def passed(self) -> bool:
        return not self.failures

    @property
    def source_is_at_fault(self) -> bool:
        """True if the cause is the model itself or its inputs, so that no other export strategy can help."""
        return any(failure.kind in SOURCE_FAULTS for failure in self.failures)

    @property
    def compared(self) -> list[CaseRecord]:
        return [case for case in self.cases if case.compared]

    @property
    def dropped(self) -> list[CaseRecord]:
        return [case for case in self.cases if not case.compared]

    def summary(self) -> dict[str, Any]:
        """The short form that is stored in a file."""
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
            **({"nonfinite": {name: verdict.partition(":")[0] for name, verdict in self.nonfinite.items()}} if self.nonfinite else {}),
        }

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain JSON values (not-finite numbers as strings)."""
        plain = _plain({**dataclasses.asdict(self), "passed": self.passed})
        assert isinstance(plain, dict)  # noqa: S101 - for the type checker: a dict goes in
        return plain

    def save(self, path: str | os.PathLike[str], *, title: str = "") -> None:
        """Write the report as one self-contained HTML page or as JSON, by the suffix: .html or .json. ``title``: the page's.

        The file is written whole or not at all. Raises InputError for another suffix, OSError if it cannot be written.
        """
        from onnxferry.export.parity.report_html import html_page

        target = Path(path)
        suffix = target.suffix.lower()
        if suffix not in REPORT_SUFFIXES:
            raise InputError(f"a report's name must end in {' or '.join(REPORT_SUFFIXES)}, got {target.name!r}")
        if suffix == ".json":
            write_json(target, self.to_json())
        else:
            write_text_whole(target, html_page(self, title=title))

    def explain(self) -> str:
        """The verdict as text: what differs, where, by how much, the likely cause, and what to try."""
        untraced = sum(not case.traced for case in self.compared)
        head = f"compared {len(self.compared)} inputs, {untraced} of them at sizes never traced"
        if self.dropped:
            head += f"; {len(self.dropped)} probes left out, which the model itself cannot take"
        lines = [f"passed: {head}" if self.passed else f"failed: {head}"]
        for key, words in (("cause", "likely cause"), ("try", "try"), ("node", "first difference")):
            if key in self.located:
                lines.append(f"  {words}: {self.located[key]}")
        lines += [f"  {failure.message}" for failure in sorted(self.failures, key=lambda failure: -failure.excess)[:SHOWN]]
        if len(self.failures) > SHOWN:
            lines.append(f"  … and {len(self.failures) - SHOWN} more failures: --report FILE.html and --json have all")
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
        lines += [f"  fixed: {fix}" for fix in self.fixes]
        lines += [f"  refused before: {name}: {why}" for name, why in self.refused]
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)

    def first_line(self) -> str:
        """One sentence for an error: the first failure."""
        if not self.failures:
            return "the file does what its source does"
        more = f" (and {len(self.failures) - 1} more)" if len(self.failures) > 1 else ""
        return self.failures[0].message + more


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
