"""Reference outputs: the source is run on every case, and checked to be deterministic and finite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxferry.export.parity.measures import all_finite, repeated
from onnxferry.export.parity.probes import Case
from onnxferry.export.parity.report import Failure
from onnxferry.export.progress import say
from onnxferry.export.source import Source
from onnxferry.runtime.errors import first_line


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
        say(f"running the model on input {number + 1} of {len(cases)}")
        try:
            outputs = source.run(case.feeds)
        except Exception as error:  # noqa: BLE001 - the user's model may raise anything
            why = _why(error)
            if number < given:
                failures.append(Failure("source", f"the model itself fails on {case.name} ({why})", case.name))
            runs.append(SourceRun(case, None, f"the model cannot take it ({why})"))
            continue
        if number < given:
            for name, array in outputs.items():
                finite_in_examples[name] = finite_in_examples.get(name, True) and all_finite(array)
        else:
            # If the examples give infinities too (masked logits), those of a probe are compared element by element.
            bad = [n for n, a in outputs.items() if not all_finite(a) and finite_in_examples.get(n, True)]
            if bad:
                runs.append(SourceRun(case, None, f"output {bad[0]!r} of the model itself is not finite"))
                continue
        runs.append(SourceRun(case, outputs))
    if not failures and given:
        failures += _repeatability(source, [r for r in runs if r.outputs is not None])
    return runs, failures


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error, '(no message)')[:200]}"


def _repeatability(source: Source, runs: Sequence[SourceRun]) -> list[Failure]:
    """Runs the first given and the last generated case again: the same input must give the same output."""
    for run in dict.fromkeys((0, len(runs) - 1)) if runs else ():
        expected = runs[run].outputs or {}
        case = runs[run].case
        try:
            again = source.run(case.feeds)
        except Exception as error:  # noqa: BLE001 - as above
            text = f"the model fails on {case.name} the second time ({_why(error)}): forward() must not keep state between calls"
            return [Failure("random-source", text, case.name)]
        for name, array in expected.items():
            if not repeated(array, again[name]):
                return [
                    Failure(
                        "random-source",
                        f"output {name!r} of the model changes from run to run on the same input, so nothing can be verified: "
                        "take random numbers as an input, and leave dropout off (model.eval())",
                        case.name,
                        name,
                    )
                ]
    return []
