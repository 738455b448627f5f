"""One attempt at an export: the graph of a strategy, cleaned, fixed and compared with the source."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import onnx

from onnxferry.export.graphs import cleanup as graph_cleanup
from onnxferry.export.graphs import nodes
from onnxferry.export.graphs.branches import Branches
from onnxferry.export.graphs.writer import opened
from onnxferry.export.parity.compare import Runner, compare
from onnxferry.export.parity.probes import Case, probes, variations
from onnxferry.export.parity.reference import SourceRun, run_source
from onnxferry.export.parity.report import Failure, ParityReport
from onnxferry.export.parity.special.check import check_values
from onnxferry.export.parity.tolerances import GivenTolerance
from onnxferry.export.progress import say
from onnxferry.export.source import Candidate, Feeds, Source, Strategy
from onnxferry.runtime.errors import OnnxFerryError


@dataclass(frozen=True, eq=False)
class Attempt:
    """The result of one strategy."""

    candidate: Candidate
    model: onnx.ModelProto  # cleaned
    report: ParityReport
    runs: Sequence[SourceRun]


def try_strategy(
    source: Source,
    strategy: Strategy,
    given: Sequence[Case],
    tolerances: Mapping[str, GivenTolerance] | None = None,
    decisions: Collection[str] = (),
    adjust_probe: Callable[[str, Feeds], Feeds] | None = None,
    strict_nonfinite: bool = False,
) -> Attempt:
    """Build the strategy's graph and compare it with the source on the given cases and on probes.

    Raises ExportError if there is no valid graph; differences are failures of the report.
    """
    say(f"capturing the model: {strategy.name}")
    candidate = strategy.build()
    model = graph_cleanup.clean(candidate, source.inputs, source.output_names)
    cases = [*given, *probes(source.inputs, source.examples, candidate.ranges, adjust_probe)]
    runs, failures = run_source(source, cases, len(given))
    fixed: list[str] = []
    if failures:
        report = ParityReport(failures=failures)
    else:
        observed = [(run.case.sizes, {n: a.shape for n, a in run.outputs.items()}) for run in runs if run.outputs is not None]
        fixed = graph_cleanup.declare_output_shapes(model, observed)
        graph_cleanup.check(model, foreign=candidate.foreign)
        drawn = graph_cleanup.random_operators(model)
        if drawn:
            text = f"the graph holds {drawn[0]}, whose answer changes from run to run: take random numbers as an input"
            report = ParityReport(failures=[Failure("random", text)])
        else:
            report, runs = _opened_and_compared(source, model, runs, given, tolerances, decisions, strict_nonfinite)
    report.strategy = strategy.name
    report.fixes = [*candidate.fixes, *fixed, *report.fixes]
    report.notes = [*source.notes, *dict.fromkeys(report.notes)]
    return Attempt(candidate, model, report, runs)


def _opened_and_compared(
    source: Source,
    model: onnx.ModelProto,
    runs: list[SourceRun],
    given: Sequence[Case],
    tolerances: Mapping[str, GivenTolerance] | None,
    decisions: Collection[str],
    strict_nonfinite: bool,
) -> tuple[ParityReport, list[SourceRun]]:
    with contextlib.ExitStack() as stack:
        try:
            engine = stack.enter_context(opened(model))
        except OnnxFerryError as error:
            text = f"ONNX Runtime cannot load the exported graph: {str(error).splitlines()[0]}{_other_dtype(model, str(error))}"
            return ParityReport(failures=[Failure("runtime", text)]), runs
        report, runs = compare_branches(source, model, engine, runs, given, tolerances, decisions)
        return report, check_values(source, engine, model, report, runs, tolerances, strict_nonfinite)


# ONNX Runtime's errors for an operator that it lacks in a dtype: on loading the graph or, for a few operators, on running it.
_LACKS = re.compile(r"Could not find an implementation|does not support (?:double|float16|half)", re.IGNORECASE)


def _other_dtype(model: onnx.ModelProto, words: str) -> str:
    """Advice for an operator that ONNX Runtime lacks in a dtype: on the CPU it has all in float32, and some in other dtypes."""
    kinds = onnx.TensorProto
    rare = {int(kinds.DOUBLE): "float64", int(kinds.FLOAT16): "float16", int(kinds.BFLOAT16): "bfloat16"}
    found = [rare[t] for t in _dtypes(model) if t in rare]
    if not found or not _LACKS.search(words):
        return ""
    return f"; it has none for {found[0]}: export model.float()" + (", without autocast" if found[0] != "float64" else "")


def _dtypes(model: onnx.ModelProto) -> list[int]:
    """The element types of weights, inputs and outputs, then those of casts, as autocast inserts them."""
    casts = [a.i for node in nodes.all_nodes(model) if node.op_type == "Cast" for a in node.attribute if a.name == "to"]
    declared = [v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)]
    return [*(t.data_type for t in model.graph.initializer), *declared, *casts]


def compare_branches(
    source: Source,
    model: onnx.ModelProto,
    runner: Runner,
    runs: list[SourceRun],
    given: Sequence[Case],
    tolerances: Mapping[str, GivenTolerance] | None = None,
    decisions: Collection[str] = (),
) -> tuple[ParityReport, list[SourceRun]]:
    """Compare an open file with the reference outputs, and require that every side of its branches was taken: the report, and all runs."""
    report = compare(source, runner, runs, tolerances=tolerances, decisions=decisions)
    report.failures = [
        dataclasses.replace(failure, message=f"{failure.message}{_other_dtype(model, failure.message)}") for failure in report.failures
    ]
    if not report.passed or not any(node.op_type == "If" for node in nodes.all_nodes(model)):
        return report, runs
    branches = Branches(model)
    if branches:
        more = _cases_for_branches(source, branches, runs)
        if more:
            added, _ = run_source(source, [*given, *more], len(given))
            runs = [*runs, *added[len(given) :]]
            report = compare(source, runner, runs, tolerances=tolerances, decisions=decisions)
        for branch, side in branches.untaken():
            text = (
                f"the {side} side of the branch {branch!r} was never taken, so it is not verified: "
                "give samples that take it, or take the branch out of the model"
            )
            report.failures.append(Failure("branch-untested", text))
    return report, runs


def _cases_for_branches(source: Source, branches: Branches, runs: Sequence[SourceRun]) -> list[Case]:
    """Records which sides of every branch the compared cases took, and finds more cases for those that none took."""
    more: list[Case] = []
    with opened(branches.model) as watcher:
        for run in runs:
            if run.outputs is not None:
                branches.add(watcher.run(run.case.feeds))
        for case in variations(source.inputs, source.examples):
            if not branches.untaken():
                break
            try:
                source.run(case.feeds)
                if branches.add(watcher.run(case.feeds)):
                    more.append(case)
            except Exception:  # noqa: BLE001 - a variation may be invalid for the user's model or for the file; it is skipped
                continue
    return more
