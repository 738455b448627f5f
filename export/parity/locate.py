"""Finds the first node whose value differs between source and file, and the line of the user's code that it came from.

The framework's own capture is run step by step, and its values are compared with the file's under the same names. Where
there are many, only some are fetched at a time, by bisection.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnxferry.export.graphs.nodes import copied
from onnxferry.export.graphs.writer import opened
from onnxferry.export.parity.measures import magnitude
from onnxferry.export.parity.tolerances import default_tolerance
from onnxferry.export.source import Feeds, Trace
from onnxferry.runtime.artifact.comparison import absolute_difference, outside
from onnxferry.runtime.errors import OnnxFerryError

VALUES_PER_RUN = 64
"""Intermediate values fetched in one run: all values of a large model would not fit in memory."""


@dataclass(frozen=True)
class Difference:
    """The first value that differs, in the order of computation."""

    value: str  # its name
    node: str  # the node that makes it, "" if no node is to blame
    operator: str
    line: str  # of the user's code, where it is known
    apart: float | None  # largest difference; None for another shape
    shapes: tuple[tuple[int, ...], tuple[int, ...]]  # in the source, in the file

    def words(self) -> str:
        size = f"{self.apart:.3g} apart" if self.apart is not None else f"shape {self.shapes[1]} in the file, {self.shapes[0]} in the model"
        where = f"{self.operator} node {self.node!r}" if self.node else "the value"
        came = f", from {self.line}" if self.line else ""
        return f"{where} ({size}){came}"


def first_difference(model: onnx.ModelProto, feeds: Feeds, trace: Trace) -> Difference | None:
    """The first value of the graph that differs from the framework's; None where no common value does.

    Fetching intermediate values keeps ONNX Runtime from fusing their nodes: if nothing differs then, the cause is the fusing.
    """
    made_by = {name: node for node in model.graph.node for name in node.output if name}
    # A graph's output has the output's name, not that of the node in the capture.
    trace = dataclasses.replace(trace, values={**trace.values, **trace.outputs})
    order = [name for name in made_by if name in trace.values]
    if not order:
        return None
    low, high = 0, len(order)  # the first difference lies in order[low:high], if there is one
    wrong: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    while high - low > VALUES_PER_RUN:
        # Differences usually persist: check some values, evenly spaced, and go on before the first that differs.
        places = sorted({low + (high - low) * i // VALUES_PER_RUN for i in range(1, VALUES_PER_RUN + 1)} - {high})
        wrong = _differing(model, feeds, trace, [order[i] for i in places])
        first = next((i for i in places if order[i] in wrong), None)
        if first is None:
            low = places[-1] + 1
        else:
            low, high = max([low, *(i + 1 for i in places if i < first)]), first + 1
    wrong = _differing(model, feeds, trace, order[low:high])
    name = next((name for name in order[low:high] if name in wrong), None)
    if name is None:
        return None
    want, got = wrong[name]
    node = made_by[name]
    apart = float(absolute_difference(got, want, equal_nan=True).max(initial=0.0)) if want.shape == got.shape else None
    line = next((trace.lines[n] for n in reversed(order[: order.index(name) + 1]) if n in trace.lines), "")
    return Difference(name, node.name or name, node.op_type, trace.lines.get(name, line), apart, (want.shape, got.shape))


def _differing(model: onnx.ModelProto, feeds: Feeds, trace: Trace, names: Sequence[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The values, out of ``names``, that differ: in the source, in the file."""
    try:
        with opened(with_outputs(model, names)) as engine:
            actual = engine.run(feeds, list(names))
    except OnnxFerryError:
        return {}
    return {name: (trace.values[name], actual[name]) for name in names if differs(trace.values[name], actual[name])}


def differs(want: np.ndarray, got: np.ndarray) -> bool:
    """True beyond the default tolerance of the dtype. Another dtype alone does not count: exporters widen flags and indices."""
    if want.shape != got.shape:
        return True
    kind = want.dtype if want.dtype.kind == "f" else np.dtype(np.float32) if got.dtype.kind == "f" else want.dtype
    tolerance, _ = default_tolerance(kind, magnitude(want))
    return bool(outside(got, want, tolerance, equal_nan=True).any())


def with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """The model with these values as its only outputs."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    declared: Mapping[str, onnx.ValueInfoProto] = {value.name: copied(value) for value in model.graph.output}
    del changed.graph.output[:]
    # Without a type: ONNX Runtime infers it.
    changed.graph.output.extend(declared.get(name) or onnx.ValueInfoProto(name=name) for name in names)
    return changed
