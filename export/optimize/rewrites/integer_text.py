"""A text generator in integers: every product of its layers and its head, as it reads and as it writes, one row or many.

What a recurrent layer gives lies between -1 and 1, so its 8-bit form has one scale that is known beforehand: rows of a batch do not touch
each other, and a product of integers needs no pass over its inputs. :func:`quantize_text.eight_bit_loop` takes a scale for each block of
the inputs as they come, which is a little finer and as fast with one row; with many rows, integers at one scale are twice as fast, because
ONNX Runtime has kernels of matrices for them (AVX2, VNNI, AMX) where it has kernels of vectors for blocks.

The prompt is read by the same products in a loop of its own, made of the one that writes:
the file then holds each matrix once, as integers.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxferry.export.graphs.graph import drop_unused
from onnxferry.export.graphs.nodes import RUNTIME_DOMAIN
from onnxferry.export.graphs.weight_storage import exact_rows
from onnxferry.export.optimize.rewrites.quantize_text import constant_values
from onnxferry.runtime.errors import ExportError

STEPS, MIDDLE = 63, 64
"""A layer's output in seven bits: -1 … 1 is 1 … 127. Processors without VNNI add two products of unsigned by signed 8-bit numbers
in 16 bits; of seven bits by eight they always fit (2 × 127 × 127)."""


LARGEST = 127  # of a signed 8-bit weight


Node = onnx.NodeProto


@dataclass(frozen=True)
class _Loop:
    """The loop that writes, and what the outer graph computes around it."""

    scan: Node
    nodes: Sequence[Node]  # of the body
    slots: Mapping[str, str]  # of the state, in the body: before → after
    made: Mapping[str, Node]  # in the body, by output
    outer: Mapping[str, Node]  # in the outer graph, by output
    byte: str  # in the body: what was chosen
    head: Node  # in the body: the product that gives logits


def integer_text(model: onnx.ModelProto) -> onnx.ModelProto:
    """The text generator with its products in integers. Raises ExportError for a graph of another make."""
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    loop = _loop(whole)
    reaches = {
        name: reach for node in loop.nodes if node.op_type == "Gemm" and (reach := _reach(node.input[0], loop)) for name in node.input[:1]
    }
    products = [node for node in loop.nodes if node.op_type == "Gemm" and math.isfinite(reaches[node.input[0]])]
    values = constant_values(model, sorted({node.input[1] for node in products}))
    if len(values) < len({node.input[1] for node in loop.nodes if node.op_type == "Gemm"}):
        raise ExportError(
            "a product in the model's loop cannot be one of integers: its inputs have no known bounds, or its weights no constant values"
        )
    graph = whole.graph
    graph.initializer.append(numpy_helper.from_array(np.array(MIDDLE, np.uint8), "integers_middle"))
    for reach in sorted(set(reaches.values())):
        graph.initializer.append(numpy_helper.from_array(np.array(reach / STEPS, np.float32), _step(reach)))
    for name, weight in values.items():
        numbers, scales = _rows(weight)
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(numbers.T), f"{name}_integers"))
        graph.initializer.append(numpy_helper.from_array(scales, f"{name}_scales_of_integers"))
    head = reaches[loop.head.input[0]]
    reading = _reading(loop, reaches)
    body = next(attribute.g for attribute in loop.scan.attribute if attribute.name == "body")
    nodes = _in_integers(loop.nodes, reaches)
    del body.node[:]
    body.node.extend(nodes)
    _read_so(graph, loop, reading, head)
    whole.opset_import.append(helper.make_opsetid(RUNTIME_DOMAIN, 1))
    drop_unused(whole)
    return whole


def _loop(model: onnx.ModelProto) -> _Loop:
    scans = [node for node in model.graph.node if node.op_type == "Scan"]
    if len(scans) != 1:
        raise ExportError(
            "the model has no loop that writes text in its outer graph, so there is nothing to quantise in it; export it again"
        )
    (scan,) = scans
    body = next(attribute.g for attribute in scan.attribute if attribute.name == "body")
    nodes = [Node.FromString(node.SerializeToString()) for node in body.node]
    made = {name: node for node in nodes for name in node.output}
    count = len(body.input) - 1  # the last one is the uniform number
    slots = {before.name: after.name for before, after in zip(body.input[:count], body.output[:count], strict=True)}
    chosen = [node.output[0] for node in nodes if node.op_type == "ArgMax"]
    kept = _needed(slots.values(), made, stop=chosen)
    heads = [node for node in nodes if node.op_type == "Gemm" and node.output[0] not in kept]
    if len(chosen) != 1 or len(heads) != 1 or len(body.output) != count + 1:
        raise ExportError("the model's loop is no text generator's of this version; export it again")
    outer = {name: node for node in model.graph.node for name in node.output}
    return _Loop(scan, nodes, slots, made, outer, chosen[0], heads[0])


def _needed(names: Collection[str], made: Mapping[str, Node], stop: Collection[str] = ()) -> set[str]:
    """Outputs of all nodes that ``names`` follow from, down to ``stop``."""
    found: set[str] = set()
    open_ = list(names)
    while open_:
        name = open_.pop()
        if name in made and name not in found and name not in stop:
            found.update(made[name].output)
            open_ += made[name].input
    return found


def _reach(name: str, loop: _Loop) -> float:
    """The largest magnitude that a value of the loop has, given states that the loop itself gave; infinity where none is known."""
    node = loop.made.get(loop.slots.get(name, name))
    if node is None:
        return math.inf
    if node.op_type in ("Tanh", "Sigmoid"):
        return 1.0
    if node.op_type in ("Split", "Identity"):
        return _reach(node.input[0], loop)
    if node.op_type == "Mul" and not any(part in loop.slots for part in node.input):
        return math.prod(_reach(part, loop) for part in node.input)
    if node.op_type == "Add":
        new, share = node.input
        # new + z (before - new), with z in 0 … 1, lies between the two: as the state does that starts so.
        mixed = loop.made.get(share)
        between = loop.made.get(mixed.input[1]) if mixed is not None and mixed.op_type == "Mul" else None
        if between is not None and between.op_type == "Sub" and between.input[1] == new:
            return _reach(new, loop) if loop.slots.get(between.input[0]) == node.output[0] else math.inf
        # A cell's sum has no bound, and reads its own slot.
        parts = [loop.made.get(part) for part in node.input]
        if any(part is not None and part.op_type == "Mul" and set(part.input) & set(loop.slots) for part in parts):
            return math.inf
        return sum(_reach(part, loop) for part in node.input)
    return math.inf


def _rows(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers int8 (outputs, inputs) and scales float32 (outputs,); those that the weights were made of, where they were."""
    rows = exact_rows(weight)
    if rows is not None:
        return rows.numbers, np.ascontiguousarray(rows.scales.reshape(-1))
    scales = (np.abs(weight).max(axis=1) / LARGEST).astype(np.float32)
    scales[scales == 0] = 1
    return np.rint(weight / scales[:, None]).astype(np.int8), scales


def _step(reach: float) -> str:
    return f"integers_step_of_{reach:g}"


def _quantised(value: str, reach: float) -> Node:
    return helper.make_node("QuantizeLinear", [value, _step(reach), "integers_middle"], [f"{value}_integers"], name=f"{value}_quantize")


def _product(value: str, weight: str, reach: float, out: str, bias: str = "") -> Node:
    """``value`` in integers times the weights, as float32: products, scales and bias in one operator of ONNX Runtime's."""
    inputs = [f"{value}_integers", f"{weight}_integers", _step(reach), f"{weight}_scales_of_integers", "integers_middle"]
    inputs += ["", bias] if bias else []
    return helper.make_node("MatMulIntegerToFloat", inputs, [out], name=f"{out}_of_integers", domain=RUNTIME_DOMAIN)


def _in_integers(nodes: Sequence[Node], reaches: Mapping[str, float]) -> list[Node]:
    """A body's nodes with every Gemm as a product of integers. A bias of the outer graph (outputs,) goes into it; else it is added."""
    inner = {name for node in nodes for name in node.output}
    made: list[Node] = []
    quantised: set[str] = set()
    for node in nodes:
        if node.op_type != "Gemm":
            made.append(node)
            continue
        value, weight, bias = node.input
        if value not in quantised:
            quantised.add(value)
            made.append(_quantised(value, reaches[value]))
        if bias not in inner:
            made.append(_product(value, weight, reaches[value], node.output[0], bias))
        else:
            made.append(_product(value, weight, reaches[value], f"{node.output[0]}_product"))
            made.append(helper.make_node("Add", [f"{node.output[0]}_product", bias], node.output, name=f"{node.name}_add"))
    return made


def _reading(loop: _Loop, reaches: Mapping[str, float]) -> onnx.GraphProto:
    """A body that reads a byte: the slots, the byte int64 (batch,) and whether it counts bool (batch, 1) → the slots after it, and what
    the head hears (batch, width)."""
    kept = _needed(loop.slots.values(), loop.made, stop=[loop.byte])
    heard = _needed([loop.head.input[0]], loop.made)
    nodes = _in_integers([node for node in loop.nodes if node.output[0] in kept], reaches)
    inner = {name for node in nodes for name in node.output} | {*loop.slots, loop.byte}

    def renamed(node: Node, names: Mapping[str, str]) -> Node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = f"read_{node.name}"
        copy.input[:] = [names.get(name, name) for name in node.input]
        copy.output[:] = [names.get(name, name) for name in node.output]
        return copy

    read = {name: f"read_{name}" for name in inner}
    made = [renamed(node, read) for node in nodes]
    ends = []
    for before, after in loop.slots.items():
        ends.append(f"{read[after]}_if_it_counts")
        made.append(helper.make_node("Where", ["read_counts", read[after], read[before]], ends[-1:], name=ends[-1]))
    # The head hears what it would at the next byte.
    later = {before: read[after] for before, after in loop.slots.items()} | {name: f"read_heard_{name}" for name in heard}
    made += [renamed(node, later) for node in loop.nodes if node.output[0] in heard]
    made.append(helper.make_node("Identity", [later[loop.head.input[0]]], ["read_heard"], name="read_heard"))
    width = next(a.g for a in loop.scan.attribute if a.name == "body").input[0].type.tensor_type.shape.dim[1].dim_value

    def info(name: str, kind: int = TensorProto.FLOAT, *axes: str | int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, list(axes) or ["batch", width])

    inputs = [*(info(read[name]) for name in loop.slots), info(read[loop.byte], TensorProto.INT64, "batch")]
    inputs.append(info("read_counts", TensorProto.BOOL, "batch", 1))
    return helper.make_graph(made, "read_body", inputs, [*map(info, ends), info("read_heard")])


def _read_so(graph: onnx.GraphProto, loop: _Loop, reading: onnx.GraphProto, reach: float) -> None:
    """The outer graph with ``reading`` in place of its recurrent layers, and its logits by products of integers."""
    head, heads = loop.head.input[1], [node for node in graph.node if node.op_type in ("Gemm", "MatMul")]
    transposed = {node.output[0] for node in graph.node if node.op_type == "Transpose" and node.input[0] == head}
    scored = [node for node in heads if node.op_type == "MatMul" and node.input[1] in transposed]
    last = [node for node in heads if node.op_type == "Gemm" and node.input[1] == head]
    states = [loop.outer.get(name) for name in loop.scan.input[: len(loop.slots)]]
    first = next((node for node in graph.node if node.op_type in ("LSTM", "GRU")), None)
    picked = loop.outer.get(first.input[0]) if first is not None else None
    cut = loop.outer.get(scored[0].input[0]) if scored else None
    joined = loop.outer.get(cut.input[0]) if cut is not None and cut.op_type == "Slice" else None
    reads = first is not None and picked is not None and picked.op_type == "Gather" and joined is not None and joined.op_type == "Concat"
    if first is None or picked is None or joined is None or not reads or len(scored) != 1 or len(last) != 1 or not _chosen(states):
        raise ExportError("the model does not read its prompt as a text generator of this version does; export it again")
    kept = [node for node in states if node is not None]
    before, after = [node.input[1] for node in kept], [node.output[0] for node in kept]
    tensors = {"reading_zero": np.array(0, np.int64), "reading_one": np.array(1, np.int64), "reading_axis": np.array([2], np.int64)}
    tensors |= {"reading_none": np.array([0], np.int64), "reading_second": np.array([1], np.int64)}
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in tensors.items())
    made = _steps_of(picked.input[1], first.input[4])
    scan = [*before, "reading_bytes", "reading_counts"]
    made.append(helper.make_node("Scan", scan, [*after, "reading_heard"], name="reading", num_scan_inputs=2, body=reading))
    joined.input[1] = "reading_heard"
    value = scored[0].input[0]
    replaced = {
        scored[0].output[0]: [_quantised(value, reach), _product(value, head, reach, scored[0].output[0])],
        last[0].output[0]: [
            _quantised(last[0].input[0], reach),
            _product(last[0].input[0], head, reach, last[0].output[0], last[0].input[2]),
        ],
        after[0]: made,
    }
    gone = {name for node in kept for name in node.output}
    nodes: list[Node] = []
    for node in graph.node:
        if node.output[0] in replaced:
            nodes += replaced[node.output[0]]
        elif not gone.intersection(node.output):
            nodes.append(Node.FromString(node.SerializeToString()))
    del graph.node[:]
    graph.node.extend(nodes)


def _chosen(states: Sequence[Node | None]) -> bool:
    """Whether each is a choice between what was and what was read."""
    return all(node is not None and node.op_type == "Where" for node in states)


def _steps_of(prompt: str, lengths: str) -> list[Node]:
    """Bytes int64 (steps, batch) and whether each counts, bool (steps, batch, 1). ONNX Runtime's Scan refuses to make no step: of
    prompts without bytes, one is read that does not count."""

    def node(operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> Node:
        return helper.make_node(operator, inputs, [f"reading_{output}"], name=f"reading_{output}", **attributes)

    return [
        node("Shape", [prompt], "shape"),
        node("Gather", ["reading_shape", "reading_none"], "length", axis=0),
        node("Gather", ["reading_shape", "reading_second"], "rows", axis=0),
        node("Equal", ["reading_length", "reading_zero"], "is_empty"),
        node("Cast", ["reading_is_empty"], "missing", to=TensorProto.INT64),
        node("Concat", ["reading_missing", "reading_rows"], "added_shape", axis=0),
        node("ConstantOfShape", ["reading_added_shape"], "added", value=numpy_helper.from_array(np.array([0], np.int64))),
        node("Concat", [prompt, "reading_added"], "bytes", axis=0),
        node("Add", ["reading_length", "reading_missing"], "steps_flat"),
        node("Squeeze", ["reading_steps_flat"], "steps"),
        node("Range", ["reading_zero", "reading_steps", "reading_one"], "range"),
        node("Unsqueeze", ["reading_range", "reading_second"], "places"),
        node("Cast", [lengths], "lengths", to=TensorProto.INT64),
        node("Unsqueeze", ["reading_lengths", "reading_none"], "lengths_of_rows"),
        node("Less", ["reading_places", "reading_lengths_of_rows"], "counted"),
        node("Unsqueeze", ["reading_counted", "reading_axis"], "counts"),
    ]
