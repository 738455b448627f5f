"""Pooling: sums and extremes over windows that slide along some axes."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np

from onnxferry.export.sources.jax.convert import Equation, lowers
from onnxferry.export.sources.jax.graph import Graph, Size, Value, known
from onnxferry.export.sources.jax.lowerings.elementwise import widened
from onnxferry.export.sources.jax.lowerings.layout import padded, spread
from onnxferry.runtime.errors import ExportError

_STEPS = {"max": "Max", "min": "Min", "add": "Add", "mul": "Mul", "or": "Max", "and": "Min"}

MOST_SLICES = 256
"""Of a window that no pooling operator takes."""


@lowers("reduce_window_max", "reduce_window_min", "reduce_window_sum")
def _pool(graph: Graph, equation: Equation, x: Value) -> Value:
    kind = {"max": "Max", "min": "Min", "sum": "Add"}[equation.primitive.rpartition("_")[2]]
    return _windows(graph, equation, x, kind, _neutral(kind, widened(x.dtype)))


@lowers("reduce_window")
def _reduce_window(graph: Graph, equation: Equation, *values: Value) -> Value:
    """Of an operator that is named in a jaxpr of its own, with its own first value."""
    if len(values) != 2:
        raise ExportError("reduce_window of several operands has no counterpart in the graph")
    x, start = values
    steps = [str(each.primitive.name) for each in equation.params["jaxpr"].eqns]
    if len(steps) != 1 or steps[0] not in _STEPS or start.array is None:
        raise ExportError(f"reduce_window with {' and '.join(steps) or 'nothing'}: the graph has max, min, add and mul")
    kind = _STEPS[steps[0]]
    wide = widened(x.dtype)
    neutral = _neutral(kind, wide)
    pooled = _windows(graph, equation, x, kind, neutral)
    first = start.array.reshape(()).astype(wide)
    if np.array_equal(first, np.asarray(neutral, wide)):
        return pooled
    made = graph.op(kind, [graph.cast(pooled, wide), graph.constant(first)], wide, equation.shape)
    return graph.cast(made, equation.dtype)


def _neutral(kind: str, dtype: np.dtype[Any]) -> Any:
    if kind in ("Add", "Mul"):
        return int(kind == "Mul")
    if dtype.kind == "f":
        return -np.inf if kind == "Max" else np.inf
    return np.iinfo(dtype).min if kind == "Max" else np.iinfo(dtype).max


def _windows(graph: Graph, equation: Equation, x: Value, kind: str, neutral: Any) -> Value:
    p = equation.params
    sizes, strides = [int(s) for s in p["window_dimensions"]], [int(s) for s in p["window_strides"]]
    dilations, bases = [int(s) for s in p["window_dilation"]], [int(s) for s in p["base_dilation"]]
    low, high = [pair[0] for pair in p["padding"]], [pair[1] for pair in p["padding"]]
    wide = widened(x.dtype)
    full = graph.cast(graph.full(x), wide)
    filling = graph.constant(neutral, wide)
    for axis, times in enumerate(bases):
        if times > 1:
            if neutral != 0:
                raise ExportError("a window over a spread input (base_dilation) is carried across for sums only")
            full = spread(graph, full, axis, times - 1)
    moving = [axis for axis, size in enumerate(sizes) if size > 1 or strides[axis] > 1]
    if wide.kind == "f" and kind != "Mul" and 1 <= len(moving) <= 3 and len(sizes) <= 5 and (kind != "Add" or max(dilations) == 1):
        padded_input, pads = _pads(graph, full, moving, sizes, low, high, filling, max_pool=kind != "Add")
        made = _pooled(graph, padded_input, equation, kind, moving, sizes, strides, dilations, pads)
        return graph.cast(made, equation.dtype)
    if np.prod(sizes) > MOST_SLICES:
        raise ExportError(
            f"a window of {int(np.prod(sizes))} entries over {len(moving)} axes has no counterpart in ONNX Runtime's operators"
        )
    wider = tuple(size + a + b for size, a, b in zip(full.shape, low, high, strict=True))
    full = padded(graph, full, low, high, filling, wider)
    return graph.cast(_slices(graph, full, equation, kind, sizes, strides, dilations), equation.dtype)


def _pads(
    graph: Graph, x: Value, moving: list[int], sizes: list[int], low: list[Size], high: list[Size], filling: Value, *, max_pool: bool
) -> tuple[Value, list[int]]:
    """What the pooling operator pads itself; the rest is padded before it: it takes numbers below the window's size only."""
    inside = all(
        0 <= int(each) < sizes[axis] if known(each) is not None and axis in moving else known(each) == 0
        for axis in range(len(sizes))
        for each in (low[axis], high[axis])
    )
    if inside:
        return x, [int(low[axis]) for axis in moving] + [int(high[axis]) for axis in moving]
    wider = tuple(size + a + b for size, a, b in zip(x.shape, low, high, strict=True))
    return padded(graph, x, low, high, filling, wider), [0] * (2 * len(moving))


def _pooled(
    graph: Graph,
    x: Value,
    equation: Equation,
    kind: str,
    moving: list[int],
    sizes: list[int],
    strides: list[int],
    dilations: list[int],
    pads: list[int],
) -> Value:
    """By a pooling operator, which takes (batch, channels, and up to three axes that move)."""
    still = [axis for axis in range(len(sizes)) if axis not in moving]
    order = [*still, *moving]
    turned = graph.transpose(x, order)
    shape = tuple(equation.shape[axis] for axis in order)
    lead = len(still)
    flat_in, flat_out = turned, shape
    if lead != 2:  # axes of size 1 in front, or several in one
        front: tuple[Size, ...] = (1, 1) if lead == 0 else (1, shape[0]) if lead == 1 else (shape[0] * shape[1], shape[2])
        flat_in = graph.reshape(turned, (*front, *turned.shape[lead:]))
        flat_out = (*front, *shape[lead:])
    windows = {"kernel_shape": [sizes[a] for a in moving], "strides": [strides[a] for a in moving], "pads": pads}
    if kind == "Add":
        made = graph.op("AveragePool", [flat_in], x.dtype, flat_out, count_include_pad=1, **windows)
        made = graph.op("Mul", [made, graph.constant(int(np.prod(sizes)), x.dtype)], x.dtype, flat_out)
    else:
        source = flat_in if kind == "Max" else graph.op("Neg", [flat_in], x.dtype, flat_in.shape)
        made = graph.op("MaxPool", [source], x.dtype, flat_out, dilations=[dilations[a] for a in moving], **windows)
        made = made if kind == "Max" else graph.op("Neg", [made], x.dtype, flat_out)
    back = [order.index(axis) for axis in range(len(order))]
    return graph.transpose(graph.reshape(made, shape), back)


def _slices(graph: Graph, x: Value, equation: Equation, kind: str, sizes: list[int], strides: list[int], dilations: list[int]) -> Value:
    """The window's entries one by one, each a slice of the whole."""
    parts = []
    for place in np.ndindex(*sizes):
        part = x
        for axis, (offset, stride, dilation) in enumerate(zip(place, strides, dilations, strict=True)):
            if sizes[axis] == 1 and stride == 1:
                continue
            start, count = offset * dilation, equation.shape[axis]
            part = graph.slice(part, axis, graph.ints(start), graph.size((count - 1) * stride + start + 1), count, stride)
        parts.append(part)
    return reduce(lambda a, b: graph.op(kind, [a, b], x.dtype, equation.shape), parts)
