"""The nodes of an :class:`~onnxferry.export.tasks.image_input.ImageInput`: an image of any size in, what the model takes out.

Resizing is one matrix product per axis. Row i of a matrix holds the weights of the source pixels in output pixel i: a filter (a triangle,
or Keys' cubic with a = -1/2) around the place that i comes from, as wide as the image shrinks, and normalized, as Pillow has it
(https://github.com/python-pillow/Pillow, src/libImaging/Resample.c). Places are computed in float64, whose rounding does not show in
the weights of a large image. Only operators are used whose meaning is the same in every operator set from 11, and constants are nodes,
so that the nodes go into any file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxferry.export.tasks.image_input import ImageInput

LEAST_OPSET = 11


class Nodes:
    """Nodes in the making; values are their names, which begin with ``prefix``."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.made: list[onnx.NodeProto] = []

    def op(self, kind: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        name = out or f"{self.prefix}{len(self.made)}"
        self.made.append(helper.make_node(kind, list(inputs), [name], name=f"{self.prefix}{kind}_{len(self.made)}", **attributes))
        return name

    def constant(self, values: Any, dtype: str = "float32") -> str:
        return self.op("Constant", value=numpy_helper.from_array(np.asarray(values, dtype)))

    def cast(self, value: str, dtype: str) -> str:
        return self.op("Cast", value, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def image_nodes(image: ImageInput, name: str, out: str, layout: str, dtype: str) -> list[onnx.NodeProto]:
    """From the value ``name``, uint8 (batch, height, width, channels), to ``out``, as :meth:`ImageInput.arranged` defines it."""
    g = Nodes("onnxferry_image_")
    pixels = g.op("Transpose", g.cast(name, "float32"), perm=[0, 3, 1, 2])  # (batch, channels, height, width)
    shape = g.op("Shape", name)
    lengths = [g.op("Gather", shape, g.constant([axis], "int64"), axis=0) for axis in (1, 2)]  # int64 (1,)
    down, inside_down = _weights(g, image, lengths, 0)
    across, inside_across = _weights(g, image, lengths, 1)
    pixels = g.op("MatMul", g.op("MatMul", down, pixels), g.op("Transpose", across, perm=[1, 0]))
    if image.fit == "pad" and image.pad_value:
        inside = g.op("MatMul", inside_down, g.op("Transpose", inside_across, perm=[1, 0]))  # (height, width), 1 where the image is
        outside = g.op("Sub", g.constant(1.0), inside)
        pixels = g.op("Add", pixels, g.op("Mul", outside, g.constant(image.pad_value)))
    if image.color == "bgr":
        pixels = g.op("Gather", pixels, g.constant([2, 1, 0], "int64"), axis=1)
    if image.scale != 1:
        pixels = g.op("Mul", pixels, g.constant(image.scale))
    for kind, values, neutral in (("Sub", image.mean, 0.0), ("Div", image.std, 1.0)):
        if set(values) != {neutral}:
            pixels = g.op(kind, pixels, g.constant(np.reshape(values, (-1, 1, 1))))
    if np.dtype(dtype).kind in "iu":
        limits = np.iinfo(dtype)
        pixels = g.op("Min", g.op("Max", g.op("Round", pixels), g.constant(limits.min)), g.constant(limits.max))
    if layout in ("nhwc", "flat"):
        pixels = g.op("Transpose", pixels, perm=[0, 2, 3, 1])
    if layout == "flat":
        pixels = g.op("Reshape", pixels, g.constant([-1, image.height * image.width * image.channels], "int64"))
    if layout == "nhw":
        pixels = g.op("Reshape", pixels, g.constant([-1, image.height, image.width], "int64"))
    g.op("Cast", pixels, out=out, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
    return g.made


def _weights(g: Nodes, image: ImageInput, lengths: Sequence[str], axis: int) -> tuple[str, str]:
    """Of one axis: float32 (size, source length), and float32 (size, 1), 0 for output pixels in the frame."""
    size, source = (image.height, image.width)[axis], lengths[axis]
    new = _new_length(g, image, lengths, axis)  # int64 (1,)
    gap = g.cast(g.op("Sub", new, g.constant([size], "int64")), "float64")
    half = g.op("Mul", gap, g.constant(0.5, "float64"))
    # Half a pixel too many: as torchvision's CenterCrop, and for a frame as the definition, which rounds down.
    start = g.op("Round", half) if image.fit != "pad" else g.op("Ceil", half)
    place = g.op("Add", start, g.constant(np.arange(size).reshape(-1, 1), "float64"))  # float64 (size, 1), in the resized image
    last = g.op("Sub", g.cast(new, "float64"), g.constant(1.0, "float64"))
    kept = g.op("Min", g.op("Max", place, g.constant(0.0, "float64")), last)
    inside = g.cast(g.op("Equal", g.cast(place, "int64"), g.cast(kept, "int64")), "float32")
    ratio = g.op("Div", g.cast(source, "float64"), g.cast(new, "float64"))
    middle = g.op("Add", kept, g.constant(0.5, "float64"))
    at = g.op("Div", g.op("Mul", middle, g.cast(source, "float64")), g.cast(new, "float64"))  # in the source
    whole = g.op("Floor", at)
    pixel = g.op("Range", g.constant(0, "int64"), g.op("Squeeze", source), g.constant(1, "int64"))
    away = g.op("Sub", g.cast(pixel, "float32"), g.cast(whole, "float32"))  # (size, source length), exact: whole numbers
    if image.interpolation != "nearest":
        away = g.op("Sub", away, g.cast(g.op("Sub", g.op("Sub", at, whole), g.constant(0.5, "float64")), "float32"))
    if image.interpolation in ("bilinear", "bicubic"):
        away = g.op("Div", away, g.cast(g.op("Max", ratio, g.constant(1.0, "float64")), "float32"))
    weights = _filter(g, g.op("Abs", away), image.interpolation)
    ones = g.op("Expand", g.constant([[1.0]]), g.op("Concat", source, g.constant([1], "int64"), axis=0))
    weights = g.op("Div", weights, g.op("MatMul", weights, ones))
    return (g.op("Mul", weights, inside) if image.fit == "pad" else weights), inside


def _filter(g: Nodes, x: str, interpolation: str) -> str:
    """The weight at a distance ``x``."""
    zero, one, two = g.constant(0.0), g.constant(1.0), g.constant(2.0)
    if interpolation != "bicubic":
        return g.op("Max", g.op("Sub", one, x), zero)
    near = g.op("Sub", g.op("Mul", x, g.constant(1.5)), g.constant(2.5))
    near = g.op("Add", g.op("Mul", g.op("Mul", near, x), x), one)
    far = g.op("Add", g.op("Mul", x, g.constant(-0.5)), g.constant(2.5))
    far = g.op("Add", g.op("Mul", g.op("Sub", g.op("Mul", far, x), g.constant(4.0)), x), two)
    return g.op("Where", g.op("Less", x, one), near, g.op("Where", g.op("Less", x, two), far, zero))


def _new_length(g: Nodes, image: ImageInput, lengths: Sequence[str], axis: int) -> str:
    """As :meth:`ImageInput.sizes`: int64 (1,)."""
    size, other_size = ((image.height, image.width), (image.width, image.height))[axis]
    source, other = lengths[axis], lengths[1 - axis]
    if image.fit == "stretch":
        return g.constant([size], "int64")

    def larger(a: str, b: str) -> str:  # Max and Min of int64 are younger than operator set 11
        return g.op("Where", g.op("Less", a, b), b, a)

    def smaller(a: str, b: str) -> str:
        return g.op("Where", g.op("Less", a, b), a, b)

    if image.resize is not None:
        return g.op("Div", g.op("Mul", source, g.constant([image.resize], "int64")), smaller(source, other))
    fitting = g.op("Div", g.op("Mul", source, g.constant([other_size], "int64")), other)
    if image.fit == "crop":
        return larger(g.constant([size], "int64"), fitting)
    return smaller(g.constant([size], "int64"), larger(g.constant([1], "int64"), fitting))
