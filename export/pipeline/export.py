"""The one export pipeline: capture, clean, compare, write. A file that fails the comparison is not written.

    report = export_model(model, example_inputs, "out.onnx", dynamic_shapes={"x": {0: "batch"}})

Each strategy for capturing the model is tried in turn until one passes the comparison; the file holds the graph, the contract,
golden samples with the reference outputs, and the summary of the comparison.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import onnx

from onnxferry.export.graphs import nodes
from onnxferry.export.graphs.writer import checked_target, write_artifact
from onnxferry.export.options import ExportKeywords, ExportOptions, ModelKeywords
from onnxferry.export.parity.attempt import Attempt, try_strategy
from onnxferry.export.parity.explain import explain
from onnxferry.export.parity.probes import Case, given_case
from onnxferry.export.parity.report import Failure, ParityReport
from onnxferry.export.parity.tolerances import FloatTolerance, GivenTolerance, resolved_tolerance
from onnxferry.export.pipeline.goldens import chosen_goldens, none_stored, replay_file, rounded_up
from onnxferry.export.pipeline.provenance import shortened
from onnxferry.export.source import Feeds, FinalExportError, LikelyExportError, Plan, Source, as_array, dtype_name
from onnxferry.export.sources.choose import choose
from onnxferry.runtime.artifact.contract import Contract
from onnxferry.runtime.artifact.tolerances import Tolerance
from onnxferry.runtime.errors import ExportError, InputError, ParityError
from onnxferry.runtime.files import written_whole

LOCK = threading.RLock()
"""Held by every export and verification: a capture patches torch, ``warnings`` and file descriptor 2, which all threads share."""


def export_model(model: Any, example_inputs: Any, path: str | os.PathLike[str], **options: Unpack[ModelKeywords]) -> ParityReport:
    """Export a model of any framework to an ONNX file that is compared with it, or write nothing.

    ``model``: a ``torch.nn.Module``, a ``torch.export`` program, a Keras model, a JAX function or module, a fitted scikit-learn
    estimator, a model of LightGBM, XGBoost or CatBoost; the path of a run folder or checkpoint, or of a .pt2, .keras, .onnx, .txt, .json,
    .ubj or .cbm file; or the name ``"pkg.module:make_model"`` of
    what makes or is one of these.

    ``example_inputs``: for PyTorch a tensor, a tuple of positional inputs, or a dict by ``forward()``'s names; nested tuples and dicts
    of tensors are fine, and whatever is no tensor is fixed in the graph. For scikit-learn an array (rows, features), a DataFrame or a
    dict of columns, best those of a test set: all rows are compared; the same for boosted trees, or None to
    draw rows at their thresholds. For Keras arrays in the order of the inputs or by their names, or
    None to draw them. For JAX as for PyTorch, by the names of the arguments. For an .onnx file a dict of arrays, or None. For a run or
    checkpoint, and for a program that has its own: None.

    Inputs of the file keep ``forward()``'s names and order, outputs their flattened order.

    Keywords, of :class:`~onnxferry.export.options.ExportOptions`; one that does not apply to the model raises InputError:

    ``dynamic_shapes``: ``{"x": {0: "batch"}}``, the axes that may vary; an axis that is not named keeps its size.
    ``output_names``: names for the outputs.
    ``rtol``, ``atol``: |file - model| <= atol + rtol * |model| for every float element; None: by dtype. Integers and booleans must be
    equal.
    ``samples``: more inputs to compare on, as dicts of arrays by input name.
    ``strict_nonfinite``: refuse a file that answers NaN or infinity in an input otherwise than the model; it is only noted if False.
    ``golden``: True stores the example and the reference outputs in the file, if they are small; False (for private data) stores
    nothing; or the inputs to store instead.
    ``opset``: 18 to 21, 18 if not given. ``name``, ``description``, ``license``, ``command``: for the contract.
    ``weights``: a state dict for the PyTorch model that a name makes. ``with_labels``, ``bits``: of a run; see
    :func:`~onnxferry.export.families.checkpoint.export_checkpoint`.

    Exports run one at a time: a second thread waits. While one runs, torch, ``warnings`` and file descriptor 2 are patched for the
    whole process, so other threads should not use PyTorch.

    Raises ParityError (with ``.report``) if the file would not do what the model does, ExportError if the model cannot be converted,
    InputError for invalid arguments.

        >>> report = export_model(model, {"x": torch.randn(2, 16)}, "model.onnx", dynamic_shapes={"x": {0: "batch"}})
        >>> report.passed
        True
    """
    with LOCK:
        target = checked_target(path)
        chosen = choose(model, weights=options.pop("weights", None))
        if isinstance(chosen.model, Path) and target.exists() and target.samefile(chosen.model):
            raise InputError(f"{target} would be written over its own source: give another name")
        asked = ExportOptions(**options)
        with chosen.unchanged():
            return export_plans(chosen.plans(example_inputs, asked, target), target, asked)


def export_module(
    module: Any,
    example_inputs: Any,
    path: str | os.PathLike[str],
    *,
    contract: Contract,
    tolerances: Mapping[str, Tolerance] | None = None,
    decisions: Collection[str] = (),
    finish: Callable[[onnx.ModelProto], None] | None = None,
    **options: Unpack[ExportKeywords],
) -> ParityReport:
    """:func:`export_model` for code that knows more about the model: the contract to write, tolerances by output name, and outputs
    whose argmax along the last axis must not change (``decisions``). The contract's own provenance and tolerances take precedence
    over what is filled in here. ``finish`` may add to the verified graph what the source has no output for (class names as strings).
    """
    with LOCK:
        target, asked = checked_target(path), ExportOptions(**options)
        chosen = choose(module)
        with chosen.unchanged():
            (plan,) = chosen.plans(example_inputs, asked, target)
            known = dataclasses.replace(plan, contract=contract, tolerances=tolerances or {}, decisions=decisions, finish=finish)
            return export_plans([known], target, asked)


def export_plans(plans: Sequence[Plan], target: Path, options: ExportOptions) -> ParityReport:
    """Write the files of one model, all of them or none. Returns the report of the first."""
    with LOCK:
        if len(plans) == 1:
            return _export_plan(plans[0], plans[0].place(target), options)
        with tempfile.TemporaryDirectory(prefix=f".{target.stem}.", dir=target.parent) as folder:
            made = Path(folder) / target.name
            others = dataclasses.replace(options, description="")  # the user's describes the first
            reports = [_export_plan(plan, plan.place(made), others if number else options) for number, plan in enumerate(plans)]
            for plan in reversed(plans):
                plan.place(made).replace(plan.place(target))
        return reports[0]


def _export_plan(plan: Plan, target: Path, options: ExportOptions) -> ParityReport:
    tolerances = _tolerances(plan, options)
    _check_names(plan.source, tolerances, plan.decisions)
    given = given_cases(plan)
    goldens = None
    if plan.goldens is not None:
        goldens = [_case(plan, f"golden sample {number}", feeds) for number, feeds in enumerate(plan.goldens)]
    attempt = _first_that_passes(plan, [*given, *(goldens or ())], tolerances, options)
    report = attempt.report
    finished = _finished_contract(plan, _base_contract(plan, options, target), attempt, goldens, tolerances, options.command)
    if goldens is None and not finished.goldens:
        report.notes = [*report.notes, none_stored(plan.source)]
    if plan.finish is not None:
        plan.finish(attempt.model)
    write_artifact(attempt.model, finished, target, verify=replay_file)
    for name, payload in plan.beside.items():
        try:
            with written_whole(target.with_name(name)) as place:
                place.write_bytes(payload)
        except OSError as error:
            target.unlink(missing_ok=True)  # it would lack what its contract names
            raise ExportError(f"cannot write {name}: {error.strerror or error}; nothing was left behind") from error
    return report


def _first_that_passes(plan: Plan, given: Sequence[Case], tolerances: Mapping[str, GivenTolerance], options: ExportOptions) -> Attempt:
    """Try the source's strategies in turn. Raises ParityError, with the explained report of the first that made a graph, if none passes."""
    source = plan.source
    refused: list[tuple[str, str]] = []
    failed: Attempt | None = None
    first_error: ExportError | None = None
    for strategy in source.strategies(options.opset or nodes.OPSET):
        try:
            attempt = try_strategy(source, strategy, given, tolerances, plan.decisions, plan.adjust_probe, options.strict_nonfinite)
        except FinalExportError:
            raise
        except ExportError as error:
            refused.append((strategy.name, str(error).splitlines()[0]))
            first_error = first_error or error
            continue
        report = attempt.report
        if report.passed:
            report.refused = refused
            return attempt
        refused.append((strategy.name, report.first_line()))
        failed = failed or attempt
        if report.source_is_at_fault:
            break  # no other capture can fix the model itself
    if failed is None:
        raise first_error or ExportError("there is no way to export this model: the source offers none")
    if isinstance(first_error, LikelyExportError):
        failed.report.failures.insert(0, Failure("capture", str(first_error)))
        refused = [(name, why) for name, why in refused if why != str(first_error)]
    # The first strategy that made a graph is the one to explain: the others were only tried to fix it.
    failed.report.refused = [(name, why) for name, why in refused if name != failed.report.strategy]
    explain(source, failed.candidate, failed.model, failed.report, failed.runs)
    raise ParityError(f"{failed.report.first_line()}\n{failed.report.explain()}", failed.report)


def _tolerances(plan: Plan, options: ExportOptions) -> dict[str, GivenTolerance]:
    if options.rtol is None and options.atol is None:
        return dict(plan.tolerances)
    return dict.fromkeys(plan.source.output_names, FloatTolerance(options.rtol, options.atol))


def _base_contract(plan: Plan, options: ExportOptions, target: Path) -> Contract:
    """The plan's contract, or a plain model's, with what the user said of it."""
    contract = plan.contract or Contract(kind="model", name="", labels=plan.labels)
    return dataclasses.replace(
        contract,
        name=options.name or contract.name or target.stem,
        description=options.description or contract.description,
        license=options.license or contract.license,
    )


def _finished_contract(
    plan: Plan,
    contract: Contract,
    attempt: Attempt,
    goldens: Sequence[Case] | None,
    tolerances: Mapping[str, GivenTolerance],
    command: Sequence[str],
) -> Contract:
    report = attempt.report
    absolute = {name for name, given in tolerances.items() if given.rtol == 0 and given.atol}
    chosen = chosen_goldens(attempt.runs, goldens, absolute)
    scales: dict[str, float] = {}
    for golden in chosen:
        for name, array in golden.outputs.items():
            finite = np.abs(array[np.isfinite(array)]) if array.dtype.kind == "f" else np.zeros(0)
            scales[name] = max(scales.get(name, 0.0), float(finite.max(initial=0.0)))
    held = {}
    for name, output in report.outputs.items():
        given = tolerances.get(name)
        tolerance, _ = resolved_tolerance(given, np.dtype(output.dtype), scales.get(name, output.scale))
        held[name] = tolerance if given is not None else rounded_up(Tolerance(tolerance.rtol, max(tolerance.atol, output.rounding)))
    provenance: dict[str, Any] = plan.source.provenance()
    if command:
        provenance["command"] = " ".join(shortened(command))
    return dataclasses.replace(
        contract,
        goldens=tuple(chosen),
        tolerances={**held, **contract.tolerances},
        provenance={**provenance, **contract.provenance},
        parity=report.summary(),
    )


def _check_names(source: Source, tolerances: Mapping[str, GivenTolerance], decisions: Collection[str]) -> None:
    for what, names in (("tolerances", tolerances), ("decisions", decisions)):
        unknown = sorted(set(names) - set(source.output_names))
        if unknown:
            raise InputError(f"{what} names {unknown[0]!r}, which is no output; the outputs are {', '.join(source.output_names)}")


def given_cases(plan: Plan) -> list[Case]:
    """The example and the plan's samples."""
    example = plan.source.examples
    first = Case("the example", example, given_case("", example, plan.source.inputs).sizes)
    return [first, *(_case(plan, name, feeds) for name, feeds in plan.samples.items())]


def _case(plan: Plan, name: str, feeds: Feeds) -> Case:
    return given_case(name, checked_feeds(plan, feeds, name), plan.source.inputs)


def checked_feeds(plan: Plan, feeds: Feeds, what: str) -> Feeds:
    """The feeds in the source's order, if names, dtypes and shapes fit. Raises InputError."""
    inputs = plan.source.inputs
    unknown = sorted(set(feeds) - {s.name for s in inputs} - set(plan.optional))
    missing = [s.name for s in inputs if s.name not in feeds]
    if unknown or missing:
        names = ", ".join([*(s.name for s in inputs), *plan.optional])
        problem = f"has no input {missing[0]!r}" if missing else f"names {unknown[0]!r}, which is no input"
        raise InputError(f"{what} {problem}; the inputs are {names}")
    ordered = {}
    for spec in inputs:
        array = as_array(feeds[spec.name])
        fits = array.ndim == len(spec.shape) and all(isinstance(w, str) or w == n for w, n in zip(spec.shape, array.shape, strict=True))
        if dtype_name(array) != spec.dtype or not fits:
            raise InputError(f"{what}: input {spec.name!r} must be {spec.dtype} {spec.shape}, got {dtype_name(array)} {array.shape}")
        ordered[spec.name] = array
    for name, (dtype, axes) in plan.optional.items():
        if name in feeds:
            array = as_array(feeds[name])
            if (dtype_name(array), array.ndim) != (dtype, axes):
                raise InputError(f"{what}: input {name!r} must be {dtype} with {axes} axes, got {dtype_name(array)} {array.shape}")
            ordered[name] = array
    return ordered
