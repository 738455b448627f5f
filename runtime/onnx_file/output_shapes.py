"""The shapes that ONNX's operators give, as far as the shapes of what they get decide them, and the work of those that multiply.

Operators that are not listed here give tensors of unknown shape. Source: https://github.com/onnx/onnx/blob/main/docs/Operators.md.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from onnxferry.runtime.onnx_file.sizes import (
    Dimension,
    Shape,
    UnknownSizeError,
    axis_of,
    broadcast,
    computed,
    concatenated,
    gathered,
    multiplied,
    reshaped,
    slice_shape,
    split,
    squeezed,
    tiled,
    transposed,
    unsqueezed,
)


def names(words: str) -> frozenset[str]:
    return frozenset(words.split())


_KEPT = (
    names("Identity Cast CastLike Relu LeakyRelu Elu Selu Celu Gelu ThresholdedRelu HardSigmoid HardSwish Mish Swish Sigmoid Tanh PRelu")
    | names("Softplus Softsign Softmax LogSoftmax Hardmax Exp Log Sqrt Reciprocal Neg Abs Sign Floor Ceil Round Erf Sin Cos Tan Asin Acos")
    | names("Atan Sinh Cosh Asinh Acosh Atanh Not BitwiseNot IsNaN IsInf Clip Dropout BatchNormalization InstanceNormalization LRN Shrink")
    | names("LayerNormalization GroupNormalization RMSNormalization LpNormalization MeanVarianceNormalization CumSum Trilu QuantizeLinear")
    | names("DequantizeLinear DynamicQuantizeLinear FastGelu QuickGelu BiasGelu ScatterElements ScatterND Scatter ReverseSequence")
)
"""Operators whose first output has the shape of their first input."""


_BROADCAST = names("Add Sub Mul Div Mod Pow Max Min Sum Mean Where Equal Less LessOrEqual Greater GreaterOrEqual And Or Xor") | names(
    "BitwiseAnd BitwiseOr BitwiseXor"
)


class Node(NamedTuple):
    """What the rules ask of a node."""

    operator: str
    shapes: Sequence[Shape]  # of its inputs
    numbers: Callable[[int, str], Sequence[int] | None]
    """The whole numbers of an input, by its place, or of an attribute in older versions of the operator; None where they are not known,
    () where there are none."""
    number: Callable[[str, int], int]  # an attribute by name, with its default
    reals: Callable[[int], Sequence[float]]  # of an input; () where they are not known
    text: Callable[[str], str]  # an attribute by name
    outputs: int

    def shape(self, place: int) -> Shape:
        return self.shapes[place] if len(self.shapes) > place else None


def output_shapes(node: Node) -> list[Shape]:
    """Of the outputs of one of ONNX's operators."""
    try:
        first = _output_shapes(node)
    except (UnknownSizeError, OverflowError, ValueError):
        first = []
    return (first + [None] * node.outputs)[: node.outputs]


def _output_shapes(node: Node) -> list[Shape]:
    operator, first = node.operator, node.shape(0)
    if operator in _KEPT:
        return [first]
    if operator in _BROADCAST:
        return [broadcast(node.shapes)]
    if operator == "Transpose":
        return [transposed(first, node.numbers(len(node.shapes), "perm") or ())]
    if operator == "Slice":
        starts, ends, axes, steps = (node.numbers(place, name) for place, name in enumerate(("starts", "ends", "axes", "steps"), 1))
        if starts is None or ends is None or axes is None or steps is None:
            return []
        return [slice_shape(first, starts, ends, axes or range(len(starts)), steps or [1] * len(starts))]
    rule = _RULES.get(operator)
    if rule is not None:
        return [rule(node)]
    wanted = node.numbers(0 if operator == "ConstantOfShape" else 1, _NUMBERS.get(operator, ""))
    if wanted is None:
        return []
    if operator == "Split":
        return split(first, node.number("axis", 0), wanted, node.outputs)
    if operator == "Squeeze":
        return [squeezed(first, wanted or None)]
    if operator == "Reshape":
        return [reshaped(first, wanted, node.number("allowzero", 0) == 1)]
    made: dict[str, Callable[[], Shape]] = {
        "ConstantOfShape": lambda: tuple(wanted),
        "Unsqueeze": lambda: unsqueezed(first, wanted),
        "Expand": lambda: broadcast([first, tuple(wanted)]),
        "Tile": lambda: tiled(first, wanted),
        "Pad": lambda: _padded(node, wanted),
    }
    return [made[operator]()] if operator in made else []


_NUMBERS = {
    "Squeeze": "axes",
    "Unsqueeze": "axes",
    "Split": "split",
    "Reshape": "shape",
    "Expand": "shape",
    "Tile": "repeats",
    "Pad": "pads",
}


def _padded(node: Node, pads: Sequence[int]) -> Shape:
    shape = node.shape(0)
    if shape is None:
        return None
    axes = node.numbers(3, "axes")
    if axes is None or len(pads) != 2 * len(axes or shape):
        return None
    result, half = list(shape), len(pads) // 2
    for i, axis in enumerate(axes or range(len(shape))):
        at = axis_of(axis, len(shape))
        result[at] = computed(_sum_of, result[at], pads[i], pads[half + i])
    return tuple(result)


def _sum_of(*sizes: int) -> int:
    return max(0, sum(sizes))


def _resized(node: Node) -> Shape:
    shape, sizes = node.shape(0), node.numbers(3, "")
    others = node.text("keep_aspect_ratio_policy"), node.text("coordinate_transformation_mode")
    if node.numbers(len(node.shapes), "axes") or others[0] not in ("", "stretch") or others[1] == "tf_crop_and_resize":
        return None
    if sizes:
        return tuple(sizes) if shape is not None and len(sizes) == len(shape) else None
    scales = node.reals(1 if node.operator == "Upsample" else 2)
    if shape is None or len(scales) != len(shape):
        return None
    return tuple(computed(functools.partial(_scaled, scale), size) for size, scale in zip(shape, scales, strict=True))


def _scaled(scale: float, size: int) -> int:
    """In float32, as ONNX Runtime has it."""
    with np.errstate(all="ignore"):  # what is no number is refused
        return int(np.float32(size) * np.float32(scale))


def _range(node: Node) -> Shape:
    ends = [node.numbers(place, "") or node.reals(place) for place in range(3)]
    if any(len(each) != 1 for each in ends):
        return None
    start, limit, delta = (each[0] for each in ends)
    return (max(0, math.ceil((limit - start) / delta)),) if delta else None


def _sampled(node: Node) -> Shape:
    image, grid = node.shape(0), node.shape(1)
    return None if image is None or grid is None or len(grid) < 3 else (*image[:2], *grid[1:-1])


def _one_hot(node: Node) -> Shape:
    indices, depth = node.shape(0), node.numbers(1, "")
    if indices is None or depth is None or len(depth) != 1:
        return None
    at = axis_of(node.number("axis", -1), len(indices) + 1)
    return (*indices[:at], depth[0], *indices[at:])


def _gemm(node: Node) -> Shape:
    a, b = node.shape(0), node.shape(1)
    if a is None or b is None or len(a) != 2 or len(b) != 2:
        return None
    return a[1 if node.number("transA", 0) else 0], b[0 if node.number("transB", 0) else 1]


def _einsum(node: Node) -> Shape:
    letters = _letters(node)
    out = node.text("equation").replace(" ", "").rpartition("->")[2]
    return tuple(letters[letter] for letter in out) if letters and set(out) <= set(letters) else None


def _letters(node: Node) -> dict[str, Dimension]:
    """The size of each letter of Einsum's equation; none where it has other signs."""
    left, arrow, _ = node.text("equation").replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow or not re.fullmatch(r"[A-Za-z,]+", left) or len(terms) != len(node.shapes):
        return {}
    found: dict[str, Dimension] = {}
    for term, shape in zip(terms, node.shapes, strict=True):
        if shape is None or len(shape) != len(term):
            return {}
        found.update(zip(term, shape, strict=True))
    return found


_RULES: Mapping[str, Callable[[Node], Shape]] = {
    "MatMul": lambda node: multiplied(node.shape(0), node.shape(1)),
    "Gemm": _gemm,
    "Gather": lambda node: gathered(node.shape(0), node.shape(1), node.number("axis", 0)),
    "Concat": lambda node: concatenated(node.shapes, node.number("axis", 0)),
    "Resize": _resized,
    "Upsample": _resized,
    "Range": _range,
    "OneHot": _one_hot,
    "GridSample": _sampled,
    "Einsum": _einsum,
}


def products(node: Node) -> int:
    """Multiplications of a product of constants; 0 where their sizes are not known."""
    first, second = node.shape(0) or (), node.shape(1)
    if node.operator == "Einsum":
        return least(tuple(_letters(node).values()))
    if node.operator in ("MatMul", "MatMulInteger"):
        return least(multiplied(first, second)) * least(first[-1:])
    if node.operator == "Gemm":
        return least(_gemm(node)) * least(first) // max(1, least((_gemm(node) or ())[:1]))
    if node.operator in ("Conv", "ConvInteger", "ConvTranspose"):
        return least((*first[:1], *first[2:])) * least(second)
    return 0


def made_by_constants(node: Node) -> int:
    """The least elements of an output that attributes and scales make large, whatever goes in; 0 for other operators."""
    if node.operator in ("Resize", "Upsample"):
        grown = math.prod(node.reals(1 if node.operator == "Upsample" else 2))
        return int(min(grown, 2.0**62)) if grown > 1 else 0  # it may be no number
    if node.operator != "ConvTranspose":
        return 0
    after, sizes = len(node.shapes), node.shape(0) or ()
    given = node.numbers(after, "output_shape") or ()
    strides, more = node.numbers(after, "strides") or (), node.numbers(after, "output_padding") or ()
    spans = [max(0, size - 1 if isinstance(size, int) else 0) * stride + 1 for size, stride in zip(sizes[2:], strides, strict=False)]
    return max(math.prod(spans), math.prod(1 + each for each in more), math.prod(given))


def least(shape: Shape) -> int:
    """The least that it may be, open axes of size 1; 0 where it is not known."""
    return math.prod(size if isinstance(size, int) else 1 for size in shape) if shape else 0
