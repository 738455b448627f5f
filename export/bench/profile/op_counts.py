"""Operation counts of a run: its multiply-adds and the weights that it reads, from a profiler's trace.

Shapes of activations come from the trace (``input_type_shape`` and ``output_type_shape``). Attributes and weights come from the optimized
graph that the same session saved: the trace leaves out weights that were packed before. Nodes of a subgraph count each time they run.

Counted are convolutions, matrix products and recurrent layers, a multiply-add as two operations. Channels that ONNX Runtime pads to its
blocks are included; a recurrent layer counts all steps of its input, even if ``sequence_lens`` ends one earlier.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import AttributeProto, NodeProto, TensorProto, helper

KERNEL = "_kernel_time"
"""Suffix of the name of a node's event."""


INNER = frozenset({"Scan", "Loop", "If"})
"""Operators that run a subgraph."""


# The index of the weights among the inputs: (outputs, inputs of a group, kernel…); transposed (inputs, outputs of a group, kernel…).
_CONVOLUTIONS = {"Conv": 1, "FusedConv": 1, "NhwcFusedConv": 1, "ConvInteger": 1, "QLinearConv": 3, "ConvTranspose": 1}


_GEMMS = frozenset({"Gemm", "FusedGemm", "QGemm"})


_PRODUCTS = frozenset(
    {
        *("MatMul", "FusedMatMul", "MatMulNBits"),
        *("MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QLinearMatMul"),
    }
)


_GATES = {"LSTM": 4, "DynamicQuantizeLSTM": 4, "GRU": 3, "RNN": 1}


_INT8 = frozenset(
    {
        *("ConvInteger", "QLinearConv", "QGemm", "QLinearMatMul"),
        *("MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"),
    }
)


Shape = Sequence[int]


@dataclass(frozen=True)
class OpCounts:
    """Operations and weights of one run."""

    float32_ops: int = 0
    int8_ops: int = 0
    weight_bytes: int = 0  # each time they are read: a loop reads its weights once a step
    distinct_bytes: int = 0  # of the weights that are read
    counted: frozenset[str] = frozenset()  # nodes, as label() names them


@dataclass(frozen=True)
class _Known:
    """A node of the graph that ran, and the weights in its scope: those of its graph and of the outer ones."""

    node: NodeProto
    weights: Mapping[str, TensorProto]


def label(event: Mapping[str, Any]) -> str:
    """The node of a kernel's event, as it is displayed: ``conv1 (Conv)``."""
    return f"{str(event['name']).removesuffix(KERNEL)} ({event['args']['op_name']})"


def count_ops(kernels: Iterable[Mapping[str, Any]], model: onnx.ModelProto) -> OpCounts:
    """``kernels``: the profiler's events of one run, in order. ``model``: the graph that ran; its weights may be external.

    A node whose shapes are unknown is not counted, and not in :attr:`OpCounts.counted`.
    """
    events = list(kernels)
    known = _known(events, model.graph)
    ops = {True: 0, False: 0}
    read = 0
    distinct: dict[str, int] = {}
    counted = set()
    for event in events:
        found = known.get(label(event))
        if found is None:
            continue
        arguments = event["args"]
        inputs, outputs = (_shapes(arguments.get(key)) for key in ("input_type_shape", "output_type_shape"))
        adds = multiply_adds(found.node, inputs, outputs, {name: tuple(tensor.dims) for name, tensor in found.weights.items()})
        if adds is None:
            continue
        counted.add(label(event))
        ops[_in_int8(found.node)] += 2 * adds
        if adds:  # an empty input reads no weights
            sizes = {name: _bytes(found.weights[name]) for name in found.node.input if name in found.weights}
            distinct |= sizes
            read += sum(sizes.values())
            if found.node.op_type in _GATES:  # the recurrent weights once each step
                read += sizes.get(found.node.input[2], 0) * (_steps(found.node, inputs) - 1)
    return OpCounts(ops[False], ops[True], read, sum(distinct.values()), frozenset(counted))


def multiply_adds(node: NodeProto, inputs: Sequence[Shape], outputs: Sequence[Shape], weights: Mapping[str, Shape]) -> int | None:
    """Multiply-adds of one execution; None for an operator that is not counted, or if a shape is not known.

    ``inputs``, ``outputs``: shapes from the trace, which may lack weights. ``weights``: shapes of weights, by name.
    """
    kind = node.op_type
    if not inputs or not outputs:
        return None
    first, made = inputs[0], math.prod(outputs[0])
    if kind in _CONVOLUTIONS:
        at = _CONVOLUTIONS[kind]
        kernel = weights.get(node.input[at])
        if kernel is None and len(inputs) == sum(map(bool, node.input)):  # computed, so it is in the trace
            kernel = inputs[at]
        if kernel is None:
            return None
        return (math.prod(first) if kind == "ConvTranspose" else made) * math.prod(kernel[1:])
    if kind in _GEMMS and len(first) == 2:
        return made * first[0 if _attribute(node, "transA", 0) else 1]
    if kind in _PRODUCTS and first:
        return made * first[-2 if _attribute(node, "transA", 0) and len(first) > 1 else -1]
    if kind in _GATES and len(first) == 3:
        width = int(_attribute(node, "hidden_size", 0))
        directions = 2 if _attribute(node, "direction", b"forward") == b"bidirectional" else 1
        return math.prod(first[:2]) * directions * _GATES[kind] * width * (first[2] + width)
    return None


def _known(events: Sequence[Mapping[str, Any]], graph: onnx.GraphProto) -> dict[str, _Known]:
    """The graph's nodes by :func:`label`. Nodes without a name are matched by the order in which they run, which is that of the file."""
    known: dict[str, _Known] = {}
    nameless: dict[str, list[_Known]] = {}
    for found in _nodes(graph, {}):
        if found.node.name:
            known[f"{found.node.name} ({found.node.op_type})"] = found
        else:
            nameless.setdefault(found.node.op_type, []).append(found)
    others: dict[str, list[str]] = {}
    for event in events:
        name = label(event)
        if name not in known and name not in others.setdefault(event["args"]["op_name"], []):
            others[event["args"]["op_name"]].append(name)
    for kind, labels in others.items():
        if len(labels) == len(nameless.get(kind, ())):  # unless a branch did not run
            known |= dict(zip(labels, nameless[kind], strict=True))
    return known


def _nodes(graph: onnx.GraphProto, outer: Mapping[str, TensorProto]) -> Iterator[_Known]:
    weights = {**outer, **{tensor.name: tensor for tensor in graph.initializer}}
    for node in graph.node:
        yield _Known(node, weights)
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _nodes(attribute.g, weights)


def _shapes(entries: Any) -> list[tuple[int, ...]]:
    """Shapes of ``[{"float": [1, 3]}, …]``, as the trace has them; empty for anything else."""
    try:
        return [tuple(int(size) for size in shape) for entry in entries for shape in entry.values()]
    except (TypeError, ValueError, AttributeError):
        return []


def _attribute(node: NodeProto, name: str, default: Any) -> Any:
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def _in_int8(node: NodeProto) -> bool:
    """MatMulNBits' accuracy level 4 rounds the activations to 8 bits (ONNX Runtime's ContribOperators.md)."""
    return node.op_type in _INT8 or (node.op_type == "MatMulNBits" and bool(_attribute(node, "accuracy_level", 0) == 4))


def _bytes(tensor: TensorProto) -> int:
    return math.prod(map(int, tensor.dims)) * int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def _steps(node: NodeProto, inputs: Sequence[Shape]) -> int:
    steps: int = inputs[0][1 if _attribute(node, "layout", 0) else 0]
    return steps
