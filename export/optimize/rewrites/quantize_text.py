"""A text generator's or translator's loop in 8 bits: every weight matrix that a byte is multiplied by, in a quarter of the bytes.

Writing a byte is bound by the memory that its weights stream through. MatMulNBits (ONNX Runtime's own operator) keeps blocks of
weights with a scale each and quantises its inputs block by block too, so that rows of a batch do not touch each other. The
prompt is read by the LSTM and GRU operators, whose float32 weights are made of the same 8-bit numbers when the file is opened.

What a translator computes once of every place of its text is bound by arithmetic instead: there, integers are multiplied that have one
scale for all rows, which is known beforehand, because what a recurrent layer gives is between -1 and 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxferry.export.graphs.graph import drop_unused
from onnxferry.export.graphs.nodes import RUNTIME_DOMAIN, subgraphs
from onnxferry.export.graphs.weight_storage import exact_rows
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.errors import ExportError

BLOCK = 128
"""Weights that share a scale. The head's row and a layer's are multiples of it, or :data:`SMALL_BLOCK` is taken."""


SMALL_BLOCK = 32


ZERO = 128  # of an unsigned 8-bit weight


SEVEN_BITS = 64


def eight_bit_loop(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the matrices of its loops' Gemm nodes in 8 bits. Raises ExportError where there is none."""
    quantised = onnx.ModelProto()
    quantised.CopyFrom(model)
    bodies = list(_bodies(quantised.graph))
    gemms = [n for body in bodies for n in body.node if n.op_type == "Gemm" and any(a.name == "transB" and a.i for a in n.attribute)]
    values = _values(model, sorted({node.input[1] for node in gemms}))
    if not values:
        raise ExportError("the model has no loop with weights in its outer graph, so there is nothing to quantise in it; export it again")
    for name, weight in values.items():
        _store(quantised, name, weight)
    made = 0
    for body in _bodies(quantised.graph):
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in body.node]
        del body.node[:]
        for node in nodes:
            changed = node.op_type == "Gemm" and node.input[1] in values
            made += changed
            body.node.extend(_multiplied(node, values) if changed else [node])
    if not made:
        raise ExportError("no product in the model's loop could be quantised; export it again")
    quantised.opset_import.append(helper.make_opsetid(RUNTIME_DOMAIN, 1))
    drop_unused(quantised)
    return quantised


def _bodies(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Of all loops, those in branches too."""
    for node in graph.node:
        for attribute in node.attribute:
            for inner in subgraphs(attribute):
                if node.op_type in ("Scan", "Loop"):
                    yield inner
                yield from _bodies(inner)


def eight_bit_reading(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the products of what a recurrent layer gives in 8 bits, in standard operators that ONNX Runtime joins to one.

    Raises ExportError where there is none. Weights have a scale each output and 7 bits, for the reason of :func:`quantize.static_int8`.
    """
    quantised = onnx.ModelProto()
    quantised.CopyFrom(model)
    graph = quantised.graph
    transposed = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Transpose"}
    producers = {name: node for node in graph.node for name in node.output}
    chosen = [
        node
        for node in graph.node
        if node.op_type == "MatMul" and node.input[1] in transposed and _is_recurrent(producers.get(node.input[0]), producers)
    ]
    values = _values(model, sorted({transposed[node.input[1]] for node in chosen}))
    made: list[onnx.NodeProto] = []
    read: set[str] = set()
    for node in graph.node:
        weight = values.get(transposed.get(node.input[1], "")) if node in chosen else None
        made.extend([node] if weight is None else _integers(node, weight, graph, read))
    if not read:
        raise ExportError("nothing that the model computes of its text could be quantised; export it again")
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in made]
    del graph.node[:]
    graph.node.extend(copies)
    drop_unused(quantised)
    return quantised


def _is_recurrent(node: onnx.NodeProto | None, producers: Mapping[str, onnx.NodeProto]) -> bool:
    """Whether a node passes on what a recurrent layer with its usual activations gives."""
    while node is not None and node.op_type in ("Transpose", "Reshape", "Squeeze", "Unsqueeze"):
        node = producers.get(node.input[0])
    return node is not None and node.op_type in ("LSTM", "GRU") and not any(a.name == "activations" for a in node.attribute)


def _integers(node: onnx.NodeProto, weight: np.ndarray, graph: onnx.GraphProto, read: set[str]) -> list[onnx.NodeProto]:
    """MatMul(x, weight transposed) of x in -1 … 1. ``read``: what is stored in 8 bits already."""
    x, out = node.input[0], node.output[0]
    scales = (np.abs(weight).max(axis=1) / SEVEN_BITS).astype(np.float32)
    scales[scales == 0] = 1
    numbers = np.rint(weight / scales[:, None]).astype(np.int8)
    step = np.float32(1 / (ZERO - 1))
    tensors = {
        f"{out}_weights": np.ascontiguousarray(numbers.T),
        f"{out}_scales": scales * step,
        f"{out}_step": np.array(step, np.float32),
        f"{out}_middle": np.array(ZERO, np.uint8),
    }
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in tensors.items())
    made = []
    if x not in read:
        read.add(x)
        made.append(helper.make_node("QuantizeLinear", [x, f"{out}_step", f"{out}_middle"], [f"{x}_unsigned"], name=f"{x}_quantize"))
    return [
        *made,
        helper.make_node("MatMulInteger", [f"{x}_unsigned", f"{out}_weights", f"{out}_middle"], [f"{out}_sums"], name=f"{out}_integers"),
        helper.make_node("Cast", [f"{out}_sums"], [f"{out}_whole"], to=TensorProto.FLOAT, name=f"{out}_cast"),
        helper.make_node("Mul", [f"{out}_whole", f"{out}_scales"], [out], name=f"{out}_scaled"),
    ]


def constant_values(model: onnx.ModelProto, names: list[str]) -> dict[str, np.ndarray]:
    """What the matrices of the outer graph called ``names`` are, float32 (outputs, inputs), where they follow from constants alone."""
    asked = onnx.ModelProto()
    asked.CopyFrom(model)
    del asked.graph.output[:]
    asked.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    del asked.graph.input[:]
    del asked.metadata_props[:]  # the contract speaks of inputs that are gone
    drop_unused(asked)
    if not names:
        return {}
    for value in asked.graph.output:
        value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, ["outputs", "inputs"]))
    with Engine(asked.SerializeToString(), device="cpu", threads=1) as engine:
        return dict(engine.run({}))


def _values(model: onnx.ModelProto, names: list[str]) -> dict[str, np.ndarray]:
    """Those of a size to quantise in blocks."""
    return {name: array for name, array in constant_values(model, names).items() if array.shape[1] % SMALL_BLOCK == 0}


def _block(inputs: int) -> int:
    return BLOCK if inputs % BLOCK == 0 else SMALL_BLOCK


def _store(model: onnx.ModelProto, name: str, weight: np.ndarray) -> None:
    """``name`` as 8-bit blocks, and as float32 made of them for who else reads it."""
    outputs, inputs = weight.shape
    numbers, scales = _blocks(weight)
    graph = model.graph
    made = [
        numpy_helper.from_array(numbers, f"{name}_blocks"),
        numpy_helper.from_array(scales, f"{name}_block_scales"),
        numpy_helper.from_array(np.array(ZERO, np.float32), f"{name}_zero"),
        numpy_helper.from_array(np.array([2], np.int64), f"{name}_last"),
        numpy_helper.from_array(np.array([outputs, inputs], np.int64), f"{name}_shape"),
    ]
    new = [
        helper.make_node("Cast", [f"{name}_blocks"], [f"{name}_unsigned"], to=TensorProto.FLOAT, name=f"{name}_unsigned_cast"),
        helper.make_node("Sub", [f"{name}_unsigned", f"{name}_zero"], [f"{name}_centred"], name=f"{name}_sub"),
        helper.make_node("Unsqueeze", [f"{name}_block_scales", f"{name}_last"], [f"{name}_columns"], name=f"{name}_unsqueeze"),
        helper.make_node("Mul", [f"{name}_centred", f"{name}_columns"], [f"{name}_scaled"], name=f"{name}_mul"),
        helper.make_node("Reshape", [f"{name}_scaled", f"{name}_shape"], [name], name=f"{name}_reshape"),
    ]
    producer = next((node for node in graph.node if name in node.output), None)
    gone = {name}
    if producer is not None and len(producer.output) > 1:  # a part of a larger matrix, whose others stay
        place = list(producer.output).index(name)
        producer.output[place] = f"{name}_float"
    if producer is not None and producer.op_type == "Squeeze":
        # The layer's operator reads the same matrix with an axis more.
        layered = producer.input[0]
        gone.add(layered)
        new.append(helper.make_node("Unsqueeze", [name, producer.input[1]], [layered], name=f"{name}_layered"))
    nodes = [node for node in graph.node if not gone.intersection(node.output)]
    tensors = [tensor for tensor in graph.initializer if tensor.name not in gone]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in (*new, *nodes)]
    kept = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in (*tensors, *made)]
    del graph.node[:]
    graph.node.extend(copies)
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _blocks(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers uint8 (outputs, blocks, weights of a block), of which 128 is zero, and scales float32 (outputs, blocks).

    A weight that stands in its file in 8 bits already keeps its numbers, and every block its row's scale: the same network then.
    """
    outputs, inputs = weight.shape
    rows = exact_rows(weight)
    count = inputs // _block(inputs)
    if rows is not None:
        numbers = rows.numbers.reshape(outputs, count, -1).astype(np.int16)
        return (numbers + ZERO).astype(np.uint8), np.ascontiguousarray(np.broadcast_to(rows.scales, (outputs, count)))
    blocks = weight.reshape(outputs, count, -1)
    scales = (np.abs(blocks).max(axis=2) / (ZERO - 1)).astype(np.float32)
    scales[scales == 0] = 1
    return (np.clip(np.rint(blocks / scales[..., None]), 1 - ZERO, ZERO - 1) + ZERO).astype(np.uint8), scales


def _multiplied(node: onnx.NodeProto, values: dict[str, np.ndarray]) -> list[onnx.NodeProto]:
    """Gemm(x, weight transposed, addend) as MatMulNBits and Add."""
    outputs, inputs = values[node.input[1]].shape
    product = f"{node.output[0]}_product"
    first = helper.make_node(
        "MatMulNBits",
        [node.input[0], f"{node.input[1]}_blocks", f"{node.input[1]}_block_scales"],
        [product],
        name=f"{node.name}_8bit",
        domain=RUNTIME_DOMAIN,
        bits=8,
        block_size=_block(inputs),
        K=inputs,
        N=outputs,
        accuracy_level=4,  # its inputs as 8-bit numbers: integer arithmetic
    )
    return [first, helper.make_node("Add", [product, node.input[2]], [node.output[0]], name=f"{node.name}_add")]
