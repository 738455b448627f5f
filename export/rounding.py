"""Weights of few bits, rounded so that their errors make up for each other in what a layer gives, not each to its nearest number.

A layer's answer is a sum. Once one weight is rounded, those still to be rounded are moved a little so that, over the inputs that
the layer really gets, the sum stays. Nothing is learnt, no answer is known: only the layer's own inputs on the calibration data.
Of a convolution these are patches of the picture. It costs seconds, and the file neither a byte nor a moment.

Source: Frantar, Ashkboos, Hoefler and Alistarh 2022, "GPTQ: accurate post-training quantization for generative pre-trained
transformers", arXiv 2210.17323, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxferry.export.rewrite import Graph, attributes
from onnxferry.runtime.engine import Engine

ROWS = 16_384
"""Patches that a layer's inputs are known by."""

AT_ONCE = 16  # samples that are run together: all inner values of them are held in memory
BLOCK = 128  # weights of a row that are rounded before the rest of the row hears of it: one matrix product instead of many

DAMPING = 0.01
"""Of the mean square of an input, added to each: inputs that were never seen must not be free."""


@dataclass
class _Layer:
    """A layer whose weights are 8-bit numbers with a scale each output."""

    node: onnx.NodeProto  # in the original graph
    weights: str  # name of the 8-bit tensor in the quantised one
    scales: np.ndarray  # float64 (outputs, 1)
    transposed: bool  # a dense layer's weights as (inputs, outputs)
    kernel: tuple[int, ...]  # (height, width) of a convolution's
    moments: np.ndarray = field(default_factory=lambda: np.zeros(0))  # sums of products of inputs (inputs, inputs)


def compensate(quantised: onnx.ModelProto, original: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> int:
    """Round the 8-bit weights of ``quantised`` again, in place: scales stay. How many layers it did.

    ``original``: the graph it was made of, with the same node names. ``feeds``: rows by input name. Layers that it does not know
    (groups, dilations, weights that are no constants) stay as they are.
    """
    source = Graph(original)
    layers = _layers(quantised, source)
    if not layers:
        return 0
    _add_moments(layers, original, feeds)
    tensors = {tensor.name: tensor for tensor in quantised.graph.initializer}
    for layer in layers:
        tensor = tensors[layer.weights]
        nearest = numpy_helper.to_array(tensor)
        weight = source.constants[layer.node.input[1]]
        rows = weight.T if layer.transposed else weight.reshape(len(weight), -1)
        most = int(np.abs(nearest.astype(np.int64)).max(initial=1))
        rounded = round_rows(rows.astype(np.float64), layer.scales, layer.moments, most)
        whole = rounded.T if layer.transposed else rounded.reshape(weight.shape)
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(whole.astype(nearest.dtype)), tensor.name))
    return len(layers)


def round_rows(weights: np.ndarray, scales: np.ndarray, moments: np.ndarray, most: int) -> np.ndarray:
    """Whole numbers of at most ``most`` that, times ``scales``, stand for ``weights``: float64 (outputs, inputs), (outputs, 1).

    ``moments``: mean products of the inputs, (inputs, inputs). Minimises the square error of weights @ inputs, greedily.
    """
    inputs = weights.shape[1]
    damped = moments + np.eye(inputs) * (DAMPING * np.trace(moments) / inputs + np.finfo(np.float64).tiny ** 0.5)
    # Row k of the factor says how what is left must change for an error in k, once all before it are settled.
    factor = np.linalg.cholesky(np.linalg.inv(damped)).T
    left = weights.copy()
    rounded = np.zeros_like(weights)
    for start in range(0, inputs, BLOCK):
        end = min(start + BLOCK, inputs)
        errors = np.zeros((len(weights), end - start))
        for k in range(start, end):
            rounded[:, k] = np.clip(np.rint(left[:, k] / scales[:, 0]), -most, most)
            errors[:, k - start] = (left[:, k] - rounded[:, k] * scales[:, 0]) / factor[k, k]
            left[:, k:end] -= errors[:, k - start, None] * factor[None, k, k:end]
        left[:, end:] -= errors @ factor[start:end, end:]
    return rounded


def _layers(quantised: onnx.ModelProto, source: Graph) -> list[_Layer]:
    producers = {name: node for node in quantised.graph.node for name in node.output}
    tensors = {tensor.name: tensor for tensor in quantised.graph.initializer}
    originals = {node.name: node for node in source.model.graph.node}
    found = []
    for node in quantised.graph.node:
        original = originals.get(node.name)
        widened = producers.get(node.input[1]) if node.op_type in ("Conv", "Gemm") else None
        if original is None or widened is None or widened.op_type != "DequantizeLinear" or widened.input[0] not in tensors:
            continue
        facts = attributes(original)
        transposed = original.op_type == "Gemm" and not facts.get("transB", 0)
        plain = facts.get("group", 1) == 1 and not facts.get("transA", 0) and facts.get("auto_pad", b"NOTSET") == b"NOTSET"
        weight = source.constants.get(original.input[1])
        if weight is None or not plain or any(d != 1 for d in facts.get("dilations", [])) or (node.op_type == "Conv" and weight.ndim != 4):
            continue
        scale = numpy_helper.to_array(tensors[widened.input[1]]).astype(np.float64)
        axis = attributes(widened).get("axis", 1)
        if tensors[widened.input[0]].data_type != TensorProto.INT8 or (scale.ndim and axis % weight.ndim != (1 if transposed else 0)):
            continue
        outputs = weight.shape[1 if transposed else 0]
        found.append(_Layer(original, widened.input[0], np.broadcast_to(scale.reshape(-1, 1), (outputs, 1)), transposed, weight.shape[2:]))
    return found


def _add_moments(layers: Sequence[_Layer], original: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> None:
    """Mean products of each layer's inputs, out of some runs of the original."""
    names = list(dict.fromkeys(layer.node.input[0] for layer in layers))
    shown = onnx.ModelProto()
    shown.CopyFrom(original)
    there = {value.name for value in shown.graph.output}
    shown.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names if name not in there)
    rows = min(len(array) for array in feeds.values() if array.ndim)
    starts = range(0, rows, AT_ONCE)
    rng = np.random.default_rng(0)
    counted = [0] * len(layers)
    with Engine(shown.SerializeToString(), device="cpu") as engine:
        for start in starts:
            values = engine.run({n: a[start : start + AT_ONCE] if a.ndim else a for n, a in feeds.items()}, names)
            for index, layer in enumerate(layers):
                value, most = values[layer.node.input[0]], -(-ROWS // len(starts))
                inputs = _inputs(layer.node, layer.kernel, value, most, rng).astype(np.float64)
                layer.moments = (layer.moments if layer.moments.size else 0) + inputs.T @ inputs
                counted[index] += len(inputs)
    for layer, count in zip(layers, counted, strict=True):
        layer.moments = layer.moments / count


def _inputs(node: onnx.NodeProto, kernel: Sequence[int], value: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """Some of what a layer multiplies its weights by: (rows, inputs). ``kernel``: (height, width), empty for a dense layer."""
    if not kernel:
        return value if len(value) <= most else value[rng.choice(len(value), most, replace=False)]
    facts = attributes(node)
    height, width = kernel
    top, left, bottom, right = facts.get("pads", [0] * 4)
    down, across = facts.get("strides", [1, 1])
    padded = np.pad(value, ((0, 0), (0, 0), (top, bottom), (left, right)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))[:, :, ::down, ::across]
    images, channels, rows, columns = windows.shape[:4]
    chosen = rng.choice(images * rows * columns, min(most, images * rows * columns), replace=False)
    image, row, column = np.unravel_index(chosen, (images, rows, columns))
    return windows[image, :, row, column].reshape(len(chosen), channels * height * width)
