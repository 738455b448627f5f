"""What a detector's network sees of an image (:class:`onnxferry.train.families.detector.Canvas`) in few operators.

A capture of the trainer's code makes a resampling matrix for each axis and multiplies by both, also where an image keeps its size, which
most do: it takes as long as several convolutions. Here an image that keeps its size is padded, and matrices are only made for a larger
one. It replaces what was captured, and is verified as part of the whole graph, against the trainer's code.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from onnxferry.export.families.framing import needed_nodes
from onnxferry.export.tasks.image_graph import Nodes
from onnxferry.train.families.detector import GRAIN
from onnxferry.train.preprocessing import MIN_CONTRAST

LEAST_OPSET = 18
"""Of the operators below and those of candidates.py, Pad with axes and reductions with axes as an input are the youngest."""


FIRST_WEIGHT = "network.stem.0.0.weight"


def replace_canvas(model: onnx.ModelProto, framing: str, channels: int, size: int) -> bool:
    """Puts the few operators in place of those between ``image`` and the first convolution. False where that is not found."""
    graph = model.graph
    first = [node for node in graph.node if node.op_type == "Conv" and node.input[1] == FIRST_WEIGHT]
    if len(first) != 1:
        return False
    seen = first[0].input[0]  # whose name stays
    others = [node for node in graph.node if seen not in node.output]
    kept = needed_nodes([*canvas_nodes("image", seen, framing, channels, size), *others], [output.name for output in graph.output])
    del graph.node[:]
    graph.node.extend(kept)
    return True


def canvas_nodes(image: str, out: str, framing: str, channels: int, size: int) -> list[onnx.NodeProto]:
    """From ``image`` uint8 (batch, height, width, channels) to ``out`` float32 (batch, channels or 1, new height, new width)."""
    g = Nodes("onnxferry_canvas_")
    sides = g.op("Shape", image, start=1, end=3)  # int64 (2,)
    pixels = g.cast(image, "float32")
    if framing == "ink":
        pixels = _foreground(g, pixels, sides, channels)
    else:
        pixels = g.op("Sub", g.op("Mul", pixels, g.constant(4 / 255)), g.constant(2.0))
    planes = g.op("Transpose", pixels, perm=[0, 3, 1, 2])
    longest = g.op("ReduceMax", sides, keepdims=0)
    fits = g.op("Less", longest, g.constant(size + 1, "int64"))
    channels_out = 1 if framing == "ink" else channels
    g.op("If", fits, out=out, then_branch=_padded(planes, sides, channels_out), else_branch=_reduced(planes, sides, size, channels_out))
    return g.made


def _foreground(g: Nodes, pixels: str, sides: str, channels: int) -> str:
    """How far each pixel is from the median of the outermost ring, 0 … 1: float32 (batch, height, width, 1)."""
    first, last = g.constant(0, "int64"), g.constant(-1, "int64")
    ring = g.op("Concat", *(g.op("Gather", pixels, end, axis=axis) for axis in (1, 2) for end in (first, last)), axis=1)
    # The ring has twice as many pixels as height and width together. Its upper half is not put in order.
    upper = g.op("TopK", ring, g.op("ReduceSum", sides, keepdims=1), axis=1, sorted=0)
    g.made[-1].output.append(f"{upper}_places")
    background = g.op("ReduceMin", upper, g.constant([1], "int64"), keepdims=1)  # (batch, 1, channels)
    distance = g.op("Abs", g.op("Sub", pixels, g.op("Unsqueeze", background, g.constant([1], "int64"))))
    if channels > 1:
        distance = g.op("ReduceMax", distance, g.constant([3], "int64"), keepdims=1)
    peak = g.op("Max", g.op("ReduceMax", distance, g.constant([1, 2, 3], "int64"), keepdims=1), g.constant(255 * MIN_CONTRAST))
    return g.op("Div", distance, peak)


def _padded(planes: str, sides: str, channels: int) -> onnx.GraphProto:
    """Zeros to the right and below, until both sides are multiples of the grain."""
    g = Nodes("onnxferry_canvas_padded_")
    missing = g.op("Mod", g.op("Neg", sides), g.constant(GRAIN, "int64"))
    ends = g.op("Concat", g.constant([0, 0], "int64"), missing, axis=0)
    return _branch(g, g.op("Pad", planes, ends, "", g.constant([2, 3], "int64")), channels)


def _reduced(planes: str, sides: str, size: int, channels: int) -> onnx.GraphProto:
    """Averaged down, so that the longer side is ``size``."""
    g = Nodes("onnxferry_canvas_reduced_")
    longest = g.op("ReduceMax", sides, keepdims=1)  # int64 (1,)
    up = g.op("Sub", g.op("Add", g.op("Mul", sides, g.constant([size], "int64")), longest), g.constant([1], "int64"))
    new = g.op("Div", up, longest)  # rounded up, as all that follows of whole numbers
    new = g.op("Div", g.op("Add", new, g.constant([GRAIN - 1], "int64")), g.constant([GRAIN], "int64"))
    new = g.op("Mul", new, g.constant([GRAIN], "int64"))
    # In units of 1 / size of the image's pixel all places are whole numbers, which float32 holds exactly.
    step, whole = g.cast(longest, "float32"), g.constant([float(size)])  # of the result's pixels, and of the image's: float32 (1,)
    shape = g.constant([], "int64")
    matrices = []
    for axis in (0, 1):
        place = g.constant([axis], "int64")
        old, count = (g.op("Reshape", g.op("Gather", lengths, place, axis=0), shape) for lengths in (sides, new))
        source = g.op("Mul", g.op("Range", g.constant(0.0), g.cast(old, "float32"), g.constant(1.0)), whole)
        target = g.op("Range", g.constant(0.0), g.cast(count, "float32"), g.constant(1.0))
        low = g.op("Mul", g.op("Unsqueeze", target, g.constant([1], "int64")), step)  # (new length, 1)
        after = g.op("Min", g.op("Add", low, step), g.op("Add", source, whole))
        overlap = g.op("Relu", g.op("Sub", after, g.op("Max", low, source)))  # (new length, length)
        matrices.append(g.op("Div", overlap, step))
    down, across = matrices
    return _branch(g, g.op("MatMul", g.op("MatMul", down, planes), g.op("Transpose", across, perm=[1, 0])), channels)


def _branch(g: Nodes, value: str, channels: int) -> onnx.GraphProto:
    info = helper.make_tensor_value_info(value, TensorProto.FLOAT, ["batch", channels, "canvas_height", "canvas_width"])
    return helper.make_graph(g.made, f"{g.prefix}branch", [], [info])
