"""What a graph would do to ONNX Runtime by its constants alone: end the process, or take all memory, as the file is opened or run.

Refused are whole numbers that the CPU cannot divide (the smallest by -1), trees deeper than the stack, recurrent operators on what the
graph itself has emptied, texts and tensors that double until memory is gone, and tensors of sizes that the file gives. Only what constants
decide is foreseen: what a graph makes of its inputs is not. Subgraphs and functions are followed as they are called.
Source: ONNX Runtime 1.31's kernels; https://github.com/onnx/onnx/blob/main/docs/Operators.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from onnxferry.runtime.errors import UntrustedModelError
from onnxferry.runtime.onnx_file import trees
from onnxferry.runtime.onnx_file.constants import Attribute, Constant, attribute_ints, read_attribute, read_constant
from onnxferry.runtime.onnx_file.protobuf import LENGTH, REPEATED, Fields, ProtobufReader
from onnxferry.runtime.onnx_file.summary import Limits, beyond

_TREES = frozenset({"TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor"})


_RECURRENT = frozenset({"LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"})


_MADE: Mapping[str, tuple[int, Callable[[Sequence[int]], int]]] = {
    "ConstantOfShape": (0, math.prod),
    "Expand": (1, math.prod),
    "Tile": (1, math.prod),
    "Resize": (3, math.prod),
    "OneHot": (1, max),
    "HannWindow": (0, max),
    "HammingWindow": (0, max),
    "BlackmanWindow": (0, max),
    "DFT": (1, max),
    "MaxUnpool": (2, math.prod),
    "CenterCropPad": (1, math.prod),
}
"""Operators whose output is as large as the numbers of one input say: which one, and how large."""


def _names(words: str) -> frozenset[str]:
    return frozenset(words.split())


_SAME = _names("Identity Reshape Squeeze Unsqueeze Flatten Transpose Slice Gather GatherElements GatherND Expand Tile Split Compress Cast")
"""Operators whose output holds numbers of their first input, and no others."""


_ANY_EMPTY = _names("Add Sub Mul Div Mod Pow Where Max Min Sum Mean Equal Less Greater And Or Xor PRelu")
"""Operators that are elementwise in several inputs: one empty makes the output empty."""


_FILLS = _names("Shape Size ConstantOfShape Pad Range OneHot RandomNormal RandomUniform Concat ArgMax ArgMin MatMul")
"""Operators whose output may hold something though an input is empty, or that are looked at on their own."""


_SUBGRAPHS = _names("If Loop Scan SequenceMap")


_SINGLE = _names("StringConcat Multinomial RandomNormal RandomUniform Range MelWeightMatrix Constant Slice Gather TopK Compress Split")


_SPECIAL = frozenset({*_TREES, *_RECURRENT, *_MADE, *_SUBGRAPHS, *_SINGLE, *_names("Concat Reshape")})
"""Operators that are looked at whatever is known of their first input."""


_DIVISIONS = _names("Div Mod")


_WHOLE = _names("Add Sub Mul Neg Abs Sign Max Min Where Sum Clip CumSum Pad Trilu Shape Size NonZero ArgMax ArgMin") | _names(
    "BitShift BitwiseNot BitwiseAnd BitwiseOr BitwiseXor ReduceSum ReduceProd ReduceMin ReduceMax ScatterElements ScatterND"
)


_DECODED = _SPECIAL | _SAME | _DIVISIONS | _WHOLE
"""Operators for which the numbers of constants are looked at."""


WATCHED = frozenset({*_TREES, *_RECURRENT, *_MADE, *_DIVISIONS, *_names("StringConcat Concat Multinomial Range MelWeightMatrix")}) | _names(
    "RandomNormal RandomUniform"
)
"""Operators for which a graph is followed at all."""


_SHORT = 1024  # numbers of which all are kept


class _Value(NamedTuple):
    """What is known of a tensor."""

    constant: bool = False  # made of constants alone
    bits: int = 0  # of a whole number; 0: another type, or not known
    low: int | None = None  # no number is smaller; None: not known
    high: int | None = None
    numbers: tuple[int, ...] | None = None  # all of them, in order, where they are few
    empty: bool = False  # certainly without elements
    weight: int = 1  # how many times its first ingredients; of text, bytes
    elements: int = 1  # of text: how many it has, at least 1


_OPEN = _Value()


_UNKNOWN = _Value(constant=True)


_GRAPH: Fields = {1: LENGTH | REPEATED, 5: LENGTH | REPEATED, 12: LENGTH | REPEATED}  # node, initializer, output


_NODE: Fields = {1: LENGTH | REPEATED, 2: LENGTH | REPEATED, 4: LENGTH, 5: LENGTH | REPEATED, 7: LENGTH}


_FUNCTION: Fields = {
    1: LENGTH,  # name
    4: LENGTH | REPEATED,  # input
    5: LENGTH | REPEATED,  # output
    7: LENGTH | REPEATED,  # node
    10: LENGTH,  # domain
    11: LENGTH | REPEATED,  # attribute_proto
}


_TENSOR_NAME: Fields = {8: LENGTH}


_OUTPUT_NAME: Fields = {1: LENGTH}


_Place = tuple[int, int]


_Known = dict[bytes, "_Value | _Place"]
"""What is known of tensors by name: a value, or where the constant lies."""


def is_worth_it(operators: Iterable[tuple[str, str]]) -> bool:
    return any(name in WATCHED for _, name in operators)


class Foresight:
    """Follows one model. ``functions``: where their messages lie. Raises UntrustedModelError for what is refused."""

    def __init__(self, reader: ProtobufReader, name: str, limits: Limits, functions: Mapping[tuple[str, str], _Place]) -> None:
        self._reader = ProtobufReader(reader.data, limits.fields)
        self._name = name
        self._limits = limits
        self._functions = functions
        self._emptied = False  # whether anything is known to be empty

    def follow(self, start: int, end: int) -> None:
        """The graph between two offsets."""
        self._graph(start, end, {}, {})

    def _graph(self, start: int, end: int, outer: _Known, given: Mapping[str, Attribute]) -> list[_Value]:
        """Its outputs."""
        known = dict(outer) if outer else {}
        nodes: list[_Place] = []
        outputs: list[bytes] = []
        for number, _, value, stop in self._reader.fields(start, end, _GRAPH):
            if number == 1:
                nodes.append((value, stop))
            elif number == 5:
                known[self._name_in(value, stop, _TENSOR_NAME)] = value, stop
            else:
                outputs.append(self._name_in(value, stop, _OUTPUT_NAME))
        for place in nodes:
            self._node(*place, known, given)
        return [self._value(name, known) for name in outputs]

    def _name_in(self, start: int, end: int, fields: Fields) -> bytes:
        return next((self._reader.data[value:stop] for _, _, value, stop in self._reader.fields(start, end, fields)), b"")

    def _value(self, name: bytes, known: _Known) -> _Value:
        """What is known of a tensor. Constants are decoded when they are asked for."""
        found = known.get(name)
        if found is None:
            return _OPEN
        if not isinstance(found, _Value):
            found = known[name] = _of_constant(read_constant(self._reader, *found))
        return found

    def _node(self, start: int, end: int, known: _Known, given: Mapping[str, Attribute]) -> None:
        inputs: list[bytes] = []
        outputs: list[bytes] = []
        places: list[_Place] = []
        operator, domain, data = b"", b"", self._reader.data
        for number, _, value, stop in self._reader.fields(start, end, _NODE):
            if number == 1:
                inputs.append(data[value:stop])
            elif number == 2:
                outputs.append(data[value:stop])
            elif number == 4:
                operator = data[value:stop]
            elif number == 7:
                domain = data[value:stop]
            else:
                places.append((value, stop))
        name = operator.decode()
        function = self._functions.get(("" if domain == b"ai.onnx" else domain.decode(), name)) if self._functions else None
        if function is None and name not in _SPECIAL and not (inputs and inputs[0] in known) and not (self._emptied and name in _ANY_EMPTY):
            return
        attributes = self._attributes(places, given)
        if name == "Constant" and "value" in attributes and (tensor := attributes["value"].tensor) is not None:
            known.update(dict.fromkeys(outputs, tensor))
            return
        if function is None and name not in _DECODED:
            values = [found if isinstance(found := known.get(each, _OPEN), _Value) else _UNKNOWN for each in inputs]
        else:
            values = [self._value(each, known) for each in inputs]
        if function is not None:
            results = self._called(*function, values, attributes)
        else:
            inner = [self._graph(*each.graph, known, given) for each in attributes.values() if each.graph is not None]
            if name == "If":
                results = [_either(ends) for ends in zip(*inner, strict=False)]
            else:
                results = self._made(name, values, attributes, len(outputs))
        for output, result in zip(outputs, results, strict=False):
            if result != _OPEN and output:
                known[output] = result
                self._emptied = self._emptied or result.empty

    def _attributes(self, places: Iterable[_Place], given: Mapping[str, Attribute]) -> dict[str, Attribute]:
        found = {}
        for place in places:
            each = read_attribute(self._reader, *place, self._limits.name_bytes)
            if each.refers and each.refers in given:
                each = given[each.refers]._replace(name=each.name)
            found[each.name] = each
        return found

    def _called(self, start: int, end: int, values: list[_Value], attributes: Mapping[str, Attribute]) -> list[_Value]:
        inputs: list[bytes] = []
        outputs: list[bytes] = []
        nodes: list[_Place] = []
        defaults: list[_Place] = []
        for number, _, value, stop in self._reader.fields(start, end, _FUNCTION):
            if number in (4, 5):
                (inputs if number == 4 else outputs).append(self._reader.data[value:stop])
            elif number in (7, 11):
                (nodes if number == 7 else defaults).append((value, stop))
        known: _Known = dict(zip(inputs, values, strict=False))
        given = self._attributes(defaults, {}) | dict(attributes)
        for place in nodes:
            self._node(*place, known, given)
        return [self._value(name, known) for name in outputs]

    def _made(self, operator: str, values: list[_Value], attributes: Mapping[str, Attribute], count: int) -> list[_Value]:
        """What comes out of one of ONNX's operators that has ``count`` outputs."""
        self._check(operator, values, attributes)
        first = values[0] if values else _OPEN
        if operator == "Constant":
            return [self._constant(attributes)] * count
        if operator == "Loop":  # without a round, what is collected from its rounds is empty
            never = any(each.numbers == (0,) for each in values[:2])
            return [_OPEN] * max(0, len(values) - 2) + [_OPEN._replace(empty=never)] * count
        constant = bool(values) and all(each.constant for each in values)
        empty = _is_emptied(operator, values, attributes, lambda name: self._ints(attributes, name))
        weight, elements = self._grown(operator, values)
        kept = _Value(constant=constant, empty=empty, weight=weight, elements=elements)
        if operator == "Split":
            sizes = values[1].numbers if len(values) > 1 else tuple(self._ints(attributes, "split"))
            parts = [size == 0 for size in sizes or ()]
            whole = first._replace(numbers=None, empty=empty)
            return [whole._replace(empty=empty or (i < len(parts) and parts[i])) for i in range(count)]
        if constant:
            filled = attributes.get("value") if operator == "ConstantOfShape" else None
            if filled is not None and filled.tensor is not None:
                number = _of_constant(read_constant(self._reader, *filled.tensor))._replace(numbers=None)
            else:
                number = _arithmetic(operator, values, attributes)
            kept = kept._replace(bits=number.bits, low=number.low, high=number.high, numbers=number.numbers)
        return [kept] * count

    def _constant(self, attributes: Mapping[str, Attribute]) -> _Value:
        for each in attributes.values():
            if each.tensor is not None:
                return _of_constant(read_constant(self._reader, *each.tensor))
            if each.name == "value_int":
                return _of_numbers(np.array([each.number or 0], np.int64))
            if each.name == "value_ints":
                return _of_numbers(attribute_ints(self._reader, each.place))
        return _UNKNOWN._replace(weight=max(1, sum(stop - start for start, stop in (each.place for each in attributes.values()))))

    def _ints(self, attributes: Mapping[str, Attribute], name: str) -> list[int]:
        each = attributes.get(name)
        return [] if each is None else [int(number) for number in attribute_ints(self._reader, each.place)[:_SHORT]]

    def _check(self, operator: str, values: list[_Value], attributes: Mapping[str, Attribute]) -> None:
        first = values[0] if values else _OPEN
        if operator in ("Div", "Mod") and len(values) == 2 and _may_trap(values[0], values[1], _number(attributes, "fmod") == 1):
            raise self._refused(
                f"its operator {operator} divides constants, the smallest whole number by -1, which ends the whole process in ONNX Runtime"
            )
        if operator in _TREES:
            limit = self._limits.tree_depth
            if trees.deeper_than(limit, operator, lambda name: self._all_ints(attributes, name)):
                raise self._beyond("tree_depth", limit + 1)
        if operator in _RECURRENT and first.empty:
            raise self._refused(
                f"its operator {operator} gets a tensor without elements, by the graph's own constants, which ends the whole process in "
                "ONNX Runtime"
            )
        if operator == "Multinomial" and _number(attributes, "sample_size") > self._limits.samples:
            raise self._beyond("samples", _number(attributes, "sample_size"))
        elements = self._elements(operator, values, attributes)
        if elements > self._limits.made_elements:
            raise self._beyond("made_elements", elements)

    def _all_ints(self, attributes: Mapping[str, Attribute], name: str) -> np.ndarray:
        each = attributes.get(name)
        return np.zeros(0, np.int64) if each is None else attribute_ints(self._reader, each.place)

    def _elements(self, operator: str, values: list[_Value], attributes: Mapping[str, Attribute]) -> int:
        """Of an output whose size constants decide; 0 where they do not."""
        if operator in ("RandomNormal", "RandomUniform"):
            return math.prod(abs(size) for size in self._ints(attributes, "shape"))
        if operator in ("Range", "MelWeightMatrix"):
            numbers = [each.numbers for each in values[:3]]
            if any(each is None or len(each) != 1 for each in numbers) or len(numbers) < 3:
                return 0
            a, b, c = (each[0] for each in numbers if each)
            return abs(a * b) if operator == "MelWeightMatrix" else abs(b - a) // max(1, abs(c))
        place, of = _MADE.get(operator, (0, max))
        sizes = values[place].numbers if operator in _MADE and len(values) > place else None
        return of([abs(size) for size in sizes]) if sizes else 0

    def _grown(self, operator: str, values: list[_Value]) -> tuple[int, int]:
        """How many times its ingredients the output holds, and how many texts: joined to itself again and again, anything fills memory."""
        if operator == "StringConcat" and len(values) == 2:
            a, b = values
            elements = max(a.elements, b.elements) if 1 in (a.elements, b.elements) or a.elements == b.elements else a.elements * b.elements
            weight = a.weight * elements // a.elements + b.weight * elements // b.elements
        elif operator == "Concat":
            weight, elements = sum(each.weight for each in values), sum(each.elements for each in values)
        elif operator in ("Tile", "Expand") and len(values) == 2:
            times = max(1, math.prod(abs(size) for size in values[1].numbers or ()))
            weight, elements = values[0].weight * times, values[0].elements * times
        elif operator in _SAME and values:
            weight, elements = values[0].weight, values[0].elements
        else:
            return 1, 1
        if weight > self._limits.made_elements:
            raise self._beyond("made_elements", weight)
        return weight, elements

    def _beyond(self, limit: str, found: int) -> UntrustedModelError:
        return beyond(self._name, limit, found, self._limits)

    def _refused(self, why: str) -> UntrustedModelError:
        return UntrustedModelError(f"{self._name} is refused: {why}")


def _number(attributes: Mapping[str, Attribute], name: str) -> int:
    each = attributes.get(name)
    return each.number or 0 if each is not None else 0


def _of_constant(constant: Constant) -> _Value:
    numbers = constant.numbers
    if constant.dtype == "str":
        return _UNKNOWN._replace(empty=constant.size == 0, weight=max(1, constant.text_bytes), elements=max(1, constant.size))
    if numbers is None:
        return _UNKNOWN._replace(empty=constant.size == 0, bits={"int32": 32, "int64": 64}.get(constant.dtype, 0))
    return _of_numbers(numbers)


def _of_numbers(numbers: np.ndarray) -> _Value:
    bits = {"int32": 32, "int64": 64}.get(numbers.dtype.newbyteorder("=").name, 1)
    if not numbers.size:
        return _UNKNOWN._replace(bits=bits, empty=True, numbers=())
    few = tuple(int(each) for each in numbers) if numbers.size <= _SHORT else None
    return _Value(True, bits, int(numbers.min()), int(numbers.max()), few)


def _either(values: Sequence[_Value]) -> _Value:
    """One of these, not known which."""
    lows, highs = [each.low for each in values], [each.high for each in values]
    return _Value(
        constant=all(each.constant for each in values),
        bits=max(each.bits for each in values),
        low=None if None in lows else min(low for low in lows if low is not None),
        high=None if None in highs else max(high for high in highs if high is not None),
        empty=any(each.empty for each in values),
        weight=max(each.weight for each in values),
        elements=max(each.elements for each in values),
    )


def _limit(bits: int) -> int:
    return int(2 ** ((bits or 64) - 1))


def _may_trap(dividend: _Value, divisor: _Value, fmod: bool) -> bool:
    """Whether two constants may be the smallest whole number and -1. Others the CPU divides; floats have no bits."""
    if fmod or not (dividend.constant and divisor.constant) or dividend.bits not in (32, 64) or divisor.bits not in (32, 64):
        return False
    if dividend.low is not None and dividend.low > -_limit(dividend.bits):
        return False
    if divisor.numbers is not None:
        return -1 in divisor.numbers
    return (divisor.low is None or divisor.low <= -1) and (divisor.high is None or divisor.high >= -1)


def _arithmetic(operator: str, values: list[_Value], attributes: Mapping[str, Attribute]) -> _Value:
    """Numbers of an operator on constants alone."""
    first = values[0]
    if operator in ("Shape", "Size", "NonZero", "ArgMax", "ArgMin"):
        return _Value(True, 64, 0, 2**63 - 1)
    if operator == "Cast":
        bits = {6: 32, 7: 64}.get(_number(attributes, "to"), 0)
        if first.bits and first.low is not None and first.high is not None and bits:
            return _fitted(first.low, first.high, bits, first.numbers)
        return _Value(True, bits)
    if operator in _SAME:
        inside = operator in ("Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten")  # all of them, in order
        return first._replace(numbers=first.numbers if inside else None)
    bits = max((each.bits for each in values), default=0)
    if operator in ("Concat", "Max", "Min", "Where", "Sum"):
        parts = values[1:] if operator == "Where" else values
        if operator == "Sum" or not parts or any(each.low is None or each.high is None for each in parts):
            return _Value(True, bits)
        joined = None
        if operator == "Concat" and all(each.numbers is not None for each in parts):
            joined = tuple(number for each in parts for number in each.numbers or ())
        lows, highs = [each.low or 0 for each in parts], [each.high or 0 for each in parts]
        return _Value(True, bits, min(lows), max(highs), joined if joined is None or len(joined) <= _SHORT else None)
    if bits and all(each.low is not None and each.high is not None for each in values):
        ends = [(each.low or 0, each.high or 0) for each in values]
        if operator == "Neg":
            return _fitted(-ends[0][1], -ends[0][0], bits)
        if operator in ("Add", "Sub", "Mul", "Div", "Mod") and len(ends) == 2:
            return _fitted(*_interval(operator, *ends), bits)
    return _Value(True, bits)


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


def _fitted(low: int, high: int, bits: int, numbers: tuple[int, ...] | None = None) -> _Value:
    """Not known where it may wrap around."""
    limit = _limit(bits)
    if low < -limit or high >= limit:
        return _Value(True, bits)
    return _Value(True, bits, low, high, numbers if numbers is not None else ((low,) if low == high else None))


def _is_emptied(operator: str, values: list[_Value], attributes: Mapping[str, Attribute], ints: Callable[[str], Sequence[int]]) -> bool:
    """Whether the output is certainly empty: an input is, or constants take everything away."""
    if operator in _FILLS or operator.startswith("Reduce"):
        if operator == "Concat":
            return bool(values) and all(each.empty for each in values)
        return operator == "ConstantOfShape" and 0 in (values[0].numbers or ()) if values else False
    if any(each.empty for each in (values if operator in _ANY_EMPTY else values[:1])):
        return True
    second = values[1].numbers if len(values) > 1 else None
    if operator == "Slice":
        starts, ends = (second, values[2].numbers) if len(values) > 2 else (tuple(ints("starts")), tuple(ints("ends")))
        steps = values[4].numbers if len(values) > 4 else None
        return any(_takes_nothing(*each) for each in zip(starts or (), ends or (), steps or (1,) * len(ends or ()), strict=False))
    if operator == "Reshape":
        return 0 in (second or ()) and _number(attributes, "allowzero") == 1
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
        return (start >= end and (start >= 0) == (end >= 0)) or end == 0 or start >= far
    return (start <= end and (start >= 0) == (end >= 0)) or end >= far
