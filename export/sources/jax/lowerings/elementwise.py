"""Arithmetic, comparisons and logic, element by element. Integers wrap as JAX's do, in dtypes that ONNX Runtime has kernels for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np

from onnxferry.export.sources.jax.convert import Equation, lowers
from onnxferry.export.sources.jax.graph import Graph, Shape, Value, known, same
from onnxferry.runtime.errors import ExportError

BOOL = np.dtype(bool)


def widened(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype in which ONNX Runtime computes for this one: it has few kernels for narrow and unsigned integers."""
    if dtype.kind == "b" or (dtype.kind == "u" and dtype.itemsize == 4) or dtype == np.uint64:
        return np.dtype(np.int64)
    return np.dtype(np.int32) if dtype.kind in "iu" and dtype.itemsize < 4 else dtype


def stored_together(values: Sequence[Value]) -> Shape:
    """The shape in which an operator that broadcasts stores its result."""
    ranks = {len(value.stored) for value in values} - {0}
    rank = max(ranks, default=0)
    shape: list[Any] = []
    for place in range(rank):
        sizes = [value.stored[place - rank] for value in values if len(value.stored) >= rank - place]
        shape.append(next((size for size in sizes if known(size) != 1), 1))
    return tuple(shape)


def aligned(graph: Graph, values: Sequence[Value], shape: Shape) -> list[Value]:
    """Values of the full rank or scalars, as JAX's operators take them."""
    return [value if len(value.stored) in (0, len(shape)) else graph.full(value) for value in values]


def elementwise(graph: Graph, kind: str, values: Sequence[Value], dtype: Any, shape: Shape, **attributes: Any) -> Value:
    stored = stored_together(values)
    if not stored and shape:
        stored = tuple(1 for _ in shape)
        values = [graph.stored_as(values[0], values[0].shape, stored), *values[1:]]
    made = graph.op(kind, values, dtype, stored, **attributes)
    return Value(made.dtype, shape, stored, made.name)


class Arithmetic:
    """Elementwise operators of one shape and dtype, for lowerings of several steps."""

    def __init__(self, graph: Graph, shape: Shape, dtype: Any) -> None:
        self.graph, self.shape, self.dtype = graph, shape, np.dtype(dtype)

    def value(self, operand: Any) -> Value:
        return operand if isinstance(operand, Value) else self.graph.constant(operand, self.dtype)

    def op(self, kind: str, *operands: Any, dtype: Any = None) -> Value:
        return elementwise(self.graph, kind, [self.value(each) for each in operands], dtype or self.dtype, self.shape)

    def where(self, condition: Value, yes: Any, no: Any) -> Value:
        return self.op("Where", condition, yes, no)

    def flag(self, kind: str, *operands: Any) -> Value:
        return self.op(kind, *operands, dtype=bool)

    def polynomial(self, x: Value, *coefficients: float) -> Value:
        """By Horner's rule, the highest power first."""
        return reduce(lambda total, c: self.op("Add", self.op("Mul", total, x), c), coefficients[1:], self.value(coefficients[0]))


_SIMPLE = {
    "exp": "Exp",
    "log": "Log",
    "tanh": "Tanh",
    "sin": "Sin",
    "cos": "Cos",
    "tan": "Tan",
    "asin": "Asin",
    "acos": "Acos",
    "atan": "Atan",
    "sinh": "Sinh",
    "cosh": "Cosh",
    "asinh": "Asinh",
    "acosh": "Acosh",
    "atanh": "Atanh",
    "sqrt": "Sqrt",
    "logistic": "Sigmoid",
    "erf": "Erf",
    "floor": "Floor",
    "ceil": "Ceil",
}


@lowers(*_SIMPLE)
def _simple(graph: Graph, equation: Equation, x: Value) -> Value:
    return elementwise(graph, _SIMPLE[equation.primitive], [x], equation.dtype, equation.shape)


def _in_wide(graph: Graph, kind: str, values: Sequence[Value], dtype: np.dtype[Any], shape: Shape) -> Value:
    """Computed in a dtype that ONNX Runtime has a kernel for, and brought back: integers wrap, as they do in JAX."""
    wide = widened(values[0].dtype)
    made = elementwise(graph, kind, [graph.cast(value, wide) for value in aligned(graph, values, shape)], wide, shape)
    return graph.cast(made, dtype)


_ARITHMETIC = {"add": "Add", "add_any": "Add", "sub": "Sub", "mul": "Mul", "neg": "Neg", "abs": "Abs", "sign": "Sign"}


@lowers(*_ARITHMETIC)
def _arithmetic(graph: Graph, equation: Equation, *values: Value) -> Value:
    if equation.dtype == BOOL:
        return elementwise(
            graph, {"mul": "And"}.get(equation.primitive, "Or"), aligned(graph, values, equation.shape), bool, equation.shape
        )
    if equation.primitive == "abs" and equation.dtype.kind == "u":
        return values[0]
    return _in_wide(graph, _ARITHMETIC[equation.primitive], values, equation.dtype, equation.shape)


@lowers("max", "min")
def _extremes(graph: Graph, equation: Equation, a: Value, b: Value) -> Value:
    largest = equation.primitive == "max"
    if equation.dtype == BOOL:
        return elementwise(graph, "Or" if largest else "And", aligned(graph, [a, b], equation.shape), bool, equation.shape)
    for x, limit in ((a, b), (b, a)):
        if limit.array is not None and limit.array.size == 1 and limit.dtype.kind == "f":
            number = float(limit.array.reshape(()))
            if number == (-np.inf if largest else np.inf) and all(map(same, x.shape, equation.shape)):
                return x
    return _in_wide(graph, "Max" if largest else "Min", [a, b], equation.dtype, equation.shape)


@lowers("div")
def _div(graph: Graph, equation: Equation, x: Value, y: Value) -> Value:
    if equation.dtype.kind == "f":
        return elementwise(graph, "Div", aligned(graph, [x, y], equation.shape), equation.dtype, equation.shape)
    # As XLA defines it: x / 0 is -1, and the smallest integer by -1 is itself. The kernel ends the process on either.
    wide = widened(equation.dtype)
    a = Arithmetic(graph, equation.shape, wide)
    x, y = (graph.cast(each, wide) for each in aligned(graph, [x, y], equation.shape))
    zero, minus = a.flag("Equal", y, 0), a.flag("Equal", y, -1)
    quotient = a.op("Div", x, a.where(a.flag("Or", zero, minus), 1, y))
    return graph.cast(a.where(zero, -1, a.where(minus, a.op("Neg", x), quotient)), equation.dtype)


@lowers("rem")
def _rem(graph: Graph, equation: Equation, x: Value, y: Value) -> Value:
    """With the sign of x, as C's ``%`` and ``fmod``; x by 0 is x for integers."""
    wide = widened(equation.dtype)
    x, y = (graph.cast(each, wide) for each in aligned(graph, [x, y], equation.shape))
    if wide.kind == "f":
        return elementwise(graph, "Mod", [x, y], equation.dtype, equation.shape, fmod=1)
    a = Arithmetic(graph, equation.shape, wide)
    zero, minus = a.flag("Equal", y, 0), a.flag("Equal", y, -1)
    rest = elementwise(graph, "Mod", [x, a.where(a.flag("Or", zero, minus), 1, y)], wide, equation.shape, fmod=1)
    return graph.cast(a.where(zero, x, rest), equation.dtype)


@lowers("pow")
def _pow(graph: Graph, equation: Equation, x: Value, y: Value) -> Value:
    return elementwise(graph, "Pow", aligned(graph, [x, y], equation.shape), equation.dtype, equation.shape)


@lowers("integer_pow", "square")
def _integer_pow(graph: Graph, equation: Equation, x: Value) -> Value:
    exponent = int(equation.params.get("y", 2))
    wide = widened(equation.dtype)
    a = Arithmetic(graph, equation.shape, wide)
    base, left = graph.cast(x, wide), abs(exponent)
    total: Value | None = None
    while left:
        if left & 1:
            total = base if total is None else a.op("Mul", total, base)
        left >>= 1
        if left:
            base = a.op("Mul", base, base)
    if total is None:
        return Value(
            equation.dtype, equation.shape, tuple(1 for _ in equation.shape), array=np.ones([1] * len(equation.shape), equation.dtype)
        )
    return graph.cast(a.op("Div", 1, total) if exponent < 0 else total, equation.dtype)


@lowers("rsqrt")
def _rsqrt(graph: Graph, equation: Equation, x: Value) -> Value:
    a = Arithmetic(graph, equation.shape, equation.dtype)
    return a.op("Div", 1, a.op("Sqrt", x))


@lowers("round")
def _round(graph: Graph, equation: Equation, x: Value) -> Value:
    a = Arithmetic(graph, equation.shape, equation.dtype)
    if int(equation.params["rounding_method"]) == 1:  # to the nearest even
        return a.op("Round", x)
    size = a.op("Abs", x)
    whole = a.op("Floor", size)
    up = a.flag("GreaterOrEqual", a.op("Sub", size, whole), 0.5)
    return a.op("Mul", a.op("Sign", x), a.where(up, a.op("Add", whole, 1), whole))


_COMPARISONS = {"eq": "Equal", "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual"}


@lowers(*_COMPARISONS, "ne")
def _comparison(graph: Graph, equation: Equation, x: Value, y: Value) -> Value:
    values = aligned(graph, [x, y], equation.shape)
    kind = _COMPARISONS.get(equation.primitive, "Equal")
    if x.dtype != BOOL or kind != "Equal":
        values = [graph.cast(value, widened(value.dtype)) for value in values]
    flag = elementwise(graph, kind, values, bool, equation.shape)
    return flag if equation.primitive != "ne" else elementwise(graph, "Not", [flag], bool, equation.shape)


@lowers("and", "or", "xor")
def _logic(graph: Graph, equation: Equation, x: Value, y: Value) -> Value:
    name = equation.primitive.capitalize()
    kind = name if equation.dtype == BOOL else f"Bitwise{name}"
    return elementwise(graph, kind, aligned(graph, [x, y], equation.shape), equation.dtype, equation.shape)


@lowers("not")
def _not(graph: Graph, equation: Equation, x: Value) -> Value:
    return elementwise(graph, "Not" if equation.dtype == BOOL else "BitwiseNot", [x], equation.dtype, equation.shape)


@lowers("shift_left", "shift_right_logical", "shift_right_arithmetic")
def _shift(graph: Graph, equation: Equation, x: Value, y: Value) -> Value:
    """By as many bits as the dtype has, or more: 0, or the sign."""
    bits = equation.dtype.itemsize * 8
    if bits == 64:
        raise ExportError("shifts of 64-bit integers have no counterpart in ONNX Runtime's operators")
    a = Arithmetic(graph, equation.shape, np.int64)
    x, y = aligned(graph, [x, y], equation.shape)
    if equation.primitive == "shift_right_logical":  # the bits without a sign
        x = graph.cast(x, np.dtype(f"uint{bits}"))
    number, places = graph.cast(x, np.int64), graph.cast(graph.cast(y, np.dtype(f"uint{bits}")), np.int64)
    beyond = a.flag("GreaterOrEqual", places, bits)
    unsigned = graph.cast(a.where(beyond, 0, places), np.uint64)
    factor = elementwise(graph, "BitShift", [graph.constant(np.uint64(1)), unsigned], np.uint64, equation.shape, direction="LEFT")
    factor = graph.cast(factor, np.int64)
    if equation.primitive == "shift_left":
        return graph.cast(a.where(beyond, 0, a.op("Mul", number, factor)), equation.dtype)
    rest = a.op("Mod", number, factor)  # never below 0, so that the division rounds down
    shifted = a.op("Div", a.op("Sub", number, rest), factor)
    outside = a.where(a.flag("Less", number, 0), -1, 0)
    return graph.cast(a.where(beyond, outside, shifted), equation.dtype)


@lowers("select_n")
def _select(graph: Graph, equation: Equation, which: Value, *cases: Value) -> Value:
    if which.dtype == BOOL:
        return choose(graph, which, cases[1], cases[0], equation.shape)
    chosen = cases[-1]
    a = Arithmetic(graph, equation.shape, which.dtype)
    for number in range(len(cases) - 2, -1, -1):
        chosen = choose(graph, a.flag("LessOrEqual", which, number), cases[number], chosen, equation.shape)
    return chosen


def choose(graph: Graph, condition: Value, yes: Value, no: Value, shape: Shape) -> Value:
    condition, yes, no = aligned(graph, [condition, yes, no], shape)
    if yes.dtype != BOOL:
        return elementwise(graph, "Where", [condition, yes, no], yes.dtype, shape)
    a = Arithmetic(graph, shape, bool)  # ONNX Runtime has no Where of flags
    return a.op("Or", a.op("And", condition, yes), a.op("And", a.op("Not", condition), no))


@lowers("clamp")
def _clamp(graph: Graph, equation: Equation, low: Value, x: Value, high: Value) -> Value:
    wide = widened(equation.dtype)
    low, x, high = (graph.cast(each, wide) for each in aligned(graph, [low, x, high], equation.shape))
    a = Arithmetic(graph, equation.shape, wide)
    return graph.cast(a.op("Min", a.op("Max", x, low), high), equation.dtype)


@lowers("is_finite")
def _is_finite(graph: Graph, equation: Equation, x: Value) -> Value:
    a = Arithmetic(graph, equation.shape, x.dtype)
    return a.flag("Equal", a.op("Sub", x, x), 0)


@lowers("convert_element_type")
def _convert(graph: Graph, equation: Equation, x: Value) -> Value:
    if x.dtype.kind == "f" and equation.dtype.kind in "iu":
        return _whole(graph, equation, x)
    return graph.cast(x, equation.dtype)


def _whole(graph: Graph, equation: Equation, x: Value) -> Value:
    """Towards zero, and to the nearest number that the dtype holds; not-a-number becomes 0, as XLA does it on the CPU."""
    limits = np.iinfo(equation.dtype)
    a = Arithmetic(graph, equation.shape, np.float64)
    number = graph.cast(x, np.float64)
    inside = a.op("Max", a.op("Min", number, float(limits.max)), float(limits.min))
    if equation.dtype.itemsize == 8:
        return graph.cast(x, equation.dtype)
    return graph.cast(graph.cast(a.where(a.flag("IsNaN", number), 0.0, inside), np.int64), equation.dtype)


@lowers("reduce_precision")
def _reduce_precision(graph: Graph, equation: Equation, x: Value) -> Value:
    bits = (int(equation.params["exponent_bits"]), int(equation.params["mantissa_bits"]))
    own = np.finfo(equation.dtype)
    if bits[0] >= own.nexp and bits[1] >= own.nmant:
        return x
    if bits == (5, 10):
        return graph.cast(graph.cast(x, np.float16), equation.dtype)
    raise ExportError(f"reduce_precision to {bits[0]} bits of exponent and {bits[1]} of mantissa has no counterpart in the graph")


@lowers(
    "copy", "copy_p", "stop_gradient", "device_put", "optimization_barrier", "sharding_constraint", "reshard", "mesh_cast", "pvary", "name"
)
def _same(graph: Graph, equation: Equation, *values: Value) -> Sequence[Value]:
    return values


@lowers("shape_assertion")
def _nothing(graph: Graph, equation: Equation, *values: Value) -> Sequence[Value]:
    return ()


@lowers("dim_as_value")
def _dim_as_value(graph: Graph, equation: Equation) -> Value:
    return graph.cast(graph.scalar(equation.params["dim"]), equation.dtype)
