"""A file from elsewhere becomes an artifact: contract, golden samples, named axes, an image in front and classes behind when asked.

wrap_file("theirs.onnx", "ours.onnx", labels=["cat", "dog"], image="224x224x3")
wrap_file("theirs.onnx", "ours.onnx", python="old/bin/python")      # the reference: another ONNX Runtime
wrap_file("theirs.onnx", "ours.onnx", against="mypkg.models:make")  # the reference: the model it was made from
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

from onnxferry.export.graphs.writer import checked_target
from onnxferry.export.options import ExportOptions, Feeds, ModelKeywords
from onnxferry.export.parity.report import ParityReport
from onnxferry.export.pipeline.export import LOCK, export_plans
from onnxferry.export.pipeline.verify import plan_for_file
from onnxferry.export.source import Plan, numbered
from onnxferry.export.sources.choose import choose
from onnxferry.export.sources.foreign.file import ForeignFile, Referred
from onnxferry.export.sources.foreign.metadata import FileMetadata, read_metadata
from onnxferry.export.sources.foreign.other_runtime import OtherRuntime
from onnxferry.export.tasks.plans import task_plans
from onnxferry.runtime.artifact.contract import Contract
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.kinds import MODEL


def wrap_file(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    example_inputs: Feeds | None = None,
    against: Any = None,
    preprocess: bool = False,
    **options: Unpack[ModelKeywords],
) -> ParityReport:
    """Write the .onnx file ``path``, of whatever tool, as the artifact ``out``, which is compared with its reference first.

    The reference is the file itself in this ONNX Runtime; or with ``python`` the file in the ONNX Runtime of that interpreter's
    environment; or with ``against`` the model that it was made from, as :func:`export_model` takes one (``weights``: its state dict).
    ``example_inputs``: a dict of arrays by input name; drawn if None. Axes without a name get one (``dynamic_shapes`` gives others).
    What Ultralytics' metadata says (task, class names, image size, license) goes into the contract; with ``preprocess`` its
    preprocessing goes in front, and a classifier's classes behind. ``labels``, ``image`` and the other keywords are those of
    :func:`export_model`.

    Raises ArtifactError or UntrustedModelError for a file that is not opened, ParityError where file and reference differ, InputError
    for options that do not fit. Nothing is written then.

        >>> wrap_file("theirs.onnx", "ours.onnx", labels=["no", "yes"]).passed
        True
    """
    with LOCK, contextlib.ExitStack() as stack:
        target, file = checked_target(out), onnx_file(path, out)
        asked = ExportOptions(**options)
        if asked.python is not None and against is not None:
            raise InputError("give one reference: python, another ONNX Runtime, or against, the model that the file was made from")
        if asked.weights is not None and against is None:
            raise InputError("weights belong to the model that against names")
        with Engine(file, device="cpu") as engine:
            found, known = read_metadata(engine.metadata) if engine.contract is None else FileMetadata(), engine.contract
        asked = _with_preprocessing(asked, found, file) if preprocess else asked
        other = None if asked.python is None else stack.enter_context(OtherRuntime(asked.python, file))

        def make(examples: Any, plain: ExportOptions) -> Sequence[Plan]:
            labels = found.labels if found.task == "classify" and asked.image is not None else ()
            samples, goldens = numbered(plain.samples), plain.chosen_goldens(None)
            if against is not None:
                feeds = [each for each in (examples, *plain.samples) if each]
                plan = plan_for_file(choose(against, weights=asked.weights), file, feeds, plain.dynamic_shapes)
                return [dataclasses.replace(plan, source=Referred(plan.source, file), labels=labels, samples=samples, goldens=goldens)]
            source = ForeignFile(file, examples, plain.dynamic_shapes, other=other)
            contract = None if known is None else known.replace(goldens=(), tolerances={}, parity={})
            samples = numbered([*source.stored_samples(), *plain.samples])
            return [Plan(source, contract, labels=labels, samples=samples, goldens=goldens, optional=source.optional)]

        task = asked.labels is not None or asked.image is not None or asked.activation != "auto" or asked.scores is not None
        plans = task_plans(make, "", example_inputs, asked) if task else make(example_inputs, asked)
        report = export_plans([_described(plan, found) for plan in plans], target, asked)
        report.notes = [*report.notes, *found.problems]
        return report


def onnx_file(path: str | os.PathLike[str], out: str | os.PathLike[str]) -> Path:
    file = Path(path)
    if file.suffix.lower() != ".onnx":
        raise InputError(f"{file.name} is no .onnx file; models of other kinds are exported: onnxferry export {file.name}")
    if file.exists() and Path(out).exists() and Path(out).samefile(file):
        raise InputError(f"{out} would be written over its own source: give another name")
    return file


def _with_preprocessing(options: ExportOptions, found: FileMetadata, file: Path) -> ExportOptions:
    image = found.image()
    if image is None:
        raise InputError(f"{file.name} does not say how its images are prepared (no imgsz in its metadata): say it with image= (--image …)")
    if options.image is not None:
        raise InputError("give preprocess, what the file's metadata says, or image, not both")
    return dataclasses.replace(options, image=image)


def _described(plan: Plan, found: FileMetadata) -> Plan:
    """With what the file's metadata says in the contract."""
    contract = plan.contract or Contract(kind=MODEL.name, name="", labels=plan.labels)
    known: dict[str, Any] = {}
    if found.task:
        known["task"] = found.task
    if found.stride is not None:
        known["stride"] = found.stride
    options = dict(contract.options)
    if known:
        options["ultralytics"] = known
    if found.image_size is not None:
        options.setdefault("image_size", list(found.image_size))
    return dataclasses.replace(
        plan,
        contract=contract.replace(
            labels=contract.labels or found.labels,
            options=options,
            description=contract.description or found.text.get("description", ""),
            author=contract.author or found.text.get("author", ""),
            license=contract.license or found.text.get("license", ""),
            version=contract.version or found.text.get("version", ""),
        ),
    )
