"""Whole numbers beyond 2**31 and 2**53, which some of ONNX Runtime's kernels get wrong, written with operators that are right.

On x86-64, ONNX Runtime compares int64 by signed low halves in Max, Min, Clip, Sign, Relu, ReduceMax and ReduceMin, so that the
maximum of 3000000000 and 0 is 0; its ReduceSum adds them in double precision, and Mod with ``fmod`` divides so (microsoft/onnxruntime
issue 25280, pull request 32475; measured with 1.31). Less, Greater, Where, Div, Mod, Mul and ArgMax are right.

Numbers that are certainly small (sizes, indices, flags, what was cast from a narrower type) are left to the kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxferry.export.graphs.inference import inferred
from onnxferry.export.graphs.nodes import subgraphs

_SMALL = 2**31

# Their whole numbers are sizes, places or counts.
_SMALL_RESULTS = frozenset({"Shape", "Size", "ArgMax", "ArgMin", "NonZero", "NonMaxSuppression"})
# Their result holds no number that their inputs do not.
_PASS_ON = frozenset(
    {
        "Identity", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Expand", "Tile", "Flatten", "Concat", "Slice", "Gather",
        "GatherElements", "GatherND", "Split", "Max", "Min", "Clip", "Sign", "Relu", "ReduceMax", "ReduceMin", "Abs", "Neg", "Mod", "Where",
        "Pad", "ScatterElements", "ScatterND", "Trilu", "Unique", "Compress", "ReverseSequence", "DepthToSpace", "SpaceToDepth",
    }
)  # fmt: skip
# Of these, their other inputs are shapes, axes and indices.
_FIRST_INPUT = frozenset(
    {
        "Reshape", "Squeeze", "Unsqueeze", "Expand", "Tile", "Slice", "Gather", "GatherElements", "GatherND", "Split", "Trilu", "Compress",
        "ReduceMax", "ReduceMin",
    }
)  # fmt: skip
_NARROW = frozenset(
    {TensorProto.BOOL, TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16, TensorProto.UINT16, TensorProto.INT32, TensorProto.UINT32}
)
# The largest initializer that type inference is shown, and that is looked through for large numbers.
_LOOKED_AT = 1 << 16


def rewrite_large_integers(model: onnx.ModelProto) -> list[str]:
    """Rewrite the graph in place; returns what was done, in words. Needs opset 13 or newer, as all exports have."""
    if not any(node.op_type in _REWRITES for node in _walk(model.graph)):
        return []
    if any(node.op_type == "StringSplit" for node in _walk(model.graph)):
        return []  # a text vectorizer's whole numbers only count words
    types = value_types(model)
    small = _small_numbers(model.graph, types)
    changed = _rewrite(model.graph, types, small, _opset(model))
    return [f"wrote {', '.join(sorted(changed))} of int64 with other operators: ONNX Runtime's are wrong beyond 2**31"] if changed else []


def divides_whole_numbers(model: onnx.ModelProto) -> bool:
    """True if the graph divides whole numbers that are not sizes: ONNX's Div cuts toward zero, where Python's ``//`` rounds down."""
    divisions = [node for node in _walk(model.graph) if node.op_type == "Div"]
    if not divisions:
        return False
    types = value_types(model)
    small = _small_numbers(model.graph, types)
    whole = _NARROW | {TensorProto.INT64}
    return any(types.get(node.output[0]) in whole and not all(name in small for name in node.input) for node in divisions)


def _opset(model: onnx.ModelProto) -> int:
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)


def _walk(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in subgraphs(attribute):
                yield from _walk(inner)


def value_types(model: onnx.ModelProto) -> dict[str, int]:
    """Element types by value name, from a copy without the large weights."""
    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    light.graph.name = "types"
    light.graph.node.extend(model.graph.node)
    light.graph.input.extend(model.graph.input)
    fed = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        if np.prod(tensor.dims, dtype=np.int64) <= _LOOKED_AT:
            light.graph.initializer.append(tensor)
        elif tensor.name not in fed:
            light.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    known = inferred(light)
    types: dict[str, int] = {}

    def collect(graph: onnx.GraphProto) -> None:
        types.update({t.name: t.data_type for t in graph.initializer})
        for value in (*graph.input, *graph.value_info, *graph.output):
            types[value.name] = value.type.tensor_type.elem_type
        for node in graph.node:
            for attribute in node.attribute:
                for inner in subgraphs(attribute):
                    collect(inner)

    collect(known.graph)
    return types


def _small_numbers(graph: onnx.GraphProto, types: Mapping[str, int]) -> set[str]:
    """Values whose numbers are certainly below 2**31."""
    small: set[str] = set()

    def is_small(tensor: onnx.TensorProto) -> bool:
        if tensor.data_type in _NARROW:
            return True
        if tensor.data_type != TensorProto.INT64 or np.prod(tensor.dims, dtype=np.int64) > _LOOKED_AT:
            return False
        array = numpy_helper.to_array(tensor)
        return bool(array.size == 0 or (array.min() > -_SMALL and array.max() < _SMALL))

    def visit(graph: onnx.GraphProto) -> None:
        small.update(tensor.name for tensor in graph.initializer if is_small(tensor))
        for node in graph.node:
            for attribute in node.attribute:
                for inner in subgraphs(attribute):
                    visit(inner)
            constants = [a.t for a in node.attribute if a.name == "value" and a.HasField("t")]
            if node.op_type == "Constant":
                if all(is_small(tensor) for tensor in constants):  # the other forms hold few numbers, written by the exporter
                    small.update(node.output)
            elif node.op_type in _SMALL_RESULTS or (node.op_type == "Cast" and types.get(node.input[0]) in _NARROW):
                small.update(node.output)
            elif node.op_type == "TopK":
                small.add(node.output[1])
            elif node.op_type in _PASS_ON and all(name in small or types.get(name) in _NARROW for name in _numbers_of(node)):
                small.update(node.output)

    visit(graph)
    small -= {value.name for value in graph.input}
    return small


def _numbers_of(node: onnx.NodeProto) -> list[str]:
    """The inputs whose numbers a node passes on, without shapes, axes and indices."""
    first = {
        "Reshape",
        "Squeeze",
        "Unsqueeze",
        "Expand",
        "Tile",
        "Slice",
        "Gather",
        "GatherElements",
        "GatherND",
        "Split",
        "Trilu",
        "Compress",
    }
    if node.op_type in first or node.op_type in ("ReduceMax", "ReduceMin"):
        return [node.input[0]]
    if node.op_type == "Where":
        return [*node.input[1:]]
    if node.op_type in ("ScatterElements", "ScatterND", "Pad"):
        return [name for name in (node.input[0], *node.input[2:]) if name]
    return [name for name in node.input if name]


class _Writer:
    """Makes the nodes that stand for one node, and names what lies between them."""

    def __init__(self, node: onnx.NodeProto, constants: Mapping[str, np.ndarray], opset: int) -> None:
        self.node = node
        self.constants = constants
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"{self.node.output[0]}_int64_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name

    def number(self, value: int | Sequence[int]) -> str:
        return self.add("Constant", value=numpy_helper.from_array(np.array(value, np.int64)))

    def larger(self, a: str, b: str) -> str:
        return self.add("Where", self.add("Less", a, b), b, a)

    def smaller(self, a: str, b: str) -> str:
        return self.add("Where", self.add("Greater", a, b), b, a)

    def attribute(self, name: str, default: int) -> int:
        return next((int(a.i) for a in self.node.attribute if a.name == name), default)

    def axes(self) -> list[int] | None:
        """Of a reduction: empty for all; None where they are not constant."""
        listed = next((list(a.ints) for a in self.node.attribute if a.name == "axes"), None)
        if listed is not None or len(self.node.input) < 2 or not self.node.input[1]:
            return listed or []
        known = self.constants.get(self.node.input[1])
        return None if known is None else [int(axis) for axis in known.ravel()]


def _max(w: _Writer) -> str:
    answer, *others = (str(name) for name in w.node.input)
    for other in others:
        answer = w.larger(answer, other) if w.node.op_type == "Max" else w.smaller(answer, other)
    return answer


def _clip(w: _Writer) -> str:
    answer, low, high = (*(str(name) for name in w.node.input), "", "")[:3]
    answer = w.larger(answer, low) if low else answer
    return w.smaller(answer, high) if high else answer


def _sign(w: _Writer) -> str:
    x, zero = w.node.input[0], w.number(0)
    positive, negative = (w.add("Cast", w.add(operator, x, zero), to=TensorProto.INT64) for operator in ("Greater", "Less"))
    return w.add("Sub", positive, negative)


def _relu(w: _Writer) -> str:
    return w.larger(w.node.input[0], w.number(0))


def _mod(w: _Writer) -> str | None:
    if not w.attribute("fmod", 0):
        return None
    a, b = w.node.input
    return w.add("Sub", a, w.add("Mul", w.add("Div", a, b), b))


def _reduce_extreme(w: _Writer) -> str | None:
    axes, keep = w.axes(), w.attribute("keepdims", 1)
    if axes is None or (not axes and w.attribute("noop_with_empty_axes", 0)):
        return None
    operator = "ArgMax" if w.node.op_type == "ReduceMax" else "ArgMin"
    answer = w.node.input[0]
    if not axes:
        flat = w.add("Reshape", answer, w.number([-1]))
        found = w.add("Gather", flat, w.add(operator, flat, axis=0, keepdims=0), axis=0)
        if not keep:
            return found
        one = numpy_helper.from_array(np.array([1], np.int64))
        return w.add("Reshape", found, w.add("ConstantOfShape", w.add("Shape", w.add("Shape", answer)), value=one))
    for axis in axes:
        answer = w.add("GatherElements", answer, w.add(operator, answer, axis=axis, keepdims=1), axis=axis)
    return answer if keep else w.add("Squeeze", answer, w.number(axes))


def _reduce_sum(w: _Writer) -> str:
    """By halves of 32 bits, whose sums double precision holds for up to some million numbers."""
    x, half = w.node.input[0], w.number(2**32)
    low = w.add("Mod", x, half)
    high = w.add("Div", w.add("Sub", x, low), half)
    attributes = {a.name: helper.get_attribute_value(a) for a in w.node.attribute}
    low, high = (w.add("ReduceSum", part, *w.node.input[1:], **attributes) for part in (low, high))
    return w.add("Add", w.add("Mul", high, half), low)


_REWRITES: Mapping[str, Callable[[_Writer], str | None]] = {
    "Max": _max,
    "Min": _max,
    "Clip": _clip,
    "Sign": _sign,
    "Relu": _relu,
    "Mod": _mod,
    "ReduceMax": _reduce_extreme,
    "ReduceMin": _reduce_extreme,
    "ReduceSum": _reduce_sum,
}


def _rewrite(graph: onnx.GraphProto, types: Mapping[str, int], small: set[str], opset: int) -> set[str]:
    changed: set[str] = set()
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer if t.data_type == TensorProto.INT64 and len(t.dims) <= 1}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        for attribute in node.attribute:
            for inner in subgraphs(attribute):
                changed |= _rewrite(inner, types, small, opset)
        writer = _Writer(node, constants, opset)
        if not _concerned(node, types, small):
            nodes.append(node)
            continue
        answer = _REWRITES[node.op_type](writer)
        if answer is None or not writer.nodes:
            nodes.append(node)
            continue
        changed.add(node.op_type)
        writer.nodes[-1].output[0] = node.output[0]
        writer.nodes[-1].name = node.name
        nodes += writer.nodes
    if changed:
        del graph.node[:]
        graph.node.extend(nodes)
    return changed


def _concerned(node: onnx.NodeProto, types: Mapping[str, int], small: set[str]) -> bool:
    """Whether it is one of those operators, on int64 that may be large. A maximum of a large and a small number is concerned too."""
    if node.domain or node.op_type not in _REWRITES or types.get(node.output[0]) != TensorProto.INT64:
        return False
    numbers = [node.input[0]] if node.op_type.startswith("Reduce") else [name for name in node.input if name]
    return not all(name in small for name in numbers)
