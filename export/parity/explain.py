"""The likely cause of a difference, and what to try: each cause is one rule; the most specific come first."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnxferry.export.graphs.nodes import all_nodes
from onnxferry.export.parity.locate import Difference, differs, first_difference
from onnxferry.export.parity.reference import SourceRun
from onnxferry.export.parity.report import Failure, ParityReport
from onnxferry.export.source import Candidate, Source, Trace, dynamic_axes


@dataclass(frozen=True, eq=False)
class Context:
    """Everything known about a failure."""

    failure: Failure
    run: SourceRun | None  # the case that failed
    model: onnx.ModelProto
    candidate: Candidate
    traced: Mapping[str, int]  # sizes of the dynamic axes at the capture
    difference: Difference | None
    capture_differs: bool  # torch's own capture gives something else than the model already
    fused: bool  # no value differs while ONNX Runtime is kept from fusing nodes

    @property
    def operator(self) -> str:
        return self.difference.operator if self.difference else ""

    @property
    def changed(self) -> list[str]:
        """Dynamic axes whose size in the failing case is not the traced one."""
        return [a for a, n in self.traced.items() if self.run is not None and self.run.case.sizes.get(a, n) != n]


def explain(source: Source, candidate: Candidate, model: onnx.ModelProto, report: ParityReport, runs: Sequence[SourceRun]) -> None:
    """Fill ``report.located``: the first node that differs, the likely cause in words, and the line to try."""
    failure = next((f for f in report.failures if f.case), report.failures[0] if report.failures else None)
    if failure is None:
        return
    run = next((r for r in runs if r.case.name == failure.case and r.outputs is not None), None)
    difference, capture_differs, fused = None, False, False
    trace = _trace(candidate, run)
    if run is not None and run.outputs is not None and trace is not None:
        capture_differs = any(name in trace.outputs and differs(want, trace.outputs[name]) for name, want in run.outputs.items())
        if not capture_differs:
            difference = first_difference(model, run.case.feeds, trace)
            fused = difference is None and failure.kind in ("difference", "not-finite", "decision")
    context = Context(failure, run, model, candidate, dynamic_axes(source.inputs), difference, capture_differs, fused)
    if difference is not None:
        report.located["node"] = difference.words()
    elif failure.kind in ("frozen-axis", "runtime"):
        named = re.search(r"node (\S+) \((\w+)\)", failure.message)
        if named:
            line = trace.lines.get(named.group(1).removeprefix("node_"), "") if trace is not None else ""
            report.located["node"] = f"{named.group(2)} node {named.group(1)!r}" + (f", from {line}" if line else "")
    for rule in RULES:
        found = rule(context)
        if found is not None:
            report.located["cause"], report.located["try"] = found
            return


def _trace(candidate: Candidate, run: SourceRun | None) -> Trace | None:
    if candidate.trace is None or run is None:
        return None
    try:
        return candidate.trace(run.case.feeds)
    except Exception:  # noqa: BLE001 - a capture with a fixed size cannot run at another; there is no trace then
        return None


Cause = tuple[str, str]  # likely cause, line to try


def _bounded_size(c: Context) -> Cause | None:
    for axis, (low, high) in c.candidate.ranges.items():
        size = c.run.case.sizes.get(axis) if c.run is not None else None
        if size is not None and (size < low or (high is not None and size > high)):
            span = f"{low} to {high}" if high is not None else f"{low} and more"
            return (
                f"a Python `if` on the size of {axis!r}: the capture holds one side of it, for sizes {span}, and {size} takes the other",
                f"compute both sides and choose with torch.where, or leave {axis!r} fixed",
            )
    return None


def _random(c: Context) -> Cause | None:
    if c.failure.kind == "random-source":
        return (
            "the model draws random numbers or keeps a state of its own between calls",
            "model.eval(), and noise or state as an input of forward()",
        )
    if c.failure.kind == "random":
        return "the graph draws random numbers", "take the noise as an input of forward()"
    return None


def _no_kernel(c: Context) -> Cause | None:
    found = re.search(r"it has none for (b?float\d+)", c.failure.message)
    if c.failure.kind not in ("runtime", "frozen-axis") or found is None:
        return None
    return f"ONNX Runtime has every operator in float32 on the CPU, and fewer in {found.group(1)}", "model.float()"


def _nothing_compared(c: Context) -> Cause | None:
    if c.failure.kind == "all-nan":
        return "the weights or the inputs make the model itself give NaN", "look at model(x) in the framework first"
    if c.failure.kind == "axis-untested":
        return (
            "the model itself works at one size only, or all probes were refused by it",
            "leave that axis out of dynamic_shapes, or give samples of other sizes",
        )
    if c.failure.kind == "branch-untested":
        return "no input that was tried takes that side", "give samples that do (samples=, or --samples)"
    return None


def _baked_size(c: Context) -> Cause | None:
    if c.failure.kind not in ("frozen-axis", "difference", "runtime") or not c.changed:
        return None
    for axis in c.changed:
        for node, number in _constants_equal_to(c.model, c.traced[axis]):
            return (
                f"a constant {number} baked into the {node.op_type} node {node.name!r} equals the traced size of {axis!r}",
                "take that size from x.shape inside forward(), not from a number or from int(…) kept outside",
            )
    if c.failure.kind == "frozen-axis":
        return (
            f"something was computed once for the traced size of {' and '.join(c.changed)}",
            "take sizes from x.shape inside forward(), and write math.trunc(n * 0.7) for int(n * 0.7), which fixes the number",
        )
    return None


def _float16_overflow(c: Context) -> Cause | None:
    halves = any(t.data_type == onnx.TensorProto.FLOAT16 for t in c.model.graph.initializer) or any(
        v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16 for v in (*c.model.graph.input, *c.model.graph.output)
    )
    if halves and c.failure.kind == "not-finite":
        return "float16 overflow: a value beyond 65504 becomes infinite", "export model.float(), or scale the values down"
    if halves and c.failure.kind == "difference":
        return (
            "float16 rounds after every operator, and the file rounds in other places",
            "export model.float(), or give atol and rtol for float16",
        )
    return None


def _antialias(c: Context) -> Cause | None:
    if c.operator != "Resize":
        return None
    attributes = next(
        ({a.name: onnx.helper.get_attribute_value(a) for a in n.attribute} for n in all_nodes(c.model) if n.op_type == "Resize"), {}
    )
    what = (
        "antialiasing"
        if attributes.get("antialias")
        else f"mode {attributes.get('mode', b'nearest').decode()!r} and how corners are aligned"
    )
    return (
        f"resizing: {what} differs between the model's framework and ONNX Runtime",
        "resize outside the model, or with mode='bilinear', antialias=False",
    )


def _recurrent(c: Context) -> Cause | None:
    for node in all_nodes(c.model):
        if node.op_type == "GRU" and not any(a.name == "linear_before_reset" and a.i == 1 for a in node.attribute):
            return (
                "the converter wrote a GRU without linear_before_reset, which is another equation (onnxscript before 0.7.1)",
                "pip install -U onnxscript",
            )
    return None


def _training_mode(c: Context) -> Cause | None:
    if c.operator in ("BatchNormalization", "Dropout"):
        return f"{c.operator} in training mode", "model.eval() before the export, and no training=True in functional calls"
    return None


def _whole_numbers(c: Context) -> Cause | None:
    if c.operator == "Cast":
        return (
            "a cast of values that the target dtype cannot hold: every library does something else then",
            "clamp the values before the cast",
        )
    if c.operator in ("Div", "Mod"):
        return (
            f"{c.operator} of negative whole numbers, or by zero: frameworks round in different directions",
            "torch.div(…, rounding_mode='floor')",
        )
    if c.operator in ("TopK", "ArgMax", "ArgMin"):
        return "equal values, among which every library picks another", "compare values and not indices, or break ties in the model"
    return None


def _another_model(c: Context) -> Cause | None:
    if c.candidate.foreign and c.candidate.trace is not None and c.failure.kind in ("difference", "decision"):
        return (
            "the file was exported with other weights, or the model has changed since",
            "compare with the version of the model that the file was exported from, or export again",
        )
    return None


def _fused(c: Context) -> Cause | None:
    if c.fused:
        return (
            "no single node differs: ONNX Runtime's fusing of several into one does",
            "report this model to onnxruntime, or give the tolerance you can live with",
        )
    return None


def _capture(c: Context) -> Cause | None:
    if c.capture_differs:
        return (
            "torch.export's capture already computes something else than the model: "
            "Python values, a custom autograd.Function, or a tensor changed in place",
            "torch.export.export(model, …).module()(…) beside model(…) shows it without ONNX",
        )
    return None


def _known_limit(c: Context) -> Cause | None:
    return c.candidate.likely if c.failure.kind in ("difference", "decision", "runtime") else None


def _converter(c: Context) -> Cause | None:
    if c.candidate.converter and c.failure.kind in ("difference", "decision", "not-finite", "shape"):
        return (
            f"{c.candidate.converter} makes another computation of this model than the framework's own, in every precision",
            f"a newer {c.candidate.converter}, another estimator of the kind, or, for a difference you can live with, rtol and atol",
        )
    return None


def _small(c: Context) -> Cause | None:
    if c.failure.kind in ("difference", "decision"):
        where = f"from the {c.operator} node on, " if c.operator else ""
        return f"{where}the arithmetic runs in another order or precision", "if the difference is one you can live with, give rtol and atol"
    return None


RULES: Sequence[Callable[[Context], Cause | None]] = (
    _random,
    _no_kernel,
    _nothing_compared,
    _another_model,
    _bounded_size,
    _training_mode,
    _antialias,
    _recurrent,
    _whole_numbers,
    _float16_overflow,
    _baked_size,
    _capture,
    _fused,
    _known_limit,
    _converter,
    _small,
)


# Operators whose inputs are shapes, and where a constant is most likely a size that was baked in.
_TAKES_SIZES = ("Expand", "Reshape", "Slice", "Tile", "ConstantOfShape", "Range", "Concat", "Pad", "Resize", "Split", "Gather")


def _constants_equal_to(model: onnx.ModelProto, size: int) -> Iterator[tuple[onnx.NodeProto, int]]:
    """Nodes that take a whole-number constant of this value where a size is expected."""
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT64}
    for node in all_nodes(model):
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            array = onnx.numpy_helper.to_array(node.attribute[0].t)
            if array.dtype == np.int64:
                constants[node.output[0]] = array
    for node in all_nodes(model):
        for name in node.input if node.op_type in _TAKES_SIZES else ():
            if name in constants and constants[name].size <= 16 and (constants[name] == size).any():
                yield node, size
