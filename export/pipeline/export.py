"""Carries a model across and proves it: capture, clean, judge, write. Whatever is not proved is not written.

    report = export_model(model, example_inputs, "out.onnx", dynamic_shapes={"x": {0: "batch"}})

Each way to capture the model is tried in turn until the judge passes one; the file holds the graph, the contract,
golden samples from the source, and the judge's summary.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from onnxferry.export.graphs.writer import checked_target, write_artifact
from onnxferry.export.parity.attempt import Attempt, try_strategy
from onnxferry.export.parity.explain import explain
from onnxferry.export.parity.probes import Case, given_case
from onnxferry.export.parity.report import Failure, ParityReport
from onnxferry.export.parity.tolerances import FloatTolerance, GivenTolerance, resolved_tolerance
from onnxferry.export.source import Feeds, FinalExportError, LikelyExportError, Source, as_array, dtype_name
from onnxferry.runtime.artifact.contract import Contract
from onnxferry.runtime.errors import ExportError, InputError, ParityError

if TYPE_CHECKING:
    import keras
    import sklearn.base
    import torch
from onnxferry.export.graphs import nodes
from onnxferry.export.pipeline.goldens import _goldens, _none_carried, _replay, _rounded_up
from onnxferry.export.pipeline.provenance import shortened
from onnxferry.export.sources.choose import model_source, torch_source


def export_model(
    model: torch.nn.Module | torch.export.ExportedProgram | keras.Model | sklearn.base.BaseEstimator,
    example_inputs: Any,
    path: str | os.PathLike[str],
    *,
    dynamic_shapes: Any = None,
    rtol: float | None = None,
    atol: float | None = None,
    output_names: Sequence[str] | None = None,
    samples: Sequence[Feeds] = (),
    golden: bool | Sequence[Feeds] = True,
    opset: int = nodes.OPSET,
    name: str | None = None,
    description: str = "",
    license: str = "",
    command: Sequence[str] = (),
) -> ParityReport:
    """Carry any PyTorch, Keras or fitted scikit-learn model across to an ONNX file that is proved to do the same, or write nothing.

    ``example_inputs``: a tensor, a tuple of positional inputs, or a dict by ``forward()``'s names; nested tuples and
    dicts of tensors are fine, and whatever is no tensor is fixed in the graph. Inputs of the file keep forward()'s
    names and order, outputs their flattened order (``output_names`` renames them).
    ``dynamic_shapes``: ``{"x": {0: "batch"}}``; an axis that is not named keeps its size.
    Of Keras: see :class:`~onnxferry.export.source.keras.KerasSource`, whose inputs and open axes are the model's own.
    Of scikit-learn: ``example_inputs`` is an array (rows, features), a DataFrame or a dict of columns, best the test set's, of which all
    rows are compared; the rows are dynamic; inputs and outputs are those of
    :class:`~onnxferry.export.sources.sklearn.estimator.SklearnSource`.
    ``rtol``, ``atol``: |file - model| <= atol + rtol * |model| for every float element; what is None, by dtype. Whole numbers and
    flags must be equal.
    ``samples``: more inputs to compare on, as dicts of arrays by input name.
    ``golden``: True carries the example and the model's answer in the file, where they are small; False (for private
    data) nothing; or inputs to carry instead.

    Raises ParityError (with ``.report``) where the file would not do what the model does, ExportError where there is no
    way to ONNX, InputError for arguments that make no sense.
    """
    source, more, labels = model_source(model, example_inputs, dynamic_shapes=dynamic_shapes, output_names=output_names)
    tolerances = _tolerances(source, rtol, atol)
    contract = Contract(kind="model", name=name or Path(path).stem, description=description, license=license, labels=labels)
    return export_source(
        source,
        path,
        contract=contract,
        samples=[*more, *samples],
        tolerances=tolerances,
        golden_inputs=None if golden is True else () if golden is False else golden,
        opset=opset,
        command=command,
    )


def export_module(
    module: torch.nn.Module,
    example_inputs: Any,
    path: str | os.PathLike[str],
    *,
    contract: Contract,
    dynamic_shapes: Any = None,
    output_names: Sequence[str] | None = None,
    probes: Sequence[Feeds] = (),
    golden_inputs: Sequence[Feeds] | None = None,
    tolerances: Mapping[str, GivenTolerance] | None = None,
    decisions: Collection[str] = (),
    opset: int = nodes.OPSET,
    command: Sequence[str] = (),
    finish: Callable[[onnx.ModelProto], None] | None = None,
) -> ParityReport:
    """As :func:`export_model`, for code that knows more of the model: the contract to write, real inputs to compare on
    (``probes``), inputs to carry as golden samples (None: the example, ``()``: none), tolerances by output name, and
    outputs whose argmax along the last axis must not change (``decisions``). The contract's own provenance and
    tolerances win over what is filled in here. ``finish`` may add to the graph what the source has no output for (class
    names as strings), after it was judged; what it adds is the caller's to prove.
    """
    source = torch_source(module, example_inputs, dynamic_shapes=dynamic_shapes, output_names=output_names)
    return export_source(
        source,
        path,
        contract=contract,
        samples=probes,
        golden_inputs=golden_inputs,
        tolerances=tolerances,
        decisions=decisions,
        opset=opset,
        command=command,
        finish=finish,
    )


def wrap_onnx(
    model: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    examples: Feeds | None = None,
    axes: Mapping[str, Mapping[int, str]] | None = None,
    samples: Sequence[Feeds] = (),
    rtol: float | None = None,
    atol: float | None = None,
    golden: bool | Sequence[Feeds] = True,
    name: str | None = None,
    description: str = "",
    license: str = "",
    command: Sequence[str] = (),
) -> ParityReport:
    """Check an existing .onnx file and wrap it into an artifact: cleaned of leaks and stale shapes, with a contract and golden samples.

    ``examples``: an array for every input; what is not given is drawn as the file declares it. ``axes`` names dynamic
    axes that the file leaves without a name. The contract of a file that has one is kept, and its goldens are made anew.
    """
    from onnxferry.export.sources.onnx_file import OnnxSource

    source = OnnxSource(model, examples or {}, axes)
    contract = source.contract or Contract(kind="model", name=name or Path(path).stem)
    return export_source(
        source,
        path,
        contract=dataclasses.replace(
            contract,
            name=name or contract.name,
            description=description or contract.description,
            license=license or contract.license,
            goldens=(),
            tolerances={},
            parity={},
        ),
        samples=samples,
        tolerances=_tolerances(source, rtol, atol),
        golden_inputs=None if golden is True else () if golden is False else golden,
        command=command,
    )


def _tolerances(source: Source, rtol: float | None, atol: float | None) -> dict[str, GivenTolerance] | None:
    """The user's tolerances, for every output of floats; None for the defaults of each dtype."""
    if rtol is None and atol is None:
        return None
    return dict.fromkeys(source.output_names, FloatTolerance(rtol, atol))


def export_source(
    source: Source,
    path: str | os.PathLike[str],
    *,
    contract: Contract,
    samples: Sequence[Feeds] = (),
    golden_inputs: Sequence[Feeds] | None = None,
    tolerances: Mapping[str, GivenTolerance] | None = None,
    decisions: Collection[str] = (),
    opset: int = nodes.OPSET,
    command: Sequence[str] = (),
    finish: Callable[[onnx.ModelProto], None] | None = None,
) -> ParityReport:
    """Export from any framework's :class:`Source`; see :func:`export_module`."""
    target = checked_target(path)
    _check_names(source, tolerances or {}, decisions)
    given = [Case("the example", source.examples, given_case("", source.examples, source.inputs).sizes)]
    given += [given_case(f"sample {i}", checked_feeds(source, feeds, f"sample {i}"), source.inputs) for i, feeds in enumerate(samples)]
    goldens = [
        given_case(f"golden sample {i}", checked_feeds(source, feeds, f"golden sample {i}"), source.inputs)
        for i, feeds in enumerate(golden_inputs or ())
    ]
    given += goldens
    refused: list[tuple[str, str]] = []
    failed: Attempt | None = None
    first_error: ExportError | None = None
    for strategy in source.strategies(opset):
        try:
            attempt = try_strategy(source, strategy, given, tolerances, decisions)
        except FinalExportError:
            raise
        except ExportError as error:
            refused.append((strategy.name, str(error).splitlines()[0]))
            first_error = first_error or error
            continue
        report = attempt.report
        if report.passed:
            report.refused = refused
            finished = _finished_contract(source, contract, attempt, goldens if golden_inputs is not None else None, tolerances, command)
            if golden_inputs is None and not finished.goldens:
                report.notes = [*report.notes, _none_carried(source)]
            if finish is not None:
                finish(attempt.model)
            write_artifact(attempt.model, finished, target, verify=_replay)
            return report
        refused.append((strategy.name, report.first_line()))
        failed = failed or attempt
        if report.source_is_at_fault:
            break  # no other capture can mend the model itself
    if failed is None:
        raise first_error or ExportError("there is no way to export this model: the source offers none")
    if isinstance(first_error, LikelyExportError):
        failed.report.failures.insert(0, Failure("capture", str(first_error)))
        refused = [(name, why) for name, why in refused if why != str(first_error)]
    # The first strategy that gave a graph is the one to explain: the others were only tried to mend it.
    failed.report.refused = [(name, why) for name, why in refused if name != failed.report.strategy]
    explain(source, failed.candidate, failed.model, failed.report, failed.runs)
    raise ParityError(f"{failed.report.first_line()}\n{failed.report.explain()}", failed.report)


def _finished_contract(
    source: Source,
    contract: Contract,
    attempt: Attempt,
    goldens: Sequence[Case] | None,
    tolerances: Mapping[str, GivenTolerance] | None,
    command: Sequence[str],
) -> Contract:
    report = attempt.report
    chosen = _goldens(attempt.runs, goldens)
    scales: dict[str, float] = {}
    for golden in chosen:
        for name, array in golden.outputs.items():
            finite = np.abs(array[np.isfinite(array)]) if array.dtype.kind == "f" else np.zeros(0)
            scales[name] = max(scales.get(name, 0.0), float(finite.max(initial=0.0)))
    held = {}
    for name, output in report.outputs.items():
        given = (tolerances or {}).get(name)
        tolerance, _ = resolved_tolerance(given, np.dtype(output.dtype), scales.get(name, output.scale))
        held[name] = tolerance if given is not None else _rounded_up(tolerance)
    provenance: dict[str, Any] = source.provenance()
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


def checked_feeds(source: Source, feeds: Feeds, what: str) -> Feeds:
    """The feeds in the source's order, if names, dtypes and shapes fit."""
    unknown, missing = sorted(set(feeds) - {s.name for s in source.inputs}), [s.name for s in source.inputs if s.name not in feeds]
    if unknown or missing:
        names = ", ".join(s.name for s in source.inputs)
        problem = f"has no input {missing[0]!r}" if missing else f"names {unknown[0]!r}, which is no input"
        raise InputError(f"{what} {problem}; the inputs are {names}")
    ordered = {}
    for spec in source.inputs:
        array = as_array(feeds[spec.name])
        fits = array.ndim == len(spec.shape) and all(isinstance(w, str) or w == n for w, n in zip(spec.shape, array.shape, strict=True))
        if dtype_name(array) != spec.dtype or not fits:
            raise InputError(f"{what}: input {spec.name!r} must be {spec.dtype} {spec.shape}, got {dtype_name(array)} {array.shape}")
        ordered[spec.name] = array
    return ordered
