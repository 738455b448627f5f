"""A file in another operator set or for an older ONNX Runtime, compared with the original before it is written.

convert_file("model.onnx", "old.onnx", opset=17)
convert_file("model.onnx", "old.onnx", target="ort>=1.17")
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Unpack

import numpy as np
import onnx
from onnx import defs

from onnxferry.export.graphs.nodes import all_nodes
from onnxferry.export.graphs.reading import load_onnx
from onnxferry.export.graphs.writer import checked_target, write_artifact
from onnxferry.export.options import ExportOptions, Feeds, ModelKeywords
from onnxferry.export.parity.measures import magnitude
from onnxferry.export.parity.report import ParityReport
from onnxferry.export.parity.tolerances import default_tolerance
from onnxferry.export.pipeline.export import LOCK, export_plans
from onnxferry.export.pipeline.wrap import onnx_file
from onnxferry.export.source import Candidate, Plan, Strategy, numbered
from onnxferry.export.sources.foreign.file import ForeignFile
from onnxferry.export.sources.foreign.other_runtime import OtherRuntime
from onnxferry.export.sources.foreign.targets import LEAST_OPSET, Target, parsed_target
from onnxferry.export.sources.foreign.versions import changes, ml_changes, opset_of
from onnxferry.runtime.arguments import listed
from onnxferry.runtime.artifact.comparison import outside
from onnxferry.runtime.errors import ExportError, InputError, ParityError


def convert_file(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    target: str | None = None,
    example_inputs: Feeds | None = None,
    **options: Unpack[ModelKeywords],
) -> ParityReport:
    """Write the .onnx file ``path`` in another operator set, up or down, if the new file does the same.

    ``opset``: the operator set of ONNX. ``target``: ``"ort>=1.17"``, an ONNX Runtime that is to load it: operator sets and IR version are
    lowered to what that reads, and left as they are where it reads them. ``python``: an interpreter whose ONNX Runtime runs the new file
    too, on the example and the samples, before it is written. The other keywords are those of :func:`export_model` for .onnx files.

    Old and new file are compared on examples, at sizes that were never traced, and on special values. A contract is kept; its golden
    samples are made anew. Raises ExportError, with the operator's name, where an operator cannot be converted, ParityError (with
    ``.report``) where the new file does something else, InputError for an operator set that there is not.

        >>> convert_file("model.onnx", "old.onnx", target="ort>=1.17").passed
        True
    """
    with LOCK, contextlib.ExitStack() as stack:
        place, file = checked_target(out), onnx_file(path, out)
        limits = None if target is None else parsed_target(target)
        asked = ExportOptions(**options)
        source = ForeignFile(file, example_inputs, asked.dynamic_shapes)
        model = load_onnx(file)
        wanted = _opset(model, asked.opset, limits)
        source.build = lambda: _strategies(model, wanted, limits)
        contract = None if source.contract is None else source.contract.replace(goldens=(), tolerances={}, parity={})
        samples = [*source.stored_samples(), *asked.samples]
        feeds = [source.examples, *samples]
        finish = None if asked.python is None else _runs_elsewhere(asked.python, source, feeds, stack)
        plan = Plan(
            source,
            contract,
            samples=numbered(samples),
            goldens=asked.chosen_goldens(source.stored_samples() or None),
            optional=source.optional,
            finish=finish,
        )
        return export_plans([plan], place, asked)


def _opset(model: onnx.ModelProto, opset: int | None, target: Target | None) -> int:
    now = opset_of(model)
    if opset is None and target is None:
        raise InputError('say what to convert to: opset=17 (--opset 17), or target="ort>=1.17" (--target)')
    newest = defs.onnx_opset_version()
    if opset is not None and not LEAST_OPSET <= opset <= newest:
        raise InputError(f"operator sets {LEAST_OPSET} to {newest} are known here, got {opset}")
    if target is None:
        return opset or now
    if opset is not None and opset > target.opset:
        raise InputError(f"{target.runtime} reads operator sets up to {target.opset}, got {opset}")
    return opset or min(now, target.opset)


def _strategies(model: onnx.ModelProto, opset: int, target: Target | None) -> Sequence[Strategy]:
    now, before = opset_of(model), model.ir_version
    said = [f"operator set {now}, now {opset}"] if opset != now else []

    def builder(change: Callable[[], onnx.ModelProto], operators: Sequence[str]) -> Callable[[], Candidate]:
        def build() -> Candidate:
            made = change()
            fixes = list(said)
            if target is not None:
                fixes += ml_changes(made, target.ml_opset)
                if made.ir_version > target.ir_version:
                    made.ir_version = _checked_ir(made, target)
            else:
                made.ir_version = before
            if made.ir_version != before:
                fixes.append(f"IR version {before}, now {made.ir_version}")
            likely = None
            if operators:
                named = f"operator{'s' if len(operators) > 1 else ''} {listed(operators)}"
                likely = (
                    f"the {named} had to be written otherwise for operator set {opset}",
                    "export the model itself with that operator set",
                )
            return Candidate(made, foreign=True, fixes=tuple(fixes), likely=likely)

        return build

    return [Strategy(name, builder(change, operators)) for name, change, operators in changes(model, opset)]


def _checked_ir(model: onnx.ModelProto, target: Target) -> int:
    """The target's IR version, if the file holds nothing that came later."""
    given = {value.name for value in model.graph.input}
    types = {tensor.data_type for tensor in model.graph.initializer}
    for node in all_nodes(model):
        types |= {attribute.t.data_type for attribute in node.attribute if attribute.HasField("t")}
        types |= {attribute.i for attribute in node.attribute if attribute.name in ("to", "output_dtype")}
    kinds = onnx.TensorProto
    came_later = {
        4: any(tensor.name not in given for tensor in model.graph.initializer) and "weights that are no inputs",
        8: bool(model.functions) and "functions",
        9: types & {kinds.FLOAT8E4M3FN, kinds.FLOAT8E5M2, kinds.FLOAT8E4M3FNUZ, kinds.FLOAT8E5M2FNUZ} and "8-bit floating-point numbers",
        10: types & {kinds.INT4, kinds.UINT4} and "4-bit integers",
        11: types & {kinds.FLOAT4E2M1} and "4-bit floating-point numbers",
    }
    for version, what in came_later.items():
        if what and version > target.ir_version:
            raise ExportError(
                f"the file holds {what}, which came with IR version {version}, and {target.runtime} reads up to {target.ir_version}"
            )
    return target.ir_version


def _runs_elsewhere(
    python: str | os.PathLike[str], source: ForeignFile, feeds: Sequence[Feeds], stack: contextlib.ExitStack
) -> Callable[[onnx.ModelProto], None]:
    """A check of the verified graph: that the ONNX Runtime of ``python`` gives the same."""

    def check(model: onnx.ModelProto) -> None:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="onnxferry-"))).resolve()
        write_artifact(model, None, folder / "model.onnx")
        with OtherRuntime(python, folder / "model.onnx") as other:
            for number, each in enumerate(feeds):
                wanted, got = source.run(each), other.run(each)
                for name, array in wanted.items():
                    problem = _difference(array, got[name])
                    if problem:
                        what = "the example" if not number else f"sample {number - 1}"
                        raise ParityError(f"ONNX Runtime {other.version} answers {what} otherwise in the output {name!r}: {problem}", None)

    return check


def _difference(wanted: np.ndarray, got: np.ndarray) -> str:
    if wanted.shape != got.shape or wanted.dtype != got.dtype:
        return f"{got.dtype} {got.shape}, expected {wanted.dtype} {wanted.shape}"
    if wanted.dtype.kind not in "fiub":
        return "" if np.array_equal(wanted, got) else "other values"
    tolerance, _ = default_tolerance(wanted.dtype, magnitude(wanted))
    wrong = outside(got, wanted, tolerance)
    return f"{int(wrong.sum())} of {wrong.size} numbers differ" if wrong.any() else ""
