"""Walking a graph."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import onnx

# Protobuf cannot hold more than 2 GiB in one message; weights go to a file beside it before that.
EXTERNAL_DATA_BYTES = 1_900_000_000


def weight_bytes(model: onnx.ModelProto) -> int:
    """Bytes of the main graph's weights, from their shapes: protobuf cannot even measure a message of more than 2 GiB."""
    return sum(
        math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        for tensor in model.graph.initializer
        if tensor.data_type != onnx.TensorProto.STRING
    )


OPSET = 18
"""The default operator set: ONNX Runtime 1.14 and later run it."""


MAX_OPSET = 21
"""The newest that ONNX Runtime 1.20 runs, the oldest runtime that artifacts promise to load in."""


def ir_version(opset: int) -> int:
    """Of the file format. The oldest that allows the operator set, as newer ones add nothing that is used; 1.20 reads up to 10."""
    return 9 if opset <= 20 else 10


STANDARD_DOMAINS = ("", "ai.onnx", "ai.onnx.ml")


RUNTIME_DOMAIN = "com.microsoft"
"""ONNX Runtime's own operators: kept in a file that has them, never written by an export."""


def subgraphs(attribute: onnx.AttributeProto) -> Iterator[onnx.GraphProto]:
    if attribute.HasField("g"):
        yield attribute.g
    yield from attribute.graphs


def all_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node, those in subgraphs and local functions too."""

    def walk(nodes: Sequence[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
        for node in nodes:
            yield node
            for attribute in node.attribute:
                for graph in subgraphs(attribute):
                    yield from walk(graph.node)

    yield from walk(model.graph.node)
    for function in model.functions:
        yield from walk(function.node)


def copied(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    """A copy that outlives the list it stood in."""
    copy = onnx.ValueInfoProto()
    copy.CopyFrom(value)
    return copy
