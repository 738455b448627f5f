"""What is known of a tensor before a graph runs, and what operators make of it.

Source: https://github.com/onnx/onnx/blob/main/docs/Operators.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from onnxferry.runtime.onnx_file.constants import Attribute, Constant
from onnxferry.runtime.onnx_file.output_shapes import names
from onnxferry.runtime.onnx_file.sizes import TO_THE_START, Input, Shape
from onnxferry.runtime.onnx_file.values import TensorSpec

SAME = names("Identity Reshape Squeeze Unsqueeze Flatten Transpose Slice Gather GatherElements GatherND Expand Tile Split Compress Cast")
"""Operators whose output holds numbers of their first input, and no others."""


ANY_EMPTY = names("Add Sub Mul Div Mod Pow Where Max Min Sum Mean Equal Less Greater And Or Xor PRelu")
"""Operators that are elementwise in several inputs: one empty makes the output empty."""


_FILLS = names("Shape Size ConstantOfShape Pad Range OneHot RandomNormal RandomUniform Concat ArgMax ArgMin MatMul")
"""Operators whose output may hold something though an input is empty, or that are looked at on their own."""


SHORT = 1024  # numbers of which all are kept


class Value(NamedTuple):
    """What is known of a tensor."""

    constant: bool = False  # made of constants alone
    bits: int = 0  # of a whole number; 0: another type, or not known
    low: int | None = None  # no number is smaller; None: not known
    high: int | None = None
    numbers: tuple[int, ...] | None = None  # all of them, in order, where they are few
    empty: bool = False  # certainly without elements
    weight: int = 1  # how many times its first ingredients; of text, bytes
    elements: int = 1  # of text: how many it has, at least 1
    shape: Shape = None
    reals: tuple[float, ...] = ()  # all of a few floats, in order; () where they are not known


OPEN = Value()


UNKNOWN = Value(constant=True)


ABSENT = Value()
"""Of an optional input that is left out."""


def number_of(attributes: Mapping[str, Attribute], name: str) -> int:
    each = attributes.get(name)
    return each.number or 0 if each is not None else 0


def of_constant(constant: Constant) -> Value:
    known = UNKNOWN._replace(empty=constant.size == 0, shape=constant.shape, reals=constant.reals)
    if constant.dtype == "str":
        return known._replace(weight=max(1, constant.text_bytes), elements=max(1, constant.size))
    if constant.numbers is None:
        return known._replace(bits={"int32": 32, "int64": 64}.get(constant.dtype, 0))
    return of_numbers(constant.numbers)._replace(shape=constant.shape)


def declared(spec: TensorSpec) -> Shape:
    return tuple(size if isinstance(size, int) and size >= 0 else Input(spec.name, axis) for axis, size in enumerate(spec.shape))


def of_numbers(numbers: np.ndarray) -> Value:
    bits = {"int32": 32, "int64": 64}.get(numbers.dtype.newbyteorder("=").name, 1)
    if not numbers.size:
        return UNKNOWN._replace(bits=bits, empty=True, numbers=())
    few = tuple(int(each) for each in numbers) if numbers.size <= SHORT else None
    return Value(True, bits, int(numbers.min()), int(numbers.max()), few)


def either(values: Sequence[Value]) -> Value:
    """One of these, not known which."""
    lows, highs = [each.low for each in values], [each.high for each in values]
    return Value(
        constant=all(each.constant for each in values),
        bits=max(each.bits for each in values),
        low=None if None in lows else min(low for low in lows if low is not None),
        high=None if None in highs else max(high for high in highs if high is not None),
        empty=any(each.empty for each in values),
        weight=max(each.weight for each in values),
        elements=max(each.elements for each in values),
        shape=values[0].shape if all(each.shape == values[0].shape for each in values) else None,
    )


def _limit(bits: int) -> int:
    return int(2 ** ((bits or 64) - 1))


def may_trap(dividend: Value, divisor: Value, fmod: bool) -> bool:
    """Whether two constants may be the smallest whole number and -1. Others the CPU divides; floats have no bits."""
    if fmod or not (dividend.constant and divisor.constant) or dividend.bits not in (32, 64) or divisor.bits not in (32, 64):
        return False
    if dividend.low is not None and dividend.low > -_limit(dividend.bits):
        return False
    if divisor.numbers is not None:
        return -1 in divisor.numbers
    return (divisor.low is None or divisor.low <= -1) and (divisor.high is None or divisor.high >= -1)


def arithmetic(operator: str, values: list[Value], attributes: Mapping[str, Attribute]) -> Value:
    """Numbers of an operator on constants alone."""
    first = values[0]
    if operator in ("Shape", "Size", "NonZero", "ArgMax", "ArgMin"):
        return Value(True, 64, 0, 2**63 - 1)
    if operator == "Cast":
        bits = {6: 32, 7: 64}.get(number_of(attributes, "to"), 0)
        if first.bits and first.low is not None and first.high is not None and bits:
            return _fitted(first.low, first.high, bits, first.numbers)
        return Value(True, bits)
    if operator in SAME:
        inside = operator in ("Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten")  # all of them, in order
        return first._replace(numbers=first.numbers if inside else None)
    bits = max((each.bits for each in values), default=0)
    if operator in ("Concat", "Max", "Min", "Where", "Sum"):
        parts = values[1:] if operator == "Where" else values
        if operator == "Sum" or not parts or any(each.low is None or each.high is None for each in parts):
            return Value(True, bits)
        joined = None
        if operator == "Concat" and all(each.numbers is not None for each in parts):
            joined = tuple(number for each in parts for number in each.numbers or ())
        lows, highs = [each.low or 0 for each in parts], [each.high or 0 for each in parts]
        return Value(True, bits, min(lows), max(highs), joined if joined is None or len(joined) <= SHORT else None)
    if bits and all(each.low is not None and each.high is not None for each in values):
        ends = [(each.low or 0, each.high or 0) for each in values]
        if operator == "Neg":
            return _fitted(-ends[0][1], -ends[0][0], bits)
        if operator in ("Add", "Sub", "Mul", "Div", "Mod") and len(ends) == 2:
            return _fitted(*_interval(operator, *ends), bits)
    return Value(True, bits)


def _interval(operator: str, a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    if operator == "Add":
        return a[0] + b[0], a[1] + b[1]
    if operator == "Sub":
        return a[0] - b[1], a[1] - b[0]
    if operator == "Mul":
        products = [x * y for x in a for y in b]
        return min(products), max(products)
    largest = max(map(abs, a if operator == "Div" else b))
    return -largest, largest


def _fitted(low: int, high: int, bits: int, numbers: tuple[int, ...] | None = None) -> Value:
    """Not known where it may wrap around."""
    limit = _limit(bits)
    if low < -limit or high >= limit:
        return Value(True, bits)
    return Value(True, bits, low, high, numbers if numbers is not None else ((low,) if low == high else None))


def is_emptied(operator: str, values: list[Value], attributes: Mapping[str, Attribute], ints: Callable[[str], Sequence[int]]) -> bool:
    """Whether the output is certainly empty: an input is, or constants take everything away."""
    if operator in _FILLS or operator.startswith("Reduce"):
        if operator == "Concat":
            return bool(values) and all(each.empty for each in values)
        return operator == "ConstantOfShape" and 0 in (values[0].numbers or ()) if values else False
    if any(each.empty for each in (values if operator in ANY_EMPTY else values[:1])):
        return True
    second = values[1].numbers if len(values) > 1 else None
    if operator == "Slice":
        starts, ends = (second, values[2].numbers) if len(values) > 2 else (tuple(ints("starts")), tuple(ints("ends")))
        steps = values[4].numbers if len(values) > 4 else None
        return any(_takes_nothing(*each) for each in zip(starts or (), ends or (), steps or (1,) * len(ends or ()), strict=False))
    if operator == "Reshape":
        return 0 in (second or ()) and number_of(attributes, "allowzero") == 1
    if operator in ("Expand", "Tile", "TopK"):
        return 0 in (second or ())
    if operator == "Resize":
        return len(values) > 3 and 0 in (values[3].numbers or ())
    if operator in ("Gather", "GatherND", "GatherElements"):
        return len(values) > 1 and values[1].empty
    if operator == "Compress":
        return bool(second) and not any(second or ())
    return False


def _takes_nothing(start: int, end: int, step: int) -> bool:
    """Whether ``x[start:end:step]`` is empty whatever the size of x, up to 2^31."""
    far = 2**31 - 1
    if step > 0:
        return (start >= end and (start >= 0) == (end >= 0)) or end == 0 or end <= -far or start >= far
    return end not in TO_THE_START and ((start <= end and (start >= 0) == (end >= 0)) or end >= far)
