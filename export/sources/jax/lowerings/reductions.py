"""Sums, products, extremes and their places along axes, and running ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxferry.export.sources.jax.convert import Equation, lowers
from onnxferry.export.sources.jax.graph import Graph, Value, same
from onnxferry.export.sources.jax.lowerings.elementwise import Arithmetic, widened

_REDUCTIONS = {
    "reduce_sum": "ReduceSum",
    "reduce_prod": "ReduceProd",
    "reduce_max": "ReduceMax",
    "reduce_min": "ReduceMin",
    "reduce_and": "ReduceMin",
    "reduce_or": "ReduceMax",
}


@lowers(*_REDUCTIONS)
def _reduce(graph: Graph, equation: Equation, x: Value) -> Value:
    axes = [int(axis) for axis in equation.params["axes"]]
    kind = _REDUCTIONS[equation.primitive]
    if not axes:
        return x
    # The largest of equal entries is any of them: only sums and products need them repeated.
    if kind in ("ReduceSum", "ReduceProd") and not all(same(x.stored[axis], x.shape[axis]) for axis in axes):
        x = graph.full(x)
    flags = x.dtype.kind == "b"
    wide = np.dtype(np.int32) if flags else widened(x.dtype)
    stored = tuple(size for axis, size in enumerate(x.stored) if axis not in axes)
    made = graph.op(kind, [graph.cast(x, wide), graph.ints(*axes)], wide, stored, keepdims=0)
    return graph.cast(Value(wide, equation.shape, stored, made.name), equation.dtype)


@lowers("argmax", "argmin")
def _place(graph: Graph, equation: Equation, x: Value) -> Value:
    (axis,) = equation.params["axes"]
    full = graph.full(x)
    kind = "ArgMax" if equation.primitive == "argmax" else "ArgMin"
    made = graph.op(kind, [graph.cast(full, widened(x.dtype))], np.int64, equation.shape, axis=int(axis), keepdims=0)
    return graph.cast(made, equation.dtype)


@lowers("cumsum")
def _cumsum(graph: Graph, equation: Equation, x: Value) -> Value:
    wide = widened(x.dtype)
    axis = graph.constant(np.int64(equation.params["axis"]))
    made = graph.op("CumSum", [graph.cast(graph.full(x), wide), axis], wide, equation.shape, reverse=int(equation.params["reverse"]))
    return graph.cast(made, equation.dtype)


@lowers("cumprod", "cummax", "cummin", "cumlogsumexp")
def _running(graph: Graph, equation: Equation, x: Value) -> Value:
    """Step by step: ONNX has a running sum only."""
    axis, backwards = int(equation.params["axis"]), int(equation.params["reverse"])
    wide = widened(x.dtype)
    full = graph.cast(graph.full(x), wide)
    rest = (*full.shape[:axis], *full.shape[axis + 1 :])
    inner = graph.inner()
    state, item = inner.parameter(wide, rest), inner.parameter(wide, rest)
    a = Arithmetic(inner, rest, wide)
    after = _step(a, equation.primitive, state, item)
    body = inner.closed("step", [state, item], [after, after])
    if wide.kind == "f":
        start: Any = {"cumprod": 1, "cummax": -np.inf, "cummin": np.inf, "cumlogsumexp": -np.inf}[equation.primitive]
    else:
        limits = np.iinfo(wide)
        start = {"cumprod": 1, "cummax": limits.min, "cummin": limits.max}[equation.primitive]
    first = graph.full(Value(wide, rest, tuple(1 for _ in rest), array=np.full([1] * len(rest), start, wide)))
    _, made = graph.ops(
        "Scan",
        [first, full],
        [(wide, rest), (wide, equation.shape)],
        body=body,
        num_scan_inputs=1,
        scan_input_axes=[axis],
        scan_output_axes=[axis],
        scan_input_directions=[backwards],
        scan_output_directions=[backwards],
    )
    return graph.cast(made, equation.dtype)


def _step(a: Arithmetic, primitive: str, state: Value, item: Value) -> Value:
    if primitive != "cumlogsumexp":
        return a.op({"cumprod": "Mul", "cummax": "Max", "cummin": "Min"}[primitive], state, item)
    largest, least = a.op("Max", state, item), a.op("Min", state, item)
    nothing = a.flag("Equal", a.op("Abs", largest), np.inf)  # infinity less infinity is no number
    gap = a.where(nothing, 0, a.op("Sub", least, largest))
    return a.where(nothing, largest, a.op("Add", largest, a.op("Log", a.op("Add", a.op("Exp", gap), 1))))
