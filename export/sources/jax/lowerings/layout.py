"""Shapes: broadcasts, reshapes, slices, padding, concatenation, ranges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxferry.export.sources.jax.convert import Equation, lowers
from onnxferry.export.sources.jax.graph import Graph, Shape, Size, Value, known, same

FIRST = np.iinfo(np.int64).min


@lowers("broadcast_in_dim")
def _broadcast(graph: Graph, equation: Equation, x: Value, *sizes: Value) -> Value:
    """Nothing is repeated here: axes that are new or grow stay at size 1 until an operator needs them."""
    places = equation.params["broadcast_dimensions"]
    stored: list[Size] = [1] * len(equation.shape)
    for axis, place in enumerate(places):
        stored[place] = x.stored[axis] if x.stored else 1
    return graph.stored_as(x, equation.shape, tuple(stored))


@lowers("reshape")
def _reshape(graph: Graph, equation: Equation, x: Value, *sizes: Value) -> Value:
    return _reshaped(graph, equation, x)


def _reshaped(graph: Graph, equation: Equation, x: Value) -> Value:
    if equation.params.get("dimensions") is not None:
        x = graph.transpose(x, equation.params["dimensions"])
    kept = [size for size in x.shape if known(size) != 1]
    wanted = [size for size in equation.shape if known(size) != 1]
    if not x.is_full and len(kept) == len(wanted) and all(map(same, kept, wanted)):  # only axes of size 1 come or go
        left = iter([own for own, size in zip(x.stored, x.shape, strict=True) if known(size) != 1])
        stored = tuple(1 if known(size) == 1 else next(left) for size in equation.shape)
        return graph.stored_as(x, equation.shape, stored)
    return graph.reshape(x, equation.shape)


@lowers("squeeze", "expand_dims")
def _squeeze(graph: Graph, equation: Equation, x: Value) -> Value:
    return _reshaped(graph, Equation("reshape", {}, equation.outputs), x)


@lowers("transpose")
def _transpose(graph: Graph, equation: Equation, x: Value) -> Value:
    return graph.transpose(x, equation.params["permutation"])


@lowers("rev")
def _rev(graph: Graph, equation: Equation, x: Value) -> Value:
    axes = [axis for axis in equation.params["dimensions"] if known(x.stored[axis]) != 1]
    if not axes:
        return x
    many = len(axes)
    inputs = [graph.ints(*[-1] * many), graph.ints(*[FIRST] * many), graph.ints(*axes), graph.ints(*[-1] * many)]
    made = graph.op("Slice", [x, *inputs], x.dtype, x.stored)
    return Value(x.dtype, x.shape, x.stored, made.name)


@lowers("slice")
def _slice(graph: Graph, equation: Equation, x: Value) -> Value:
    starts, limits = equation.params["start_indices"], equation.params["limit_indices"]
    steps = equation.params["strides"] or (1,) * len(starts)
    whole = [
        known(start) == 0 and same(limit, size) and int(step) == 1
        for start, limit, size, step in zip(starts, limits, x.shape, steps, strict=True)
    ]
    axes = [axis for axis, all_of_it in enumerate(whole) if not all_of_it and known(x.stored[axis]) != 1]
    stored = list(x.stored)
    for axis, all_of_it in enumerate(whole):
        if not all_of_it and (known(x.shape[axis]) == 1 or axis in axes):
            stored[axis] = equation.shape[axis]
    if not axes:
        return Value(x.dtype, equation.shape, tuple(stored), x.name, x.array)
    inputs = [
        graph.sizes([starts[a] for a in axes]),
        graph.sizes([limits[a] for a in axes]),
        graph.ints(*axes),
        graph.ints(*[int(steps[a]) for a in axes]),
    ]
    made = graph.op("Slice", [x, *inputs], x.dtype, tuple(stored))
    return Value(x.dtype, equation.shape, tuple(stored), made.name)


@lowers("split")
def _split(graph: Graph, equation: Equation, x: Value) -> Sequence[Value]:
    full, axis = graph.full(x), int(equation.params["axis"])
    return graph.ops("Split", [full, graph.sizes(equation.params["sizes"])], equation.outputs, axis=axis)


@lowers("concatenate")
def _concatenate(graph: Graph, equation: Equation, *values: Value) -> Value:
    axis = int(equation.params["dimension"])
    return graph.op("Concat", [graph.full(value) for value in values], equation.dtype, equation.shape, axis=axis)


@lowers("tile")
def _tile(graph: Graph, equation: Equation, x: Value) -> Value:
    return graph.op("Tile", [graph.full(x), graph.sizes(equation.params["reps"])], equation.dtype, equation.shape)


@lowers("iota")
def _iota(graph: Graph, equation: Equation, *sizes: Value) -> Value:
    axis = int(equation.params["dimension"])
    stored = tuple(size if place == axis else 1 for place, size in enumerate(equation.shape))
    size = known(equation.shape[axis])
    if size is not None:
        array = np.arange(size).astype(equation.dtype).reshape([int(each) for each in stored])
        return Value(equation.dtype, equation.shape, stored, array=array)
    numbers = graph.op(
        "Range",
        [graph.constant(np.int64(0)), graph.scalar(equation.shape[axis]), graph.constant(np.int64(1))],
        np.int64,
        (equation.shape[axis],),
    )
    return graph.stored_as(graph.cast(numbers, equation.dtype), equation.shape, stored)


@lowers("pad")
def _pad(graph: Graph, equation: Equation, x: Value, filling: Value) -> Value:
    config = equation.params["padding_config"]
    x = graph.full(x)
    for axis, (_, _, between) in enumerate(config):
        if int(between):
            x = _spread(graph, x, axis, int(between), filling)
    return padded(graph, x, [low for low, _, _ in config], [high for _, high, _ in config], filling, equation.shape)


def padded(graph: Graph, x: Value, low: Sequence[Size], high: Sequence[Size], filling: Value, shape: Shape) -> Value:
    """A full value with more at its ends, or less where a size is below 0."""
    if all(known(each) == 0 for each in (*low, *high)):
        return x
    scalar = graph.reshape(filling, ())
    if x.dtype.kind == "b":
        wide = padded(graph, graph.cast(x, np.int32), low, high, graph.cast(scalar, np.int32), shape)
        return graph.cast(wide, bool)
    return graph.op("Pad", [x, graph.sizes([*low, *high]), scalar], x.dtype, shape)


def _spread(graph: Graph, x: Value, axis: int, between: int, filling: Value) -> Value:
    """``between`` more entries after each entry of the axis but the last."""
    size = x.shape[axis]
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    apart = graph.reshape(x, (*before, size, 1, *after))
    ends = [0] * len(apart.shape)
    wider = (*before, size, 1 + between, *after)
    apart = padded(graph, apart, ends, [between if place == axis + 1 else 0 for place in range(len(ends))], filling, wider)
    joined = graph.reshape(apart, (*before, size * (1 + between), *after))
    total = size * (1 + between) - between
    return graph.slice(joined, axis, graph.ints(0), graph.size(total), total)


def spread(graph: Graph, x: Value, axis: int, between: int) -> Value:
    """Zeros between the entries of an axis."""
    return _spread(graph, x, axis, between, graph.constant(0, x.dtype))


def clamped_starts(graph: Graph, starts: Sequence[Value], shape: Shape, sizes: Sequence[Any]) -> list[Value]:
    """Where windows begin, as int64 vectors of one element: moved so that they end inside, as XLA moves them."""
    found = []
    for start, size, wanted in zip(starts, shape, sizes, strict=True):
        if same(size, wanted):
            found.append(graph.ints(0))
            continue
        place = graph.reshape(graph.cast(start, np.int64), (1,))
        last, number = known(size - wanted), None if place.array is None else int(place.array[0])
        if last is not None and number is not None:
            found.append(graph.ints(min(max(number, 0), last)))
        else:
            limited = graph.op("Min", [place, graph.size(size - wanted)], np.int64, (1,))
            found.append(graph.op("Max", [limited, graph.ints(0)], np.int64, (1,)))
    return found


@lowers("dynamic_slice")
def _dynamic_slice(graph: Graph, equation: Equation, x: Value, *rest: Value) -> Value:
    sizes = equation.params["slice_sizes"]
    starts = rest[: len(x.shape)]
    found = graph.full(x)
    for axis, start in enumerate(clamped_starts(graph, starts, x.shape, sizes)):
        if not same(x.shape[axis], sizes[axis]):
            end = graph.op("Add", [start, graph.size(sizes[axis])], np.int64, (1,))
            found = graph.slice(found, axis, start, end, sizes[axis])
    return found


@lowers("dynamic_update_slice")
def _dynamic_update_slice(graph: Graph, equation: Equation, x: Value, update: Value, *starts: Value) -> Value:
    begins = clamped_starts(graph, starts, x.shape, update.shape)
    return _updated(graph, graph.full(x), graph.full(update), begins, 0)


def _updated(graph: Graph, x: Value, update: Value, begins: Sequence[Value], axis: int) -> Value:
    while axis < len(x.shape) and same(x.shape[axis], update.shape[axis]):
        axis += 1
    if axis == len(x.shape):
        return update
    begin, size, width = begins[axis], x.shape[axis], update.shape[axis]
    end = graph.op("Add", [begin, graph.size(width)], np.int64, (1,))
    inner = graph.slice(x, axis, begin, end, width)
    inner = _updated(graph, inner, update, begins, axis + 1)
    # How much lies on either side depends on the place; only the sum is known.
    before = graph.slice(x, axis, graph.ints(0), begin, size - width)
    after = graph.slice(x, axis, end, graph.size(size), size - width)
    return graph.op("Concat", [before, inner, after], x.dtype, x.shape, axis=axis)


@lowers("stack")
def _stack(graph: Graph, equation: Equation, *values: Value) -> Value:
    axis, shape = int(equation.params["axis"]), list(equation.shape)
    shape[axis] = 1
    parts = [graph.reshape(value, tuple(shape)) for value in values]
    return graph.op("Concat", parts, equation.dtype, equation.shape, axis=axis)


@lowers("unstack")
def _unstack(graph: Graph, equation: Equation, x: Value) -> Sequence[Value]:
    axis, full = int(equation.params["axis"]), graph.full(x)
    return [graph.take(full, graph.constant(np.int64(place)), axis) for place in range(len(equation.outputs))]
