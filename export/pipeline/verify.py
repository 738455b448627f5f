"""A file that is there already, judged against the model that it came from: what the export proved, proved again later.

report = judge_file("model.onnx", make_model(), samples=[{"x": x}])
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from onnxferry.export.graphs import nodes
from onnxferry.export.parity.attempt import compare_branches
from onnxferry.export.parity.explain import explain
from onnxferry.export.parity.measures import magnitude
from onnxferry.export.parity.probes import given_case, probes
from onnxferry.export.parity.reference import SourceRun, run_source
from onnxferry.export.parity.report import ParityReport
from onnxferry.export.parity.tolerances import default_tolerance
from onnxferry.export.pipeline.export import checked_feeds
from onnxferry.export.source import Candidate, Feeds, Source, is_keras, is_sklearn
from onnxferry.export.sources.choose import model_source, torch_source
from onnxferry.export.sources.factory import as_called
from onnxferry.runtime.artifact.contract import Tolerance
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.errors import ExportError
from onnxferry.runtime.onnx_file.made_inputs import example_inputs
from onnxferry.runtime.onnx_file.summary import Limits

# A contract's tolerance that exceeds the default by more than its rounding was asked for at the export.
ROUNDED = 1.2


def judge_file(
    path: str | os.PathLike[str],
    model: Any,
    *,
    samples: Sequence[Feeds] = (),
    limits: Limits | None = None,
    device: str = "cpu",
    threads: int | None = None,
) -> ParityReport:
    """Compare the file with the model that it is said to do the same as: one of those that ``export_model`` takes.

    Inputs are the file's golden samples, ``samples``, and probes at other sizes of the axes that the file declares dynamic;
    where it carries none and none are given, values are drawn as the file declares them. Tolerances are the judge's, by dtype,
    or the contract's where the export was told wider ones. The report says what was found, a difference raises nothing.

    Raises ArtifactError for a file that cannot be opened, InputError where the file's inputs are not the model's, and
    ExportError where the model itself fails on them.
    """
    with Engine(path, device=device, threads=threads, limits=limits) as engine:
        known = [dict(golden.inputs) for golden in engine.contract.goldens] if engine.contract else []
        example = next(iter((*samples, *known)), None) or example_inputs(engine.inputs)
        source = _source(model, example, engine)
        cases = [given_case("the example", checked_feeds(source, example, "the example"), source.inputs)]
        for what, group in (("golden sample", known), ("sample", samples)):
            for number, feeds in enumerate(group):
                name = f"{what} {number}"
                if feeds is not example:
                    cases.append(given_case(name, checked_feeds(source, feeds, name), source.inputs))
        runs, failures = run_source(source, [*cases, *probes(source.inputs, source.examples)], len(cases))
        report = ParityReport(failures=failures)
        proto = onnx.load(Path(path))  # the engine has looked at it before
        if not failures:
            report, runs = compare_branches(source, proto, engine, runs, cases, _asked_for(engine, runs))
    report.strategy = f"the file {Path(path).name}"
    report.notes = [*source.notes, *dict.fromkeys(report.notes)]
    if not report.passed:
        explain(source, _candidate(source, proto), proto, report, runs)
    return report


def _source(model: Any, example: Feeds, engine: Engine) -> Source:
    """The model with the file's inputs; where it calls its outputs otherwise, they are the file's by position."""
    axes = _dynamic_axes(engine)
    names = tuple(spec.name for spec in engine.outputs)
    if is_keras(model) or is_sklearn(model):
        source, _, _ = model_source(model, example, dynamic_shapes=axes, output_names=names)
        return source
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in example.items()}
    called = as_called(model, tensors, "this file was not exported from this model, or its inputs were renamed")
    source = torch_source(model, called, dynamic_shapes=axes)
    if set(source.output_names) != set(names) and len(source.output_names) == len(names):
        return torch_source(model, called, dynamic_shapes=axes, output_names=names)
    return source


def _dynamic_axes(engine: Engine) -> dict[str, dict[int, str]]:
    """Axes that the file declares without a size, under their names where those are words."""
    found = {}
    for spec in engine.inputs:
        axes = {
            axis: size if size and str(size).isidentifier() else f"{spec.name}_dim{axis}"
            for axis, size in enumerate(spec.shape)
            if not isinstance(size, int)
        }
        if axes:
            found[spec.name] = axes
    return found


def _asked_for(engine: Engine, runs: Sequence[SourceRun]) -> dict[str, Tolerance]:
    """The contract's tolerances that are wider than the judge's own: somebody asked for them at the export."""
    wider = {}
    for name, tolerance in (engine.contract.tolerances if engine.contract else {}).items():
        arrays = [run.outputs[name] for run in runs if run.outputs is not None and name in run.outputs]
        if arrays:
            default, _ = default_tolerance(arrays[0].dtype, max(magnitude(array) for array in arrays))
            if tolerance.rtol > ROUNDED * default.rtol or tolerance.atol > ROUNDED * default.atol:
                wider[name] = tolerance
    return wider


def _candidate(source: Source, proto: onnx.ModelProto) -> Candidate:
    """The file, and with it the model's own capture: a file of ours names its values as the capture does."""
    trace = None
    with contextlib.suppress(ExportError):  # without a capture, the explanation has no first node
        trace = source.strategies(nodes.OPSET)[0].build().trace
    return Candidate(proto, foreign=True, trace=trace)
