"""The framing of single figures (:func:`onnxferry.train.preprocessing.crop_foreground`) in few operators.

A capture of the trainer's code starts a hundred operators a run, most of them on a handful of numbers: for a small network that takes
longer than its convolutions. Here both axes of the image are worked on together: it is padded to a square, and beside it lies its
transpose, so that whatever is computed of rows is computed of columns too. It replaces what was captured, and is verified as part of the
whole graph, against the trainer's code.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch

from onnxferry.export.graphs.nodes import subgraphs
from onnxferry.export.source import Candidate, Strategy
from onnxferry.export.sources.pytorch.module import TorchSource
from onnxferry.export.tasks.image_graph import Nodes
from onnxferry.train.preprocessing import BOX, BOX_THRESHOLD, MASS_THRESHOLD, MIDDLE, MIN_CONTRAST, Preprocessing, placed_extents

LEAST_OPSET = 18
"""Of the operators below, Split with num_outputs and reductions with axes as an input are the youngest."""


_STEEP = 1e6
"""Slope of the ramp that stands for ``> BOX_THRESHOLD``: strengths are quotients of two whole numbers up to 255, and none lies on it."""


def task_source(task: torch.nn.Module, example: Mapping[str, torch.Tensor], **named: Any) -> TorchSource:
    """Of a recogniser or an encoder, with ``task.preprocess``."""
    framing = _framing_of(task)
    return (_FramedSource if framing is not None and framing.kind == "ink" else TorchSource)(task, example, **named)


def _framing_of(task: object) -> Preprocessing | None:
    found = getattr(task, "preprocess", None)
    return found if isinstance(found, Preprocessing) else None


class _FramedSource(TorchSource):
    """One whose framing is replaced by :func:`framing_nodes`."""

    def strategies(self, opset: int) -> Sequence[Strategy]:
        framing = _framing_of(self.module)
        if opset < LEAST_OPSET or framing is None:
            return super().strategies(opset)
        channels, size = int(self.examples["image"].shape[3]), framing.size

        def leaner(strategy: Strategy) -> Strategy:
            def build() -> Candidate:
                candidate = strategy.build()
                replace_framing(candidate.model, channels, size)
                return candidate

            return dataclasses.replace(strategy, build=build)

        return [leaner(strategy) for strategy in super().strategies(opset)]


def replace_framing(model: onnx.ModelProto, channels: int, size: int) -> bool:
    """Puts the few operators in place of those between ``image`` and the network's normalization. False where that is not found."""
    graph = model.graph
    normalizing = [node for node in graph.node if node.op_type == "Sub" and node.input[1].endswith("network.mean")]
    if len(normalizing) != 1:
        return False
    framed = normalizing[0].input[0]  # whose name stays
    nodes = framing_nodes("image", framed, channels, size)
    others = [node for node in graph.node if framed not in node.output]
    kept = needed_nodes([*nodes, *others], [output.name for output in graph.output])
    del graph.node[:]
    graph.node.extend(kept)
    return True


def needed_nodes(nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]) -> list[onnx.NodeProto]:
    """The nodes that the outputs depend on, in their order. Names in subgraphs count as the outer graph's: none is used twice."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            inner = [each for attribute in node.attribute for graph in subgraphs(attribute) for each in graph.node]
            wanted.update(name for each in inner for name in each.input)
            kept.append(node)
    return kept[::-1]


def framing_nodes(image: str, out: str, channels: int, size: int) -> list[onnx.NodeProto]:
    """From ``image`` uint8 (batch, height, width, channels) to ``out`` float32 (batch, 1, size, size) in 0 … 1.

    n is the longer side of the image; of two axes, the first is the rows and the second the columns.
    """
    g = Nodes("onnxferry_framing_")
    whole, plane = g.constant([2, 3], "int64"), g.constant([1, 2, 3], "int64")
    pixels = g.cast(image, "float32")
    sides = g.op("Shape", image, start=1, end=3)  # int64 (2,)
    n = g.op("ReduceMax", sides, keepdims=0)
    # The background is the median of the outermost ring, which has twice as many pixels as height and width together.
    first, last = g.constant(0, "int64"), g.constant(-1, "int64")
    ring = g.op("Concat", *(g.op("Gather", pixels, end, axis=axis) for axis in (1, 2) for end in (first, last)), axis=1)
    upper, _ = _two(g, "TopK", ring, g.op("ReduceSum", sides, keepdims=1), axis=1)
    background = g.op("Gather", upper, g.constant([[-1]], "int64"), axis=1)  # (batch, 1, 1, channels)
    distance = g.op("Abs", g.op("Sub", pixels, background))
    if channels > 1:
        distance = g.op("ReduceMax", distance, g.constant([3], "int64"), keepdims=1)
    peak = g.op("Max", g.op("ReduceMax", distance, plane, keepdims=1), g.constant(255 * MIN_CONTRAST))
    # Not before: ONNX Runtime would move it past the operators above, and leave several in its place.
    strength = g.op("Transpose", g.op("Div", distance, peak), perm=[0, 3, 1, 2])  # (batch, 1, height, width)
    ends = g.op("Concat", g.constant([0] * 6, "int64"), g.op("Sub", n, sides), axis=0)
    square = g.op("Pad", strength, ends)
    both = g.op("Concat", g.op("Transpose", square, perm=[0, 1, 3, 2]), square, axis=1)  # (batch, 2, n, n)
    # Half of how many source pixels an output pixel takes: of the axis with more rows, or columns, that hold some foreground.
    lines = g.op("ReduceMax", both, g.constant([2], "int64"), keepdims=1)  # (batch, 2, 1, n)
    holds = g.op("HardSigmoid", lines, alpha=_STEEP, beta=-_STEEP * BOX_THRESHOLD)
    longest = g.op("ReduceMax", g.op("ReduceSum", holds, whole, keepdims=1), g.constant([1], "int64"), keepdims=1)
    half = g.op("Mul", longest, g.constant(0.5 / (BOX * size)))  # (batch, 1, 1, 1)
    low, high = ((extent + edge) * 0.5 / (BOX * size) for extent, edge in zip(placed_extents(size), (-0.5, 0.5), strict=True))
    placed = g.op("Equal", g.op("Clip", half, g.constant(low), g.constant(high)), half)
    half = g.op("Where", placed, g.constant(0.5), half)
    # The centre of mass of each axis.
    index = g.op("Range", g.constant(0.0), g.cast(n, "float32"), g.constant(1.0))
    mass = g.op("ReduceSum", g.op("ThresholdedRelu", both, alpha=MASS_THRESHOLD), g.constant([2], "int64"), keepdims=1)
    shares = g.op("LpNormalization", mass, axis=3, p=1)  # 0 where there is none
    centre = g.op("ReduceSum", g.op("Mul", shares, index), g.constant([3], "int64"), keepdims=1)  # (batch, 2, 1, 1)
    offset = MIDDLE * size
    whole_pixel = g.op("Round", centre) if size % 2 == 0 else g.op("Floor", centre)
    at = offset - (0.5 if size % 2 == 0 else 0.0)
    if abs(at) > 1e-6:
        whole_pixel = g.op("Add", whole_pixel, g.constant(at))
    centre = g.op("Where", placed, whole_pixel, centre)
    # Each output pixel's overlap with each source pixel, of two intervals of which one is 1 long, as a share of its own length.
    steps = 2 * (np.arange(size).reshape(-1, 1) + (0.5 - size / 2) - offset)
    middle = g.op("Add", centre, g.op("Mul", g.constant(steps), half))  # (batch, 2, size, 1)
    away = g.op("Abs", g.op("Sub", middle, index))
    half = g.op("Max", half, g.constant(0.5))
    overlap = g.op("HardSigmoid", g.op("Sub", half, away), alpha=1.0, beta=0.5)
    down, across = _two(g, "Split", g.op("Div", overlap, half), axis=1)
    framed = g.op("MatMul", g.op("MatMul", down, square), g.op("Transpose", across, perm=[0, 1, 3, 2]))
    g.op("Mul", framed, g.constant(0.25), out=out)  # both were divided by half of the length
    return g.made


def _two(g: Nodes, kind: str, *inputs: str, **attributes: Any) -> tuple[str, str]:
    """A node of two outputs."""
    first = g.op(kind, *inputs, **attributes)
    node = g.made[-1]
    if kind == "Split":
        node.attribute.append(onnx.helper.make_attribute("num_outputs", 2))
    node.output.append(f"{first}_second")
    return first, f"{first}_second"
