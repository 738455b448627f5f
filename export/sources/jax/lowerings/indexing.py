"""Gather and scatter, as XLA defines them (https://openxla.org/xla/operation_semantics#gather).

Both become GatherND and ScatterND: the indexed axes go to the front, and a window of several entries along one of them becomes an axis
of its own, with its offsets added to the index.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxferry.export.sources.jax.convert import Equation, lowers
from onnxferry.export.sources.jax.graph import Graph, Shape, Size, Value, known, same
from onnxferry.export.sources.jax.lowerings.elementwise import Arithmetic, choose
from onnxferry.export.sources.jax.lowerings.layout import padded
from onnxferry.runtime.errors import ExportError


def _columns(graph: Graph, indices: Value, mapped: Sequence[int], batching: Sequence[tuple[int, int]]) -> dict[int, Value]:
    """The index of each axis that has one, int64, in the shape of the indices without their last axis."""
    numbers = graph.cast(graph.full(indices), np.int64)
    shape = numbers.shape[:-1]
    found = {}
    for column, axis in enumerate(mapped):
        if len(mapped) == 1:
            found[axis] = graph.reshape(numbers, shape)
        else:
            found[axis] = graph.take(numbers, graph.constant(np.int64(column)), len(shape))
    for axis, place in batching:  # of a vmap: entry i goes with entry i
        size = shape[place]
        count = graph.op("Range", [graph.constant(np.int64(0)), graph.scalar(size), graph.constant(np.int64(1))], np.int64, (size,))
        stored = tuple(size if each == place else 1 for each in range(len(shape)))
        found[axis] = graph.stored_as(count, shape, stored)
    return found


def _mode(equation: Equation) -> str:
    """clip, fill or promise."""
    text = str(equation.params["mode"]).rpartition(".")[2].lower()
    return "clip" if text.startswith("clip") else "fill" if text.startswith("fill") else "promise"


def _limits(
    graph: Graph, shape: Shape, columns: dict[int, Value], widths: dict[int, Size], mode: str
) -> tuple[dict[int, Value], Value | None]:
    """Indices inside the operand, and for the mode ``fill`` where they were."""
    inside: Value | None = None
    found = {}
    for axis, place in columns.items():
        last = shape[axis] - widths[axis]
        limit = known(last)
        if place.array is not None and limit is not None and (place.array >= 0).all() and (place.array <= limit).all():
            found[axis] = place
            continue
        a = Arithmetic(graph, place.shape, np.int64)
        end = graph.constant(np.int64(limit)) if limit is not None else graph.scalar(last)
        if mode == "fill":
            here = a.flag("And", a.flag("GreaterOrEqual", place, 0), a.flag("LessOrEqual", place, end))
            inside = here if inside is None else a.flag("And", inside, here)
        # Promised indices are limited too: ONNX counts those below 0 from the end, and refuses others.
        found[axis] = a.op("Max", a.op("Min", place, end), 0)
    return found, inside


def _stacked(graph: Graph, columns: dict[int, Value], widths: dict[int, Size], shape: Shape) -> tuple[Value, list[int]]:
    """The index of every entry, (…, windows of more than one entry, indexed axes), and the axes that have such a window."""
    wide = [axis for axis in columns if known(widths[axis]) != 1]
    full_shape = (*shape, *(widths[axis] for axis in wide))
    parts = []
    for axis, place in columns.items():
        spread = graph.stored_as(place, (*shape, *(1 for _ in wide)), (*place.stored, *(1 for _ in wide)))
        if axis in wide:
            width = widths[axis]
            steps = graph.op("Range", [graph.constant(np.int64(0)), graph.scalar(width), graph.constant(np.int64(1))], np.int64, (width,))
            stored = (*(1 for _ in shape), *(width if each == axis else 1 for each in wide))
            spread = Arithmetic(graph, full_shape, np.int64).op("Add", spread, graph.stored_as(steps, full_shape, stored))
        column = graph.full(Value(spread.dtype, full_shape, spread.stored, spread.name, spread.array))
        parts.append(graph.reshape(column, (*full_shape, 1)))
    if len(parts) == 1:
        return parts[0], wide
    return graph.op("Concat", parts, np.int64, (*full_shape, len(parts)), axis=len(full_shape)), wide


@lowers("gather")
def _gather(graph: Graph, equation: Equation, operand: Value, indices: Value) -> Value:
    d = equation.params["dimension_numbers"]
    sizes, mode = equation.params["slice_sizes"], _mode(equation)
    operand = graph.full(operand)
    shape = indices.shape[:-1]
    batching = list(zip(d.operand_batching_dims, d.start_indices_batching_dims, strict=True))
    columns = _columns(graph, indices, d.start_index_map, batching)
    operand = _cut(graph, operand, sizes, set(columns))
    widths = {axis: sizes[axis] for axis in columns}
    columns, inside = _limits(graph, operand.shape, columns, widths, mode)
    rest = [axis for axis in range(len(operand.shape)) if axis not in columns]
    gone = {*d.collapsed_slice_dims, *d.operand_batching_dims}
    if len(columns) == 1 and known(sizes[next(iter(columns))]) == 1:
        ((axis, place),) = columns.items()
        place = graph.full(place)
        made = graph.take(operand, place, axis)
        here = [("kept", each) for each in range(axis)] + [("index", each) for each in range(len(shape))]
        here += [("kept", each) for each in range(axis + 1, len(operand.shape))]
    else:
        stacked, wide = _stacked(graph, columns, widths, shape)
        turned = graph.transpose(operand, [*columns, *rest])
        made_shape = (*stacked.shape[:-1], *(operand.shape[axis] for axis in rest))
        made = graph.op("GatherND", [turned, stacked], operand.dtype, made_shape)
        here = [("index", each) for each in range(len(shape))] + [("kept", axis) for axis in (*wide, *rest)]
    # Axes of size 1 that were indexed but not collapsed come back by the final reshape.
    offsets = [axis for axis in range(len(operand.shape)) if axis not in gone]
    kept = iter(axis for axis in offsets if ("kept", axis) in here)
    batch = iter(range(len(shape)))
    wanted = []
    for place_out in range(len(equation.shape)):
        if place_out not in d.offset_dims:
            wanted.append(("index", next(batch)))
        elif ("kept", offsets[list(d.offset_dims).index(place_out)]) in here:
            wanted.append(("kept", next(kept)))
    made = graph.transpose(made, [here.index(each) for each in wanted])
    made = graph.reshape(made, equation.shape)
    if inside is None:
        return made
    stored = [1] * len(equation.shape)
    places = [place_out for place_out in range(len(equation.shape)) if place_out not in d.offset_dims]
    for place_out, size in zip(places, inside.stored or [1] * len(places), strict=True):
        stored[place_out] = size
    flags = graph.stored_as(inside, equation.shape, tuple(stored))
    return choose(graph, flags, made, graph.constant(_filling(equation)), equation.shape)


def _cut(graph: Graph, operand: Value, sizes: Sequence[Size], indexed: set[int]) -> Value:
    """Axes without an index begin at 0."""
    for axis, size in enumerate(sizes):
        if axis not in indexed and not same(operand.shape[axis], size):
            operand = graph.slice(operand, axis, graph.ints(0), graph.size(size), size)
    return operand


def _filling(equation: Equation) -> np.ndarray:
    given = equation.params.get("fill_value")
    if given is not None:
        return np.asarray(given).astype(equation.dtype)
    if equation.dtype.kind == "f":
        return np.asarray(np.nan, equation.dtype)
    if equation.dtype.kind == "b":
        return np.asarray(True)
    limits = np.iinfo(equation.dtype)
    return np.asarray(limits.min if equation.dtype.kind == "i" else limits.max, equation.dtype)


_SCATTERS = {"scatter": "none", "scatter-add": "add", "scatter_add": "add", "scatter-mul": "mul", "scatter_mul": "mul"}
_SCATTERS |= {"scatter-min": "min", "scatter_min": "min", "scatter-max": "max", "scatter_max": "max"}


@lowers(*_SCATTERS)
def _scatter(graph: Graph, equation: Equation, operand: Value, indices: Value, updates: Value) -> Value:
    d = equation.params["dimension_numbers"]
    mode = _mode(equation)
    operand, updates = graph.full(operand), graph.full(updates)
    shape = indices.shape[:-1]
    batching = list(zip(d.operand_batching_dims, d.scatter_indices_batching_dims, strict=True))
    columns = _columns(graph, indices, d.scatter_dims_to_operand_dims, batching)
    if not columns:
        raise ExportError("a scatter without an index has no counterpart in the graph")
    gone = {*d.inserted_window_dims, *d.operand_batching_dims}
    windows = [axis for axis in range(len(operand.shape)) if axis not in gone]
    widths: dict[int, Any] = dict.fromkeys(range(len(operand.shape)), 1)
    widths.update({axis: updates.shape[place] for axis, place in zip(windows, d.update_window_dims, strict=True)})
    columns, inside = _limits(graph, operand.shape, columns, {axis: widths[axis] for axis in columns}, mode)
    rest = [axis for axis in range(len(operand.shape)) if axis not in columns]
    for axis in rest:
        if not same(widths[axis], operand.shape[axis]):  # from 0 on, as an index like the others
            columns[axis] = graph.full(
                Value(np.dtype(np.int64), shape, tuple(1 for _ in shape), array=np.zeros([1] * len(shape), np.int64))
            )
    rest = [axis for axis in rest if axis not in columns]
    first = next(iter(columns))
    turned = graph.transpose(operand, [*columns, *rest])
    tall = turned.shape
    if inside is not None:  # what lies outside goes to one more entry, which is cut off again
        tall = (tall[0] + 1, *tall[1:])
        turned = padded(graph, turned, [0] * len(tall), [1] + [0] * (len(tall) - 1), graph.constant(0, turned.dtype), tall)
        columns[first] = choose(graph, inside, columns[first], graph.cast(graph.scalar(operand.shape[first]), np.int64), shape)
    stacked, wide = _stacked(graph, columns, {axis: widths[axis] for axis in columns}, shape)
    if inside is not None and first in wide:
        raise ExportError("a scatter of windows that may lie outside: use mode='clip', or lax.dynamic_update_slice")
    # Updates in the same order: indices, windows along indexed axes, whole axes.
    scatter_places = [place for place in range(len(updates.shape)) if place not in d.update_window_dims]
    window_place = dict(zip(windows, d.update_window_dims, strict=True))
    ones = [window_place[axis] for axis in windows if axis in columns and axis not in wide]
    order = [*scatter_places, *(window_place[axis] for axis in wide), *(window_place[axis] for axis in rest), *ones]
    arranged = graph.transpose(updates, order)
    arranged = graph.reshape(arranged, (*stacked.shape[:-1], *(operand.shape[axis] for axis in rest)))
    reduction = _SCATTERS[equation.primitive]
    flags = operand.dtype.kind == "b"
    number = np.dtype(np.int32) if flags else operand.dtype
    inputs = [graph.cast(turned, number), stacked, graph.cast(arranged, number)]
    made = graph.op("ScatterND", inputs, number, tall, **({} if reduction == "none" else {"reduction": reduction}))
    if inside is not None:
        made = graph.slice(made, 0, graph.ints(0), graph.size(operand.shape[first]), operand.shape[first])
    axes = [*columns, *rest]
    return graph.cast(graph.transpose(made, [axes.index(axis) for axis in range(len(axes))]), equation.dtype)
