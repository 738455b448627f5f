"""Sorting."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxferry.export.sources.jax.convert import Equation, lowers
from onnxferry.export.sources.jax.graph import Graph, Value
from onnxferry.export.sources.jax.lowerings.elementwise import widened


@lowers("sort")
def _sort(graph: Graph, equation: Equation, *operands: Value) -> Sequence[Value]:
    """By the first ``num_keys`` operands, the others along with them. TopK puts the first of equals first."""
    axis, keys = int(equation.params["dimension"]), int(equation.params["num_keys"])
    values = [graph.full(value) for value in operands]
    for key in range(keys - 1, -1, -1):  # stable, from the last key to the first
        wide = widened(values[key].dtype)
        shape = values[key].shape
        inputs = [graph.cast(values[key], wide), graph.size(shape[axis])]
        ordered, places = graph.ops("TopK", inputs, [(wide, shape), (np.int64, shape)], axis=axis, largest=0, sorted=1)
        values = [
            graph.cast(ordered, value.dtype)
            if number == key
            else graph.op("GatherElements", [value, places], value.dtype, shape, axis=axis)
            for number, value in enumerate(values)
        ]
    return values


@lowers("top_k")
def _top_k(graph: Graph, equation: Equation, x: Value) -> Sequence[Value]:
    axis = int(equation.params.get("axis", equation.params.get("operand_axis", -1))) % len(x.shape)
    wide = widened(x.dtype)
    inputs = [graph.cast(graph.full(x), wide), graph.size(equation.shape[axis])]
    made, places = graph.ops("TopK", inputs, [(wide, equation.shape), (np.int64, equation.shape)], axis=axis, largest=1, sorted=1)
    return [graph.cast(made, x.dtype), graph.cast(places, equation.outputs[1][0])]
