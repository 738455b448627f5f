"""Products of matrices, and convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxferry.export.sources.jax.convert import Equation, lowers
from onnxferry.export.sources.jax.graph import Graph, Size, Value, known, product
from onnxferry.export.sources.jax.lowerings.elementwise import widened
from onnxferry.export.sources.jax.lowerings.layout import padded, spread
from onnxferry.runtime.errors import ExportError


@lowers("dot_general")
def _dot_general(graph: Graph, equation: Equation, lhs: Value, rhs: Value) -> Value:
    (lhs_sum, rhs_sum), (lhs_batch, rhs_batch) = equation.params["dimension_numbers"]
    wide = widened(np.result_type(lhs.dtype, rhs.dtype) if lhs.dtype.kind != "b" else np.dtype(np.int32))
    wide = np.dtype(np.int64) if wide.kind == "b" else wide
    left, right = graph.cast(graph.full(lhs), wide), graph.cast(graph.full(rhs), wide)
    lhs_free = [axis for axis in range(len(lhs.shape)) if axis not in (*lhs_sum, *lhs_batch)]
    rhs_free = [axis for axis in range(len(rhs.shape)) if axis not in (*rhs_sum, *rhs_batch)]
    left = graph.transpose(left, [*lhs_batch, *lhs_free, *lhs_sum])
    right = graph.transpose(right, [*rhs_batch, *rhs_sum, *rhs_free])
    many, inner = len(lhs_batch), product([lhs.shape[axis] for axis in lhs_sum])
    batch = tuple(lhs.shape[axis] for axis in lhs_batch)
    # MatMul takes any number of rows where there is no batch, one axis of rows and one of columns otherwise.
    if not (len(lhs_sum) == 1 and lhs_free and (len(lhs_free) == 1 or not many)):
        rows = product([lhs.shape[axis] for axis in lhs_free])
        left = graph.reshape(left, (*batch, rows, inner))
    if not (len(rhs_sum) == 1 and len(rhs_free) == 1):
        right = graph.reshape(right, (*batch, inner, product([rhs.shape[axis] for axis in rhs_free])))
    shape = (*left.shape[:-1], right.shape[-1])
    made = graph.op("MatMul", [left, right], wide, shape)
    return graph.cast(graph.reshape(made, equation.shape), equation.dtype)


@lowers("conv_general_dilated")
def _conv(graph: Graph, equation: Equation, lhs: Value, rhs: Value) -> Value:
    p = equation.params
    if p["batch_group_count"] != 1:
        raise ExportError("a convolution with batch_group_count has no counterpart in ONNX: it belongs to a gradient")
    order = p["dimension_numbers"]
    spatial = len(order.lhs_spec) - 2
    if not 1 <= spatial <= 3:
        raise ExportError(f"a convolution over {spatial} axes: ONNX Runtime has 1, 2 and 3")
    dtype = equation.dtype if equation.dtype.kind == "f" else np.dtype(np.float64)  # whole numbers stay exact up to 2**53
    x = graph.cast(graph.transpose(graph.full(lhs), order.lhs_spec), dtype)
    kernel = graph.cast(graph.transpose(graph.full(rhs), order.rhs_spec), dtype)
    groups = int(p["feature_group_count"])
    strides, dilations = [int(s) for s in p["window_strides"]], [int(d) for d in p["rhs_dilation"]]
    spreads = [int(d) for d in p["lhs_dilation"]]
    low, high = [pair[0] for pair in p["padding"]], [pair[1] for pair in p["padding"]]
    shape = tuple(equation.shape[axis] for axis in order.out_spec)
    extent = [(size - 1) * d + 1 for size, d in zip(kernel.shape[2:], dilations, strict=True)]
    if max(spreads) > 1 and set(strides) == {1} and _transposable(low, high, extent):
        made = _transposed(graph, x, kernel, groups, spreads, dilations, low, high, extent, shape)
    else:
        for axis, times in enumerate(spreads):
            if times > 1:
                x = spread(graph, x, axis + 2, times - 1)
        pads = [known(each) for each in (*low, *high)]
        if any(each is None or each < 0 for each in pads):
            wider = (*x.shape[:2], *(size + a + b for size, a, b in zip(x.shape[2:], low, high, strict=True)))
            x = padded(graph, x, [0, 0, *low], [0, 0, *high], graph.constant(0, dtype), wider)
            pads = [0] * (2 * spatial)
        made = graph.op("Conv", [x, kernel], dtype, shape, strides=strides, dilations=dilations, group=groups, pads=pads)
    if equation.dtype.kind != "f":
        made = graph.op("Round", [made], dtype, shape)
    back = [order.out_spec.index(axis) for axis in range(len(order.out_spec))]
    return graph.cast(graph.transpose(made, back), equation.dtype)


def _transposable(low: Sequence[Size], high: Sequence[Size], extent: Sequence[Size]) -> bool:
    return all(
        known(each) is not None and known(size) is not None and int(each) <= int(size) - 1
        for pads in (low, high)
        for each, size in zip(pads, extent, strict=True)
    )


def _transposed(
    graph: Graph,
    x: Value,
    kernel: Value,
    groups: int,
    strides: list[int],
    dilations: list[int],
    low: Sequence[Size],
    high: Sequence[Size],
    extent: Sequence[Size],
    shape: tuple[Size, ...],
) -> Value:
    """A convolution of an input with zeros between its entries is a transposed one with the kernel turned round."""
    out, per_group, *sizes = kernel.shape
    grouped = graph.reshape(kernel, (groups, out // groups, per_group, *sizes))
    swapped = graph.transpose(grouped, [0, 2, 1, *range(3, len(sizes) + 3)])
    weights = graph.reshape(swapped, (groups * per_group, out // groups, *sizes))
    if weights.array is not None:
        turned = weights.array[(slice(None), slice(None), *(slice(None, None, -1) for _ in sizes))]
        weights = graph.constant(np.ascontiguousarray(turned))
    else:
        many, first = len(sizes), np.iinfo(np.int64).min
        ends = [graph.ints(*[-1] * many), graph.ints(*[first] * many), graph.ints(*range(2, many + 2)), graph.ints(*[-1] * many)]
        weights = graph.op("Slice", [weights, *ends], weights.dtype, weights.shape)
    pads = [int(size) - 1 - int(pad) for pad_list in (low, high) for size, pad in zip(extent, pad_list, strict=True)]
    return graph.op("ConvTranspose", [x, weights], x.dtype, shape, strides=strides, dilations=dilations, group=groups, pads=pads)
