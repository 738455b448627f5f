"""Sizes at which an axis that is computed by a factor comes out otherwise in float32 than in double: searched for, not sampled.

PyTorch computes ``int(90 * 0.7)`` in double and gets 62; a graph that multiplies in float32 gets 63. For most sizes both agree.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx

from onnxferry.export.graphs.nodes import all_nodes
from onnxferry.export.parity.probes import MAX_PROBE_BYTES, SEED, Case, bytes_at, random_values
from onnxferry.export.source import Feeds, InputSpec, dynamic_axes

LONGEST = 2000
"""The largest size that is searched."""

PER_FACTOR = 3
"""Sizes that are tried for a factor and a dynamic axis."""

# What a size goes through on its way to the shape of a result.
_TO_A_SIZE = "Add Cast Ceil Concat Div Floor Gather Identity Mul Neg Reshape Round Slice Squeeze Sub Unsqueeze"
_ARITHMETIC = frozenset(_TO_A_SIZE.split())

# An axis that a strided layer has made shorter before the factor is applied.
_STRIDES = (1, 2, 4)


def size_probes(model: onnx.ModelProto, inputs: Sequence[InputSpec], examples: Feeds) -> Iterator[Case]:
    """Cases at such sizes, one dynamic axis at a time; none where the graph computes no size by a factor."""
    traced = dynamic_axes(inputs)
    seen: set[tuple[str, int]] = set()
    for factor in size_factors(model):
        for axis in traced:
            for number, size in enumerate(_longer(_disagreeing(factor), traced[axis])):
                sizes = {**traced, axis: size}
                if (axis, size) in seen or bytes_at(inputs, sizes) > MAX_PROBE_BYTES:
                    continue
                seen.add((axis, size))
                rng = np.random.default_rng((SEED, 4000 + number))
                feeds = {s.name: random_values(s, examples[s.name], s.shape_at(sizes), rng) for s in inputs}
                yield Case(f"{axis}={size}, where {factor:g} x the size rounds both ways", feeds, sizes, generated=True)


def size_factors(model: onnx.ModelProto) -> list[float]:
    """The fractions by which the graph multiplies or divides sizes, as doubles: the shortest decimal of a float32.

    Only where a whole number is made of the product: an attention's scale is computed from a size too, and stays a fraction.
    """
    constants = _float_constants(model)
    made_by = {name: node for node in all_nodes(model) for name in node.output if name}
    met: dict[str, list[float]] = {}  # of each value that is computed from sizes, the fractions on its way
    factors: list[float] = []
    for node in all_nodes(model):
        if node.op_type in ("Shape", "Size"):
            met.update({name: [] for name in node.output})
        elif node.op_type == "Resize":
            for name in node.input[2:]:
                factors += _behind(name, made_by, constants)
        elif node.op_type in _ARITHMETIC and any(name in met for name in node.input):
            here = [factor for name in node.input for factor in (*met.get(name, ()), *constants.get(name, ()))]
            if _makes_whole(node):
                factors += here
            met.update(dict.fromkeys(node.output, here))
    return [f for f in dict.fromkeys(factors) if math.isfinite(f) and f > 0 and not float(f).is_integer()]


def _makes_whole(node: onnx.NodeProto) -> bool:
    if node.op_type == "Cast":
        return any(a.name == "to" and not _is_float(a.i) for a in node.attribute)
    return node.op_type in ("Ceil", "Floor", "Round")


def _behind(name: str, made_by: Mapping[str, onnx.NodeProto], constants: Mapping[str, list[float]]) -> list[float]:
    """The float constants that a value is computed from, for as long as it is a matter of sizes."""
    found: list[float] = []
    todo, seen = [name], set()
    while todo:
        value = todo.pop()
        found += constants.get(value, [])
        node = made_by.get(value)
        if value not in seen and node is not None and node.op_type in _ARITHMETIC:
            todo += node.input
        seen.add(value)
    return found


def _float_constants(model: onnx.ModelProto) -> dict[str, list[float]]:
    found = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer if _is_float(t.data_type) and math.prod(t.dims) <= 8}
    for node in all_nodes(model):
        if node.op_type == "Constant":
            for a in node.attribute:
                if a.name == "value" and _is_float(a.t.data_type) and math.prod(a.t.dims) <= 8:
                    found[node.output[0]] = onnx.numpy_helper.to_array(a.t)
                elif a.name == "value_float":
                    found[node.output[0]] = np.array([a.f], np.float32)
                elif a.name == "value_floats":
                    found[node.output[0]] = np.array(a.floats, np.float32)
    return {name: [float(str(value)) for value in np.ravel(array)] for name, array in found.items()}


def _is_float(data_type: int) -> bool:
    return data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)


def _disagreeing(factor: float) -> list[int]:
    """Sizes up to :data:`LONGEST` for which float32 and double give another whole number of ``size * factor`` or ``size / factor``."""
    sizes = np.arange(1, LONGEST + 1)
    single, double = sizes.astype(np.float32), sizes.astype(np.float64)
    short, inverse = np.float32(factor), np.float32(1) / np.float32(factor)
    pairs = ((single * short, double * factor), (single / short, double / factor), (single * inverse, double * (1 / factor)))
    differs = np.zeros(sizes.shape, dtype=bool)
    for a, b in pairs:
        for rounded in (np.floor, np.ceil, np.round):
            differs |= rounded(a.astype(np.float64)) != rounded(b)
    return [int(size) for size in sizes[differs]]


def _longer(sizes: Sequence[int], least: int) -> list[int]:
    """Some of the sizes, the nearest to the example's first, and the same behind a strided layer."""
    found = [size * stride for stride in _STRIDES for size in sorted(sizes, key=lambda n: abs(n - least))[:PER_FACTOR]]
    return [size for size in dict.fromkeys(found) if size <= LONGEST]
