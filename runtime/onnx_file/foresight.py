"""What a graph would do to ONNX Runtime by its constants alone: end the process, or take all memory, as the file is opened or run.

Refused are whole numbers that the CPU cannot divide (the smallest by -1), trees deeper than the stack, recurrent operators on what the
graph itself has emptied, texts and tensors that double until memory is gone, and tensors of sizes that the file gives. Only what constants
decide is foreseen, and sizes that constants and the shapes of a run's inputs decide; what a graph makes of its inputs' values is not.
Subgraphs and functions are followed as they are called.
Source: ONNX Runtime 1.31's kernels; https://github.com/onnx/onnx/blob/main/docs/Operators.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from onnxferry.runtime.errors import UntrustedModelError
from onnxferry.runtime.onnx_file import trees
from onnxferry.runtime.onnx_file.constants import Attribute, attribute_ints, read_attribute, read_constant
from onnxferry.runtime.onnx_file.knowledge import (
    ABSENT,
    ANY_EMPTY,
    OPEN,
    SAME,
    SHORT,
    UNKNOWN,
    Value,
    arithmetic,
    declared,
    either,
    is_emptied,
    may_trap,
    number_of,
    of_constant,
    of_numbers,
)
from onnxferry.runtime.onnx_file.output_shapes import Node, least, made_by_constants, names, output_shapes, products
from onnxferry.runtime.onnx_file.protobuf import LENGTH, REPEATED, Fields, ProtobufReader
from onnxferry.runtime.onnx_file.sizes import Dimension, Shape
from onnxferry.runtime.onnx_file.summary import Limits, NeverZero, beyond
from onnxferry.runtime.onnx_file.values import TensorSpec

_TREES = frozenset({"TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor"})


_RECURRENT = frozenset({"LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"})


_ABORTS_ON: Mapping[str, tuple[int, ...]] = {"LSTM": (1,), "DynamicQuantizeLSTM": (1,), "GRU": (0, 1, 2)}
"""Axes of the first input whose size must not be 0, or the kernel ends the process (ONNX Runtime 1.24 to 1.32)."""


_TRUE = Value(constant=True, bits=1, low=1, high=1)
"""Of a Loop's condition within a round."""


_ROUNDS = 64
"""Of a Loop that are followed at the most: what doubles in each is beyond any limit by then."""


_MOST_SIZES = 64  # that are looked at before each run


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
    "Pad": (1, lambda pads: math.prod(1 + begin + end for begin, end in zip(pads, pads[len(pads) // 2 :], strict=False))),
}
"""Operators whose output is as large as the numbers of one input say: which one, and how large."""


_SUBGRAPHS = names("If Loop Scan SequenceMap")


_SINGLE = names("StringConcat Multinomial RandomNormal RandomUniform Range MelWeightMatrix Constant Slice Gather TopK Compress") | names(
    "Split ConvTranspose Upsample"
)


_SPECIAL = frozenset({*_TREES, *_RECURRENT, *_MADE, *_SUBGRAPHS, *_SINGLE, *names("Concat Reshape")})
"""Operators that are looked at whatever is known of their first input."""


_GRAPH: Fields = dict.fromkeys((1, 5, 11, 12), LENGTH | REPEATED)  # node, initializer, input, output


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


_Known = dict[bytes, "Value | _Place"]
"""What is known of tensors by name: a value, or where the constant lies."""


def needs_shapes(operators: Iterable[tuple[str, str]]) -> bool:
    """Whether there are operators that end the process by the size of what they get, or that can multiply what they carry."""
    return any(name in _ABORTS_ON or name == "Loop" for _, name in operators)


def _smallest(value: Value) -> Value:
    """What a Loop carries, open axes of size 1."""
    shape = None if value.shape is None else tuple(size if isinstance(size, int) else 1 for size in value.shape)
    return OPEN._replace(shape=shape)


def _elements_of(value: Value) -> int:
    return 1 if value.shape is None else least(value.shape) or (0 in value.shape) ^ 1


class Foresight:
    """Follows one model. ``functions``: where their messages lie. Raises UntrustedModelError for what is refused."""

    def __init__(
        self, reader: ProtobufReader, name: str, limits: Limits, functions: Mapping[tuple[str, str], _Place], *, texts: bool = True
    ) -> None:
        """``texts``: whether texts are joined anywhere."""
        self._texts = texts
        self._reader = ProtobufReader(reader.data, limits.fields)
        self._name = name
        self._limits = limits
        self._functions = functions
        self._emptied = False  # whether anything is known to be empty
        self._smallest = False  # whether a Loop is followed for the smallest inputs
        self._shaped = False  # whether shapes are followed
        self._collected = 0  # elements that a round of a Loop adds to sequences
        self._made_of_constants = 0  # elements, beyond those that the file holds
        self._products = 0  # multiplications of constants
        self._never_zero: dict[Dimension, str] = {}  # sizes, and the operator that gets them

    def follow(self, start: int, end: int, inputs: Sequence[TensorSpec]) -> tuple[NeverZero, ...]:
        """The graph between two offsets. Returns the sizes inside it that a run's inputs decide, and that must not be 0."""
        shapes = {spec.name: Value(shape=declared(spec)) for spec in inputs if spec.ranked}
        self._shaped = bool(shapes)
        self._graph(start, end, {name.encode(): value for name, value in shapes.items()}, {})
        return tuple(NeverZero(operator, size) for size, operator in self._never_zero.items())

    def _graph(self, start: int, end: int, outer: _Known, given: Mapping[str, Attribute], values: Sequence[Value] = ()) -> list[Value]:
        """Its outputs. ``values``: of its first inputs, in order."""
        known = dict(outer) if outer else {}
        nodes: list[_Place] = []
        outputs: list[bytes] = []
        left = iter(values)
        for number, _, value, stop in self._reader.fields(start, end, _GRAPH):
            if number == 1:
                nodes.append((value, stop))
            elif number == 5:
                known[self._name_in(value, stop, _TENSOR_NAME)] = value, stop
            elif number == 12:
                outputs.append(self._name_in(value, stop, _OUTPUT_NAME))
            elif (first := next(left, None)) is not None:
                known[self._name_in(value, stop, _OUTPUT_NAME)] = first
        for place in nodes:
            self._node(*place, known, given)
        return [self._value(name, known) for name in outputs]

    def _name_in(self, start: int, end: int, fields: Fields) -> bytes:
        return next((self._reader.data[value:stop] for _, _, value, stop in self._reader.fields(start, end, fields)), b"")

    def _value(self, name: bytes, known: _Known) -> Value:
        """What is known of a tensor. Constants are decoded when they are asked for."""
        found = known.get(name)
        if found is None:
            return OPEN if name else ABSENT
        if not isinstance(found, Value):
            found = known[name] = of_constant(read_constant(self._reader, *found))
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
        if function is None and name not in _SPECIAL and not (inputs and inputs[0] in known) and not (self._emptied and name in ANY_EMPTY):
            return
        attributes = self._attributes(places, given)
        if name == "Constant" and "value" in attributes and (tensor := attributes["value"].tensor) is not None:
            known.update(dict.fromkeys(outputs, tensor))
            return
        values = [self._value(each, known) for each in inputs]
        if function is not None:
            results = self._called(*function, values, attributes)
        else:
            graphs = [each.graph for each in attributes.values() if each.graph is not None]
            before, self._collected = self._collected, 0
            inner = [self._graph(*each, known, given, [OPEN, _TRUE, *[OPEN] * len(values)] if name == "Loop" else ()) for each in graphs]
            if name == "Loop" and inner and inner[0] and not self._smallest:
                self._rounds(graphs[0], inner[0], known, given, values)
            self._collected += before
            if name == "If":
                results = [either(ends) for ends in zip(*inner, strict=False)]
            else:
                results = self._made(name, values, attributes, len(outputs))
        for output, result in zip(outputs, results, strict=False):
            if result != OPEN and output:
                known[output] = result
                self._emptied = self._emptied or (result.empty and not self._smallest)

    def _rounds(self, body: _Place, ends: list[Value], known: _Known, given: Mapping[str, Attribute], values: list[Value]) -> None:
        """Refuses a Loop that fills memory in as many rounds as constants say. ``ends``: the outputs of its body in one round.

        One that multiplies what it carries is followed for the smallest inputs, all open axes of size 1, as long as it multiplies.
        """
        rounds, go_on = [*values, ABSENT, ABSENT][:2]
        if not ends[0].constant or not (go_on is ABSENT or go_on.constant):  # it may end earlier
            return
        most = 2**63 if rounds is ABSENT else rounds.numbers[0] if rounds.numbers is not None and len(rounds.numbers) == 1 else 0
        self._collected += sum(_elements_of(each) for each in ends[max(1, len(values) - 1) :])
        self._collected *= max(0, most)
        if self._collected > self._limits.made_elements:
            raise self._beyond("made_elements", self._collected)
        self._smallest = True
        carried = values[2:]
        total = 0
        for turn in range(min(most, _ROUNDS)):
            carried = [self._carried(each) for each in carried]
            carried = self._graph(*body, known, given, [OPEN, _TRUE, *carried])[1 : 1 + len(carried)]
            before, total = total, sum(each.weight if self._texts else _elements_of(each) for each in carried)
            if total > self._limits.made_elements:
                raise self._beyond("made_elements", total)
            if turn > 2 and total * 2 < before * 3:
                break
        self._smallest = False

    def _carried(self, value: Value) -> Value:
        return _smallest(value)._replace(weight=value.weight, elements=value.elements) if self._texts else _smallest(value)

    def _attributes(self, places: Iterable[_Place], given: Mapping[str, Attribute]) -> dict[str, Attribute]:
        found = {}
        for place in places:
            each = read_attribute(self._reader, *place, self._limits.name_bytes)
            if each.refers and each.refers in given:
                each = given[each.refers]._replace(name=each.name)
            found[each.name] = each
        return found

    def _called(self, start: int, end: int, values: list[Value], attributes: Mapping[str, Attribute]) -> list[Value]:
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

    def _made(self, operator: str, values: list[Value], attributes: Mapping[str, Attribute], count: int) -> list[Value]:
        """What comes out of one of ONNX's operators that has ``count`` outputs."""
        self._check(operator, values, attributes)
        if operator == "Constant":
            return [self._constant(attributes)] * count
        node = self._asked(operator, values, attributes, count)
        shapes = output_shapes(node)
        self._measure(node, values, shapes)
        results = self._contents(operator, values, attributes, count)
        return [
            each._replace(shape=shape, empty=each.empty or (shape is not None and 0 in shape))
            for each, shape in zip(results, shapes, strict=False)
        ]

    def _asked(self, operator: str, values: list[Value], attributes: Mapping[str, Attribute], count: int) -> Node:
        def numbers(place: int, name: str) -> Sequence[int] | None:
            if len(values) > place and values[place] is not ABSENT:
                return values[place].numbers
            return self._ints(attributes, name)

        def number(name: str, default: int) -> int:
            return default if name not in attributes else number_of(attributes, name)

        def reals(place: int) -> Sequence[float]:
            return values[place].reals if len(values) > place else ()

        def text(name: str) -> str:
            found = attributes.get(name)
            return "" if found is None or found.text is None else self._reader.text(*found.text, self._limits.name_bytes)

        return Node(operator, [each.shape for each in values], numbers, number, reals, text, count)

    def _measure(self, node: Node, values: list[Value], shapes: list[Shape]) -> None:
        """Refuses what constants alone make too large, or take too long to multiply, as the file is opened."""
        if self._smallest:
            return
        if node.operator == "SequenceInsert" and len(values) > 1:
            self._collected += _elements_of(values[1])
        made = made_by_constants(node)
        if made > self._limits.made_elements:
            raise self._beyond("made_elements", made)
        if not values or not all(each.constant or each is ABSENT for each in values):
            return
        given = {id(each): _elements_of(each) for each in values if each is not ABSENT}
        self._made_of_constants += max(0, sum(map(least, shapes)) - sum(given.values()))
        if self._made_of_constants > self._limits.made_elements:
            raise self._beyond("made_elements", self._made_of_constants)
        self._products += products(node)
        if self._products > self._limits.constant_products:
            raise self._beyond("constant_products", self._products)

    def _contents(self, operator: str, values: list[Value], attributes: Mapping[str, Attribute], count: int) -> list[Value]:
        first = values[0] if values else OPEN
        if operator == "Loop":  # without a round, what is collected from its rounds is empty
            never = any(each.numbers == (0,) for each in values[:2])
            return [OPEN] * max(0, len(values) - 2) + [OPEN._replace(empty=never)] * count
        constant = any(each.constant for each in values) and all(each.constant or each is ABSENT for each in values)
        empty = is_emptied(operator, values, attributes, lambda name: self._ints(attributes, name))
        weight, elements = self._grown(operator, values)
        kept = Value(constant=constant, empty=empty, weight=weight, elements=elements)
        if operator == "Split":
            sizes = values[1].numbers if len(values) > 1 else tuple(self._ints(attributes, "split"))
            parts = [size == 0 for size in sizes or ()]
            whole = first._replace(numbers=None, empty=empty)
            return [whole._replace(empty=empty or (i < len(parts) and parts[i])) for i in range(count)]
        if constant:
            filled = attributes.get("value") if operator == "ConstantOfShape" else None
            if filled is not None and filled.tensor is not None:
                number = of_constant(read_constant(self._reader, *filled.tensor))._replace(numbers=None)
            else:
                number = arithmetic(operator, values, attributes)
            kept = kept._replace(bits=number.bits, low=number.low, high=number.high, numbers=number.numbers)
        return [kept] * count

    def _constant(self, attributes: Mapping[str, Attribute]) -> Value:
        for each in attributes.values():
            if each.tensor is not None:
                return of_constant(read_constant(self._reader, *each.tensor))
            if each.name == "value_int":
                return of_numbers(np.array([each.number or 0], np.int64))
            if each.name == "value_ints":
                return of_numbers(attribute_ints(self._reader, each.place))
        return UNKNOWN._replace(weight=max(1, sum(stop - start for start, stop in (each.place for each in attributes.values()))))

    def _ints(self, attributes: Mapping[str, Attribute], name: str) -> list[int]:
        each = attributes.get(name)
        return [] if each is None else [int(number) for number in attribute_ints(self._reader, each.place)[:SHORT]]

    def _check(self, operator: str, values: list[Value], attributes: Mapping[str, Attribute]) -> None:
        if self._smallest:
            return
        first = values[0] if values else OPEN
        if operator in ("Div", "Mod") and len(values) == 2 and may_trap(values[0], values[1], number_of(attributes, "fmod") == 1):
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
        shape = first.shape or ()
        axes = _ABORTS_ON.get(operator, ())
        if operator == "GRU" and len(values) > 4 and values[4] is not ABSENT:  # with the lengths of the sequences, no steps are fine
            axes = axes[1:]
        for size in (shape[axis] for axis in axes if len(shape) == 3):
            if not isinstance(size, int) and len(self._never_zero) < _MOST_SIZES:
                self._never_zero.setdefault(size, operator)
        if operator == "Multinomial" and number_of(attributes, "sample_size") > self._limits.samples:
            raise self._beyond("samples", number_of(attributes, "sample_size"))
        elements = self._elements(operator, values, attributes)
        if elements > self._limits.made_elements:
            raise self._beyond("made_elements", elements)

    def _all_ints(self, attributes: Mapping[str, Attribute], name: str) -> np.ndarray:
        each = attributes.get(name)
        return np.zeros(0, np.int64) if each is None else attribute_ints(self._reader, each.place)

    def _elements(self, operator: str, values: list[Value], attributes: Mapping[str, Attribute]) -> int:
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

    def _grown(self, operator: str, values: list[Value]) -> tuple[int, int]:
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
        elif operator in SAME and values:
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
