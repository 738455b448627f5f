"""ConvTranspose and Resize, cheaper."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper

from onnxferry.export.graphs.graph import Graph, _copy, attributes, everywhere

SPATIAL_AXES = (2, 3)


# Operators that work on each number alone, so that they may change places with what only moves numbers.
ELEMENTWISE = ("Relu", "LeakyRelu", "Sigmoid", "Tanh")


def split_transposed_convolutions(model: onnx.ModelProto) -> int:
    """Every strided ConvTranspose as one Conv that makes all output phases at once, and DepthToSpace that interleaves them.

    ONNX Runtime's ConvTranspose is its slow spot on the CPU and has no int8 kernel; Conv is its best. Taps that a phase lacks
    are zeros, so a kernel that is no multiple of the stride costs a little more arithmetic, none of it seen.
    Source: Shi et al. 2016, "Is the deconvolution layer the same as a convolutional layer?", arXiv:1609.07009.
    """
    return everywhere(model, "ConvTranspose", _split_transposed)


def join_upsampling(model: onnx.ModelProto) -> int:
    """A convolution after nearest-neighbour upsampling as one on the small image: the taps that read the same pixel are summed.

    Doubling before 3 × 3 reads every pixel two or four times: 9 products a pixel become 4. A 1 × 1 convolution just goes first.
    """
    return everywhere(model, "Conv", _join_upsampled)


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
        # As many as the kernel needs, and as many that the image reaches as far as it is asked to.
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
    """Where each phase stands among the interleaved ones, if the image starts ``shift`` pixels in."""
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
