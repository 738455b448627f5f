"""float16: the network inside a model computes in float16; what frames its images and what decides stays float32.

The rule is that of mixed precision, Micikevicius et al. 2018, arXiv 1710.03740: layers in half, sums that decide in single. ONNX
Runtime's own converter (``onnxruntime.transformers.float16``) is not used: it sends every number between two nodes that stay float32
through float16 all the same, and inputs too, and float16 counts pixels only up to 2,048.
"""

from __future__ import annotations

from collections import Counter

import onnx
from onnx import TensorProto, helper

from onnxferry.export.graphs.graph import Graph
from onnxferry.export.graphs.inference import inferred
from onnxferry.export.optimize.rewrites.quantize import convolutional_layers, finished, float16_precision, with_names
from onnxferry.runtime.errors import ExportError

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Layers: what is worth float16."""


HALVED = (
    *WEIGHTED,
    *("Add", "Sub", "Mul", "Div", "Neg", "Max", "Min", "Clip", "BatchNormalization", "ReduceMean"),
    *("Relu", "LeakyRelu", "PRelu", "Elu", "Gelu", "Erf", "HardSigmoid", "Sigmoid", "Tanh"),
    *("AveragePool", "GlobalAveragePool", "MaxPool", "GlobalMaxPool", "Pad", "Resize", "DepthToSpace", "SpaceToDepth"),
    *("Concat", "Split", "Slice", "Gather", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand", "Identity"),
)
"""Operators that ONNX Runtime's CUDA provider has for float16 (docs/OperatorKernels.md in its repository). Of those between two layers
the others (Softmax, norms with sums of squares, Exp, Pow) stay float32."""


ALWAYS_FLOAT = {"Resize": (1, 2)}
"""Inputs by place that have a type of their own: of Resize the region and the scales."""


def float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model whose network computes in float16: from its first convolution to its last layer with weights, inclusive.

    The cut at the front is that of the 8 bits (:func:`~onnxferry.export.optimize.rewrites.quantize.convolutional_layers`).
    Inputs and outputs keep
    their names, dtypes and shapes; what comes before (framing, resampling, indices, normalising) and after (softmax, the sigmoid of
    an image and its rounding, scores, the choice of a class) computes as it did. Weights are rounded to nearest, subnormals kept.

    Raises ExportError where there is no convolution with constant weights, or one of the weights is beyond 65,504.
    """
    named = with_names(model)
    layers = convolutional_layers(named)
    if not layers:
        raise ExportError("the model has no convolution with constant weights, so there is nothing to compute in float16")
    graph, types = Graph(named), _types(named)
    chosen = _chosen(graph, types, layers[0])
    # What others read, subgraphs and outputs among them, is there in float32 too, under its own name.
    others = graph.readers - Counter(name for node in chosen.values() for name in node.input)
    halves: dict[str, str] = {}  # float32 tensor → the same in float16
    nodes: list[onnx.NodeProto] = []

    def cast(source: str, target: str, to: int) -> None:
        nodes.append(helper.make_node("Cast", [source], [target], name=graph.name(f"{target}_cast"), to=to))

    def half(name: str) -> str:
        if name not in halves:
            if name in graph.constants:
                halves[name] = graph.constant(f"{name}_half", float16_precision(graph.constants[name], name))
            else:
                halves[name] = graph.name(f"{name}_half")
                cast(name, halves[name], TensorProto.FLOAT16)
        return halves[name]

    for node in named.graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        if node.name not in chosen:
            nodes.append(copy)
            continue
        for index, name in enumerate(node.input):
            if types.get(name) == TensorProto.FLOAT and index not in ALWAYS_FLOAT.get(node.op_type, ()):
                copy.input[index] = half(name)
        nodes.append(copy)
        for index, name in enumerate(node.output):
            copy.output[index] = halves[name] = graph.name(f"{name}_half")
            if others[name]:
                cast(halves[name], name, TensorProto.FLOAT)
    del named.graph.node[:]
    named.graph.node.extend(nodes)
    del named.graph.value_info[:]  # of names that are gone
    made = count_float16(named) - count_float16(model)
    if made < len(layers):
        raise ExportError(f"only {made} of {len(layers)} convolutions can compute in float16: the others are not known to be float32")
    return finished(named, model)


def count_float16(model: onnx.ModelProto) -> int:
    """Convolutions whose weights are float16."""
    halves = {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT16}
    return sum(node.op_type == "Conv" and node.input[1] in halves for node in model.graph.node)


def _types(model: onnx.ModelProto) -> dict[str, int]:
    """Element types by name, as ONNX infers them."""
    known = inferred(model).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*known.input, *known.value_info, *known.output)}
    return types | {tensor.name: tensor.data_type for tensor in model.graph.initializer}


def _chosen(graph: Graph, types: dict[str, int], first: str) -> dict[str, onnx.NodeProto]:
    """By name, the nodes that compute in float16: on a way from the first convolution to a layer, and of :data:`HALVED`."""
    nodes = list(graph.model.graph.node)
    start = next(index for index, node in enumerate(nodes) if node.name == first)
    reached = set(nodes[start].output)
    for node in nodes[start + 1 :]:
        if reached.intersection(node.input):
            reached.update(node.output)
    leading: set[str] = set()  # tensors that a layer is reached from
    found = {}
    for node in reversed(nodes):
        layer = node.op_type in WEIGHTED and not node.domain and node.input[1] in graph.constants
        if not layer and not leading.intersection(node.output):
            continue
        leading.update(node.input)
        floats = all(types.get(name) == TensorProto.FLOAT for name in node.output)
        if reached.intersection(node.output) and node.op_type in HALVED and not node.domain and floats:
            found[node.name] = node
    return found
