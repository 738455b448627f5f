"""Post-training quantization with error compensation (GPTQ).

After a weight is rounded, the weights of the same output that are not rounded yet are adjusted, so that over the layer's inputs on the
calibration data its output changes least. Neither training nor labels are needed. The inputs of a convolution are patches of the image.
It takes seconds, and changes neither the file's size nor its speed.

Source: Frantar, Ashkboos, Hoefler and Alistarh 2022, "GPTQ: accurate post-training quantization for generative pre-trained
transformers", arXiv 2210.17323, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from onnxferry.export.graphs.graph import Graph, attributes
from onnxferry.export.optimize.rewrites.calibration import InnerValues

ROWS = 16_384
"""Patches that a layer's inputs are known by."""


AT_ONCE = 16  # samples that are run together at most


BLOCK = 128  # weights of a row that are rounded before the rest of the row hears of it: one matrix product instead of many


DAMPING = 0.01
"""Of the mean square of an input, added to each: inputs that were never seen must not be free."""


Rounded = dict[tuple[str, bytes], np.ndarray]
"""Weights by the layer's name and its scales, as :func:`round_rows` gives them."""


def compensate(
    quantised: onnx.ModelProto, original: onnx.ModelProto, moments: Mapping[str, np.ndarray], known: Rounded | None = None
) -> int:
    """Round the 8-bit weights of ``quantised`` again, in place: scales stay. How many layers it did.

    ``original``: the graph it was made of, with the same node names. ``moments``: what :func:`layer_moments` says of it.
    Layers that are not in there stay as they are. ``known``: of the same original and moments; what is missing is computed and put in.
    """
    known = {} if known is None else known
    layers = _layers(original)
    producers = {name: node for node in quantised.graph.node for name in node.output}
    tensors = {tensor.name: tensor for tensor in quantised.graph.initializer}
    done = 0
    for node in quantised.graph.node:
        layer = layers.get(node.name)
        widened = producers.get(node.input[1]) if layer is not None and node.name in moments else None
        if layer is None or widened is None or widened.op_type != "DequantizeLinear" or widened.input[0] not in tensors:
            continue
        tensor = tensors[widened.input[0]]
        scale = numpy_helper.to_array(tensors[widened.input[1]]).astype(np.float64)
        by_output = scale.ndim == 0 or attributes(widened).get("axis", 1) % layer.weight.ndim == (1 if layer.transposed else 0)
        if tensor.data_type != TensorProto.INT8 or not by_output:
            continue
        nearest = numpy_helper.to_array(tensor)
        most = int(np.abs(nearest.astype(np.int64)).max(initial=1))
        scales = np.broadcast_to(scale.reshape(-1, 1), (len(layer.rows), 1))
        key = (node.name, scale.tobytes() + bytes([most]))
        if key not in known:
            made = round_rows(layer.rows.astype(np.float64), scales, moments[node.name].astype(np.float64), most)
            known[key] = made.astype(nearest.dtype)
        rounded = known[key]
        whole = rounded.T if layer.transposed else rounded.reshape(layer.weight.shape)
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(whole), tensor.name))
        done += 1
    return done


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


@dataclass(frozen=True)
class _Layer:
    """A layer that is a product of its weights with patches of its input, or with all of it."""

    node: onnx.NodeProto
    weight: np.ndarray
    transposed: bool  # a dense layer's weights as (inputs, outputs)

    @property
    def rows(self) -> np.ndarray:
        """The weights as (outputs, inputs)."""
        return self.weight.T if self.transposed else self.weight.reshape(len(self.weight), -1)

    @property
    def kernel(self) -> tuple[int, ...]:
        """(height, width) of a convolution's, empty for a dense layer."""
        return self.weight.shape[2:]


def _layers(original: onnx.ModelProto) -> dict[str, _Layer]:
    """By node name; those with groups, dilations, or weights that are no constants are left out."""
    graph = Graph(original)
    found = {}
    for node in original.graph.node:
        weight = graph.constants.get(node.input[1]) if node.op_type in ("Conv", "Gemm") and not node.domain else None
        if weight is None or weight.ndim != (4 if node.op_type == "Conv" else 2):
            continue
        facts = attributes(node)
        plain = facts.get("group", 1) == 1 and not facts.get("transA", 0) and facts.get("auto_pad", b"NOTSET") == b"NOTSET"
        if plain and all(each == 1 for each in facts.get("dilations", [])):
            found[node.name] = _Layer(node, weight, node.op_type == "Gemm" and not facts.get("transB", 0))
    return found


def moments_bytes(original: onnx.ModelProto) -> tuple[int, int]:
    """Memory of what :func:`layer_moments` gives, and of :func:`compensate` for its largest layer."""
    inputs = [layer.rows.shape[1] for layer in _layers(original).values()]
    # In float64: the moments, their inverse, its factor.
    return sum(each**2 for each in inputs) * 4, max(inputs, default=0) ** 2 * 8 * 3


def layer_moments(original: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Mean products of each layer's inputs on ``feeds`` (rows by input name), by node name: float32 (inputs, inputs)."""
    layers = _layers(original)
    names = list(dict.fromkeys(layer.node.input[0] for layer in layers.values()))
    parts = InnerValues(original, names, feeds, AT_ONCE)
    rng = np.random.default_rng(0)
    moments: dict[str, np.ndarray] = {}
    counted = dict.fromkeys(layers, 0)
    for values in parts:
        for name, layer in layers.items():
            inputs = _inputs(layer.node, layer.kernel, values[layer.node.input[0]], -(-ROWS // len(parts)), rng)
            product = inputs.T @ inputs
            moments[name] = moments[name] + product if name in moments else product
            counted[name] += len(inputs)
    return {name: each / counted[name] for name, each in moments.items()}


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
