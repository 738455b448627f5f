"""What a detector's network says, as candidates (:class:`onnxferry.train.families.detector.Candidates`), in few operators.

A capture of the trainer's code computes the map's size anew from the image's, in sixty operators on single numbers, and each edge of the
boxes for itself. Here the size is read from the map, and the edges are computed of the averages: they are sums of what is averaged. It
replaces what was captured, and is verified as part of the whole graph, against the trainer's code.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from onnxferry.export.families.framing import needed_nodes
from onnxferry.export.tasks.image_graph import Nodes
from onnxferry.train.families.detector import GRAIN, LARGEST_LOG, LEAST_WEIGHT, STRIDE, TYPICAL, DetectorConfig

HEAD_WEIGHT = "network.head.weight"


def replace_candidates(model: onnx.ModelProto, config: DetectorConfig, boxes: str, scores: str, classes: str) -> bool:
    """Puts the few operators in place of those behind the last convolution; the graph's outputs are named. False where it is not found."""
    graph = model.graph
    last = [node for node in graph.node if node.op_type == "Conv" and node.input[1] == HEAD_WEIGHT]
    if len(last) != 1:
        return False
    outputs = (boxes, scores, classes)
    others = [node for node in graph.node if not set(outputs) & set(node.output)]
    made = candidate_nodes("image", last[0].output[0], config, outputs)
    kept = needed_nodes([*others, *made], outputs)
    del graph.node[:]
    graph.node.extend(kept)
    return True


def candidate_nodes(image: str, said: str, config: DetectorConfig, outputs: tuple[str, str, str]) -> list[onnx.NodeProto]:
    """From ``image`` uint8 (batch, height, width, channels) and what the network says of it, float32 (batch, classes + 4, h, w), to
    ``outputs``: boxes float32 (batch, h * w, 4), scores float32 (batch, h * w), class_index int64 (batch, h * w).
    """
    g = Nodes("onnxferry_candidates_")
    boxes, scores, classes = outputs
    count = len(config.labels)
    logits, across, down, sides = _parts(g, said, [count, 1, 1, 2], 1)
    score = g.op("Sigmoid", g.op("ReduceMax", logits, g.constant([1], "int64"), keepdims=1))
    weight = g.op("Mul", score, score)
    half = g.op("Mul", g.op("Exp", g.op("Min", sides, g.constant(LARGEST_LOG))), g.constant(TYPICAL / 2 / STRIDE))  # in cells
    rows, columns = _middles(g, said, config.size)
    together = g.op("Concat", g.op("Add", across, columns), g.op("Add", down, rows), half, logits, axis=1)
    near: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [1, 1]}
    sums = g.op("AveragePool", g.op("Mul", together, weight), count_include_pad=1, **near)
    weights = g.op("Max", g.op("AveragePool", weight, count_include_pad=1, **near), g.constant(LEAST_WEIGHT))
    middle, half, logits = _parts(g, g.op("Div", sums, weights), [2, 2, count], 1)
    g.op("Flatten", g.op("ArgMax", logits, axis=1, keepdims=0), out=classes, axis=1)
    g.op("Flatten", score, out=scores, axis=1)
    edges = g.op("Concat", g.op("Sub", middle, half), g.op("Add", middle, half), axis=1)  # (batch, 4, h, w)
    lengths = g.cast(g.op("Shape", image, start=1, end=3), "float32")
    cell = g.op("Div", g.op("ReduceMax", lengths, keepdims=0), g.constant(config.size / STRIDE))  # of a larger image, its pixels
    pixels = g.op("Max", g.op("Mul", edges, g.op("Max", cell, g.constant(float(STRIDE)))), g.constant(0.0))
    most = g.op("Gather", lengths, g.constant(np.reshape([1, 0, 1, 0], (4, 1, 1)), "int64"), axis=0)
    corners = g.op("Reshape", g.op("Min", pixels, most), g.constant([0, 4, -1], "int64"))
    g.op("Transpose", corners, out=boxes, perm=[0, 2, 1])
    return g.made


def _parts(g: Nodes, value: str, sizes: list[int], axis: int) -> list[str]:
    first = g.op("Split", value, g.constant(sizes, "int64"), axis=axis)
    names = [first, *(f"{first}_{number}" for number in range(1, len(sizes)))]
    g.made[-1].output.extend(names[1:])
    return names


def _middles(g: Nodes, said: str, size: int) -> tuple[str, str]:
    """Where the middles of the cells lie, in cells: float32 (1, 1, h, 1) and (1, 1, 1, w)."""
    most = np.arange(-(-size // GRAIN) * GRAIN // STRIDE, dtype=np.float32) + 0.5
    lengths = _parts(g, g.op("Shape", said, start=2, end=4), [1, 1], 0)
    found = []
    for axis, length in zip((2, 3), lengths, strict=True):
        shape = [1, 1, 1, 1]
        shape[axis] = -1
        found.append(g.op("Slice", g.constant(most.reshape(shape)), g.constant([0], "int64"), length, g.constant([axis], "int64")))
    return found[0], found[1]
