"""An existing file compared with the model that it was exported from: the comparison of the export, repeated later.

report = verify_file("model.onnx", make_model(), samples=[{"x": x}])
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxferry.export.graphs import nodes
from onnxferry.export.graphs.reading import load_onnx
from onnxferry.export.options import ExportOptions
from onnxferry.export.parity.attempt import compare_branches
from onnxferry.export.parity.compare import Runner
from onnxferry.export.parity.explain import explain
from onnxferry.export.parity.measures import magnitude
from onnxferry.export.parity.probes import Case, given_case, probes
from onnxferry.export.parity.reference import SourceRun, run_source
from onnxferry.export.parity.report import ParityReport
from onnxferry.export.parity.special.check import check_values
from onnxferry.export.parity.tolerances import GivenTolerance, default_tolerance
from onnxferry.export.pipeline.export import LOCK, checked_feeds, given_cases
from onnxferry.export.source import Candidate, Feeds, Plan, RoundedSource, Source
from onnxferry.export.sources.choose import Chosen, choose
from onnxferry.export.tasks.image_input import ImageInput
from onnxferry.runtime.arguments import listed
from onnxferry.runtime.artifact.tolerances import Tolerance
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.errors import ExportError, InputError
from onnxferry.runtime.onnx_file.made_inputs import example_inputs
from onnxferry.runtime.onnx_file.summary import Limits
from onnxferry.runtime.tables.feeds import as_feeds

# A contract's tolerance that is wider than the default by more than its rounding was given at the export.
ROUNDED = 1.2


def verify_file(
    path: str | os.PathLike[str],
    model: Any,
    *,
    weights: str | os.PathLike[str] | None = None,
    samples: Sequence[Feeds] = (),
    limits: Limits | None = None,
    device: str = "cpu",
    threads: int | None = None,
    strict_nonfinite: bool = False,
    signature: str | None = None,
    python: str | os.PathLike[str] | None = None,
) -> ParityReport:
    """Compare an .onnx file with the model that it was exported from: any model that :func:`export_model` takes.

    It is compared on the file's golden samples, on ``samples`` (dicts of arrays by input name), and on generated inputs at other sizes
    of the axes that the file declares as dynamic; without either kind of sample, random values are drawn as the file declares them. A
    run or checkpoint brings the inputs of its own export. Tolerances are by dtype, or the contract's if wider ones were given at the
    export. ``weights``: a state dict for the PyTorch model that ``"pkg.module:make_model"`` makes. ``limits``, ``device``, ``threads``:
    how the file is opened. ``strict_nonfinite``: a file fails that answers NaN or infinity in an input otherwise than the model; it is
    only noted if False. ``signature``, ``python``: of a TensorFlow model, as at the export.

    Returns the report: ``report.passed`` is the verdict, a difference raises nothing. Runs one at a time, as exports do.
    Raises ArtifactError for a file that cannot be opened, InputError if the file's inputs are not the model's or an option is not for
    this kind of model, and ExportError if the model itself fails on them.

        >>> verify_file("model.onnx", "mypkg.models:make", weights="w.safetensors").passed
        True
    """
    with LOCK, Engine(path, device=device, threads=threads, limits=limits) as engine:
        known = [dict(golden.inputs) for golden in engine.contract.goldens] if engine.contract else []
        samples = [_by_input(engine, feeds, f"sample {number}") for number, feeds in enumerate(samples)]
        asked = ExportOptions(signature=signature, python=python)
        plan, cases = _plan(choose(model, weights=weights), Path(path), engine, [*samples, *known], asked=asked)
        source = plan.source
        if strict_nonfinite and not isinstance(source, RoundedSource):
            raise InputError(
                "NaN and infinity are compared for PyTorch, Keras, JAX, TensorFlow and .onnx models: leave strict_nonfinite out"
            )
        for what, group in (("golden sample", known), ("sample", samples)):
            for number, feeds in enumerate(group):
                name = f"{what} {number}"
                cases.append(given_case(name, checked_feeds(plan, feeds, name), source.inputs))
        proto = load_onnx(Path(path))
        opened = _Without(engine, plan.added)
        other = _other_weights(engine, source)
        report = ParityReport()
        if other:  # the samples alone most likely show it, and at once
            report, runs = _compared(source, proto, opened, cases, [], plan, engine)
        if report.passed or report.source_is_at_fault:
            generated = list(probes(source.inputs, source.examples, adjust=plan.adjust_probe))
            report, runs = _compared(source, proto, opened, cases, generated, plan, engine)
            if report.passed:
                runs = check_values(source, opened, proto, report, runs, _tolerances(plan, engine, runs), strict_nonfinite)
    report.strategy = f"the file {Path(path).name}"
    report.notes = [*source.notes, *dict.fromkeys(report.notes)]
    if report.passed:
        return report
    explain(source, _candidate(source, proto), proto, report, runs)
    if other:
        report.located.update({"cause": other, "try": "give the weights that it was exported with, or export it again"})
    return report


def _compared(
    source: Source, proto: onnx.ModelProto, opened: Runner, cases: list[Case], generated: list[Case], plan: Plan, engine: Engine
) -> tuple[ParityReport, list[SourceRun]]:
    runs, failures = run_source(source, [*cases, *generated], len(cases))
    if failures:
        return ParityReport(failures=failures), runs
    return compare_branches(source, proto, opened, runs, cases, _tolerances(plan, engine, runs), plan.decisions)


def _tolerances(plan: Plan, engine: Engine, runs: Sequence[SourceRun]) -> dict[str, GivenTolerance]:
    return {**plan.tolerances, **_given_at_the_export(engine, runs)}


def _other_weights(engine: Engine, source: Source) -> str:
    """Why the model cannot do the same, where both say which weights they have; "" for the same, or where one does not say."""
    known = dict(engine.contract.provenance) if engine.contract else {}
    if known.get("framework") not in ("pytorch", "keras") or not known.get("weights_sha256"):
        return ""
    found = source.provenance()
    if found.get("framework") != known["framework"] or found.get("weights_sha256") in (None, known["weights_sha256"]):
        return ""
    ours, theirs = str(known["weights_sha256"])[:12], str(found["weights_sha256"])[:12]
    return f"the file was exported with other weights (SHA-256 {ours} …) than the model has now ({theirs} …)"


def _by_input(engine: Engine, feeds: Feeds, what: str) -> Feeds:
    """A sample by the file's inputs: columns of a table have their axes and dtypes. Raises InputError with the names found and wanted."""
    specs = (*engine.inputs, *engine.optional_inputs)
    unknown = [name for name in feeds if name not in {spec.name for spec in specs}]
    if unknown:
        wanted = listed(spec.name for spec in specs)
        raise InputError(f"{what} has {listed(unknown)} besides the file's inputs ({wanted}); leave that out")
    return as_feeds(feeds, engine.inputs, engine.optional_inputs)


class _Without:
    """An open file without the outputs that an export adds to those of the model."""

    def __init__(self, engine: Engine, added: Collection[str]) -> None:
        self._engine, self._added = engine, added

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        return {name: array for name, array in self._engine.run(feeds).items() if name not in self._added}


def plan_for_file(chosen: Chosen, path: Path, samples: Sequence[Feeds], axes: Mapping[str, Mapping[int, str]] | None = None) -> Plan:
    """A model with the inputs of a file that was made from it. ``axes``: other names for the file's dynamic axes."""
    with Engine(path, device="cpu") as engine:
        plan, _ = _plan(chosen, path, engine, samples, axes)
    return plan


def _plan(
    chosen: Chosen,
    path: Path,
    engine: Engine,
    samples: Sequence[Feeds],
    named: Mapping[str, Mapping[int, str]] | None = None,
    asked: ExportOptions | None = None,
) -> tuple[Plan, list[Case]]:
    """The model with the file's inputs, and the cases that it brings.

    If the model names its outputs differently than the file, they are matched by position.
    """
    asked = asked or ExportOptions()
    names = tuple(spec.name for spec in engine.outputs)
    if not chosen.takes("samples"):
        plans = chosen.plans(None, asked, path)
        # A model in two files: the one with these outputs.
        plan = next((plan for plan in plans if set(plan.source.output_names) <= set(names)), plans[0])
        return plan, given_cases(plan)
    task = _task(engine)
    if task is not None and task.image is not None:
        (plan,) = chosen.plans(None, dataclasses.replace(task, signature=asked.signature, python=asked.python), path)
        return plan, given_cases(plan)[:1]
    example = next(iter(samples), None) or example_inputs(engine.inputs)
    axes = {name: {**places, **(named or {}).get(name, {})} for name, places in _dynamic_axes(engine).items()}
    (plan,) = chosen.plans(example, dataclasses.replace(asked, dynamic_shapes=axes), path)
    own = plan.source.output_names
    if task is not None and set(own) != set(names) and task.scores in own:  # the classes are the file's
        task = dataclasses.replace(task, signature=asked.signature, python=asked.python, dynamic_shapes=axes)
        (plan,) = chosen.plans(example, task, path)
    elif set(own) != set(names) and len(own) == len(names) and chosen.takes("output_names"):
        (plan,) = chosen.plans(example, dataclasses.replace(asked, dynamic_shapes=axes, output_names=names), path)
    unknown = sorted({spec.name for spec in plan.source.inputs} - {spec.name for spec in (*engine.inputs, *engine.optional_inputs)})
    if unknown:
        raise InputError(
            f"the model's input {unknown[0]!r} is no input of {path.name}: the file was not exported from this model, "
            "or its inputs were renamed"
        )
    return plan, given_cases(plan)[:1]


def _task(engine: Engine) -> ExportOptions | None:
    """The image in front of the model and the classes behind it, as the contract says that the export put them; None if there are none."""
    contract = engine.contract
    found = contract.options.get("image_input") if contract else None
    if contract is None or not (isinstance(found, Mapping) or (contract.labels and "activation" in contract.options)):
        return None
    activation, scores = contract.options.get("activation"), contract.options.get("scores")
    return ExportOptions(
        image=ImageInput.from_json(found) if isinstance(found, Mapping) else None,
        labels=contract.labels or None,
        activation=activation if isinstance(activation, str) else "auto",
        scores=scores if isinstance(scores, str) else None,
    )


def _dynamic_axes(engine: Engine) -> dict[str, dict[int, str]]:
    """The axes that the file declares without a size, by name if they have one."""
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


def _given_at_the_export(engine: Engine, runs: Sequence[SourceRun]) -> dict[str, Tolerance]:
    """The contract's tolerances that are wider than the defaults: they were given at the export."""
    wider = {}
    for name, tolerance in (engine.contract.tolerances if engine.contract else {}).items():
        arrays = [run.outputs[name] for run in runs if run.outputs is not None and name in run.outputs]
        if arrays:
            default, _ = default_tolerance(arrays[0].dtype, max(magnitude(array) for array in arrays))
            if tolerance.rtol > ROUNDED * default.rtol or tolerance.atol > ROUNDED * default.atol:
                wider[name] = tolerance
    return wider


def _candidate(source: Source, proto: onnx.ModelProto) -> Candidate:
    """The file, with the model's own capture: an exported file names its values as the capture does."""
    trace = None
    with contextlib.suppress(ExportError):  # without a capture, the explanation has no first node
        trace = source.strategies(nodes.OPSET)[0].build().trace
    return Candidate(proto, foreign=True, trace=trace)
