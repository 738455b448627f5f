"""Exact rewrites: another graph of the same function, differing by no more than how float32 sums are rounded (some 1e-7).

Each takes a model, changes it in place and returns how many places it changed. What they win is told where they stand; whether
a model wins by them is measured (``optimize.py``), and each is proved at several shapes in ``tests/export/test_rewrite.py``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxferry.export.graphs.cleanup import all_nodes, subgraphs

SPATIAL_AXES = (2, 3)


# Operators that work on each number alone, so that they may change places with what only moves numbers.
ELEMENTWISE = ("Relu", "LeakyRelu", "Sigmoid", "Tanh")


@dataclass
class Graph:
    """A graph with what a rewrite asks of it. Only the outer graph is rewritten; subgraphs count as readers."""

    model: onnx.ModelProto
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    producers: dict[str, onnx.NodeProto] = field(default_factory=dict)
    readers: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        graph = self.model.graph
        # An initialiser that is an input too is only a default: callers may feed something else.
        fed = {value.name for value in graph.input}
        self.constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer if t.name not in fed}
        self.producers = {}
        for node in graph.node:
            if node.op_type == "Constant" and not node.domain and node.attribute[0].name == "value":
                self.constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
            self.producers.update({name: node for name in node.output if name})
        self._shapes: dict[str, list[int]] = {}
        self.readers = Counter(value.name for value in graph.output)
        for node in all_nodes(self.model):
            self.readers.update(name for name in node.input if name)
        for subgraph in _inner_graphs(self.model):
            self.readers.update(value.name for value in subgraph.output)
        self._taken = {name for node in all_nodes(self.model) for name in (node.name, *node.input, *node.output)} | set(self.constants)

    def shape(self, name: str) -> list[int]:
        """Sizes by axis as ONNX infers them, 0 where unknown; empty where nothing is known."""
        if not self._shapes:
            inferred = onnx.shape_inference.infer_shapes(self.model).graph
            for value in (*inferred.input, *inferred.value_info, *inferred.output):
                if value.type.tensor_type.HasField("shape"):
                    self._shapes[value.name] = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        return self._shapes.get(name, [])

    def sole_reader(self, name: str) -> onnx.NodeProto | None:
        """The one node of the outer graph that reads ``name``; None where there are others, or it is an output."""
        if self.readers[name] != 1:
            return None
        return next((node for node in self.model.graph.node if name in node.input), None)

    def name(self, stem: str) -> str:
        """A name nobody has."""
        name, number = stem, 1
        while name in self._taken:
            name, number = f"{stem}_{number}", number + 1
        self._taken.add(name)
        return name

    def constant(self, stem: str, array: np.ndarray) -> str:
        name = self.name(stem)
        self.model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        self.constants[name] = array
        return name

    def replace(self, old: Sequence[onnx.NodeProto], new: Iterable[onnx.NodeProto]) -> None:
        """``new`` where the last of ``old`` stood (what they read is there by then); ``old`` go."""
        nodes = list(self.model.graph.node)
        gone = {id(node) for node in old}
        place = max(index for index, node in enumerate(nodes) if id(node) in gone)
        kept = [node for node in nodes[:place] if id(node) not in gone]
        rest = [node for node in nodes[place + 1 :] if id(node) not in gone]
        copies = [_copy(node) for node in (*kept, *new, *rest)]
        del self.model.graph.node[:]
        self.model.graph.node.extend(copies)
        drop_unused(self.model)
        self.__post_init__()


def split_transposed_convolutions(model: onnx.ModelProto) -> int:
    """Every strided ConvTranspose as one Conv that makes all output phases at once, and DepthToSpace that interleaves them.

    ONNX Runtime's ConvTranspose is its slow spot on the CPU and has no int8 kernel; Conv is its best. Taps that a phase lacks
    are zeros, so a kernel that is no multiple of the stride costs a little more arithmetic, none of it seen.
    Source: Shi et al. 2016, "Is the deconvolution layer the same as a convolutional layer?", arXiv:1609.07009.
    """
    return everywhere(model, "ConvTranspose", _split_transposed)


def join_upsampling(model: onnx.ModelProto) -> int:
    """A convolution after nearest-neighbour upsampling as one on the small picture: the taps that read the same pixel are summed.

    Doubling before 3 × 3 reads every pixel two or four times: 9 products a pixel become 4. A 1 × 1 convolution just goes first.
    """
    return everywhere(model, "Conv", _join_upsampled)


def everywhere(model: onnx.ModelProto, operator: str, rewrite: Callable[[Graph, onnx.NodeProto], bool]) -> int:
    """Try ``rewrite`` on each node of that operator once; how many it changed."""
    changed, tried = 0, set[str]()
    while True:
        graph = Graph(model)
        node = next((n for n in model.graph.node if n.op_type == operator and not n.domain and n.output[0] not in tried), None)
        if node is None:
            return changed
        tried.add(node.output[0])
        changed += rewrite(graph, node)


def _split_transposed(graph: Graph, node: onnx.NodeProto) -> bool:
    weight = graph.constants.get(node.input[1])  # (inputs, outputs, height, width)
    bias = graph.constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    facts = attributes(node)
    if weight is None or weight.ndim != 4 or (len(node.input) > 2 and node.input[2] and bias is None):
        return False
    strides = facts.get("strides", [1, 1])
    plain = facts.get("group", 1) == 1 and facts.get("dilations", [1, 1]) == [1, 1] and facts.get("auto_pad", b"NOTSET") == b"NOTSET"
    if not plain or "output_shape" in facts or strides[0] != strides[1] or strides[0] < 2:
        return False
    stride = int(strides[0])
    pads, extra = facts.get("pads", [0] * 4), facts.get("output_padding", [0, 0])
    inputs, outputs, *kernel = weight.shape
    taps = []
    for axis in range(2):
        low, high = pads[axis], pads[axis + 2]
        # As many as the kernel needs, and as many that the picture reaches as far as it is asked to.
        taps.append(max(math.ceil(kernel[axis] / stride), math.ceil((kernel[axis] + extra[axis] - high) / stride)))
        if low < 0 or high < 0:
            return False
    padded = np.zeros((inputs, outputs, taps[0] * stride, taps[1] * stride), weight.dtype)
    padded[:, :, : kernel[0], : kernel[1]] = weight
    # Output stride * j + phase reads input j - t by tap phase + stride * t; a convolution's taps run the other way.
    parts = padded.reshape(inputs, outputs, taps[0], stride, taps[1], stride)[:, :, ::-1, :, ::-1, :]
    phases = parts.transpose(3, 5, 1, 0, 2, 4).reshape(stride * stride * outputs, inputs, *taps)
    crops = []
    for axis in range(2):
        surplus = stride * taps[axis] + pads[axis + 2] - kernel[axis] - extra[axis]
        crops.append((pads[axis], surplus))
    borders = [taps[0] - 1, taps[1] - 1] * 2
    _phases(graph, [node], node.input[0], phases, bias, borders, stride, crops, node.output[0])
    return True


def _join_upsampled(graph: Graph, node: onnx.NodeProto) -> bool:
    resize = graph.producers.get(node.input[0])
    weight = graph.constants.get(node.input[1])  # (outputs, inputs, height, width)
    bias = graph.constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    facts = attributes(node)
    factor = 0 if resize is None else nearest_factor(graph, resize)
    if resize is None or factor < 2 or weight is None or weight.ndim != 4 or (len(node.input) > 2 and node.input[2] and bias is None):
        return False
    size = weight.shape[2]
    plain = facts.get("group", 1) == 1 and facts.get("dilations", [1, 1]) == [1, 1] and facts.get("strides", [1, 1]) == [1, 1]
    if not plain or facts.get("auto_pad", b"NOTSET") != b"NOTSET" or weight.shape[2:] != (size, size) or size % 2 == 0:
        return False
    if facts.get("pads", [0] * 4) != [size // 2] * 4:
        return False
    if size == 1:
        if weight.shape[0] > weight.shape[1]:
            return False  # more numbers to double than before
        small = graph.name(f"{node.output[0]}_small")
        first = helper.make_node("Conv", [resize.input[0], *node.input[1:]], [small], name=graph.name(f"{node.output[0]}_before"))
        first.attribute.extend(node.attribute)
        later = helper.make_node("Resize", [small, *resize.input[1:]], [node.output[0]], name=graph.name(f"{node.output[0]}_after"))
        later.attribute.extend(resize.attribute)
        graph.replace([node], [first, later])
        return True
    # Output factor * j + phase reads by tap q the small pixel j + floor((phase - border + q) / factor).
    reads = [[(phase - size // 2 + q) // factor for q in range(size)] for phase in range(factor)]
    least = min(map(min, reads))
    offsets = [min(row) - least for row in reads]
    taps = max(max(row) - min(row) for row in reads) + 1
    shift = next((c for c in range(factor) if sorted(_slots(offsets, factor, c)) == list(range(factor))), None)
    if shift is None or taps >= size:
        return False
    outputs, inputs = weight.shape[:2]
    order = _slots(offsets, factor, shift)
    phases = np.zeros((factor, factor, outputs, inputs, taps, taps), np.float64)
    for a, row in enumerate(reads):
        for b, column in enumerate(reads):
            for q, y in enumerate(row):
                for p, x in enumerate(column):
                    phases[order[a], order[b], :, :, y - min(row), x - min(column)] += weight[:, :, q, p]
    high = max(offsets) + least + taps - 1
    crop = (shift, factor * max(offsets) - shift)
    stacked = phases.reshape(factor * factor * outputs, inputs, taps, taps).astype(weight.dtype)
    _phases(graph, [node], resize.input[0], stacked, bias, [-least, -least, high, high], factor, [crop, crop], node.output[0])
    return True


def _slots(offsets: Sequence[int], factor: int, shift: int) -> list[int]:
    """Where each phase stands among the interleaved ones, if the picture starts ``shift`` pixels in."""
    return [phase + shift - factor * offset for phase, offset in enumerate(offsets)]


def _phases(
    graph: Graph,
    old: list[onnx.NodeProto],
    source: str,
    weight: np.ndarray,
    bias: np.ndarray | None,
    pads: Sequence[int],
    stride: int,
    crops: Sequence[tuple[int, int]],
    output: str,
) -> None:
    """Conv (phases row by row, channels innermost) → what works on each number → DepthToSpace → Slice, in place of ``old``."""
    stem = output
    inputs = [source, graph.constant(f"{stem}_phases", weight)]
    if bias is not None:
        inputs.append(graph.constant(f"{stem}_phase_bias", np.tile(bias, stride * stride)))
    value = graph.name(f"{stem}_convolved")
    new = [helper.make_node("Conv", inputs, [value], name=graph.name(f"{stem}_conv"), kernel_shape=list(weight.shape[2:]), pads=list(pads))]
    follower = graph.sole_reader(output)
    if follower is not None and follower.op_type in ELEMENTWISE and not follower.domain:
        # Before the numbers are moved, ONNX Runtime fuses it into the convolution.
        old = [*old, follower]
        moved = _copy(follower)
        moved.input[0], output = value, follower.output[0]
        value = graph.name(f"{stem}_active")
        moved.output[0] = value
        new.append(moved)
    cropped = any(pair != (0, 0) for pair in crops)
    whole = graph.name(f"{stem}_interleaved") if cropped else output
    new.append(helper.make_node("DepthToSpace", [value], [whole], name=graph.name(f"{stem}_depth_to_space"), blocksize=stride, mode="DCR"))
    if cropped:
        starts = graph.constant(f"{stem}_starts", np.array([low for low, _ in crops], np.int64))
        ends = graph.constant(f"{stem}_ends", np.array([-high if high else np.iinfo(np.int64).max for _, high in crops], np.int64))
        axes = graph.constant(f"{stem}_axes", np.array(SPATIAL_AXES, np.int64))
        new.append(helper.make_node("Slice", [whole, starts, ends, axes], [output], name=graph.name(f"{stem}_crop")))
    graph.replace(old, new)


def nearest_factor(graph: Graph, node: onnx.NodeProto) -> int:
    """By how much a Resize repeats every pixel of both axes; 0 where it does something else."""
    facts = attributes(node)
    if node.op_type != "Resize" or node.domain or facts.get("mode", b"nearest") != b"nearest":
        return 0
    if facts.get("coordinate_transformation_mode") != b"asymmetric" or facts.get("nearest_mode") != b"floor":
        return 0
    scales = graph.constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if scales is None or scales.size != 4 or len(node.input) > 3 or "axes" in facts:
        return 0
    batch, channels, height, width = (float(s) for s in scales.ravel())
    if (batch, channels) != (1.0, 1.0) or height != width or height != int(height):
        return 0
    return int(height)


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """A node's attributes by name, lists as lists, strings as bytes."""
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return {name: list(v) if isinstance(v, Iterable) and not isinstance(v, bytes | str) else v for name, v in values.items()}


def drop_unused(model: onnx.ModelProto) -> None:
    """Remove nodes of the outer graph that nobody reads, then initialisers that nobody reads."""
    graph = model.graph
    while True:
        used = {value.name for value in graph.output}
        for node in all_nodes(model):
            used.update(node.input)
        for subgraph in _inner_graphs(model):
            used.update(value.name for value in subgraph.output)
        kept = [_copy(node) for node in graph.node if used.intersection(node.output)]
        if len(kept) == len(graph.node):
            break
        del graph.node[:]
        graph.node.extend(kept)
    fed = {value.name for value in graph.input}
    tensors = [tensor for tensor in graph.initializer if tensor.name in used or tensor.name in fed]
    if len(tensors) < len(graph.initializer):
        copies = []
        for tensor in tensors:
            copy = onnx.TensorProto()
            copy.CopyFrom(tensor)
            copies.append(copy)
        del graph.initializer[:]
        graph.initializer.extend(copies)


def _inner_graphs(model: onnx.ModelProto) -> list[onnx.GraphProto]:
    return [graph for node in all_nodes(model) for attribute in node.attribute for graph in subgraphs(attribute)]


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    """A copy that outlives the list it stood in."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy
