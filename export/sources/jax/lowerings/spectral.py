"""Fourier transforms. A complex value is a pair of real ones; it can be moved, added, multiplied and measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from onnxferry.export.sources.jax.convert import LOWERINGS, Equation, Lowering, lowers
from onnxferry.export.sources.jax.graph import Graph, Value
from onnxferry.export.sources.jax.lowerings.elementwise import Arithmetic
from onnxferry.runtime.errors import ExportError

MOVES = (
    "broadcast_in_dim", "stack", "unstack", "reshape", "squeeze", "expand_dims", "transpose", "rev", "slice", "split", "concatenate",
    "dynamic_slice",
    "dynamic_update_slice", "gather", "select_n", "copy", "copy_p", "stop_gradient", "reduce_sum", "cumsum", "add", "add_any", "sub", "neg",
)  # fmt: skip
"""What may be done to both parts alike."""


@dataclass(frozen=True, eq=False)
class Complex(Value):
    """Two real values of one shape."""

    both: tuple[Value, ...] = ()  # real and imaginary


def _pair(real: Value, imag: Value) -> Complex:
    dtype = np.dtype(np.complex128 if real.dtype == np.float64 else np.complex64)
    return Complex(dtype, real.shape, real.shape, both=(real, imag))


def parts(graph: Graph, value: Value) -> tuple[Value, Value]:
    """Real and imaginary part of a value of any kind."""
    if isinstance(value, Complex):
        return value.both[0], value.both[1]
    if value.array is not None and value.array.dtype.kind == "c":
        real, imag = value.array.real.copy(), value.array.imag.copy()
        return Value(real.dtype, value.shape, value.stored, array=real), Value(imag.dtype, value.shape, value.stored, array=imag)
    zero = np.zeros([1] * len(value.shape), value.dtype)
    return value, Value(value.dtype, value.shape, zero.shape, array=zero)


def _on_both(lowering: Lowering, graph: Graph, equation: Equation, *values: Value) -> Any:
    if not any(value.dtype.kind == "c" for value in values):
        return lowering(graph, equation, *values)
    outputs = tuple((np.dtype(np.float64 if d == np.complex128 else np.float32) if d.kind == "c" else d, s) for d, s in equation.outputs)
    on_parts = Equation(equation.primitive, equation.params, outputs)

    def one(which: int) -> Sequence[Value]:
        inputs = [parts(graph, value)[which] if value.dtype.kind == "c" else value for value in values]
        made = lowering(graph, on_parts, *inputs)
        return [made] if isinstance(made, Value) else list(made)

    return [_pair(real, imag) for real, imag in zip(one(0), one(1), strict=True)]


LOWERINGS.update({name: partial(_on_both, LOWERINGS[name]) for name in MOVES})


def _for_complex(name: str) -> Callable[[Lowering], Lowering]:
    """A lowering of complex values beside the one that is there for real ones."""
    real = LOWERINGS.get(name)

    def register(lowering: Lowering) -> Lowering:
        def either(graph: Graph, equation: Equation, *values: Value) -> Any:
            if any(value.dtype.kind == "c" for value in values) or equation.dtype.kind == "c":
                return lowering(graph, equation, *values)
            if real is None:
                raise ExportError(f"{name} of real values has no counterpart in the graph")
            return real(graph, equation, *values)

        LOWERINGS[name] = either
        return lowering

    return register


def _arithmetic(graph: Graph, equation: Equation, value: Value) -> Arithmetic:
    return Arithmetic(graph, equation.shape, parts(graph, value)[0].dtype)


@_for_complex("mul")
def _mul(graph: Graph, equation: Equation, x: Value, y: Value) -> Value:
    a = _arithmetic(graph, equation, x)
    (p, q), (r, s) = parts(graph, x), parts(graph, y)
    real = a.op("Sub", a.op("Mul", p, r), a.op("Mul", q, s))
    return _pair(real, a.op("Add", a.op("Mul", p, s), a.op("Mul", q, r)))


@_for_complex("div")
def _div(graph: Graph, equation: Equation, x: Value, y: Value) -> Value:
    a = _arithmetic(graph, equation, x)
    (p, q), (r, s) = parts(graph, x), parts(graph, y)
    size = a.op("Add", a.op("Mul", r, r), a.op("Mul", s, s))
    real = a.op("Div", a.op("Add", a.op("Mul", p, r), a.op("Mul", q, s)), size)
    return _pair(real, a.op("Div", a.op("Sub", a.op("Mul", q, r), a.op("Mul", p, s)), size))


@_for_complex("abs")
def _abs(graph: Graph, equation: Equation, x: Value) -> Value:
    """Scaled by the larger part, so that no square leaves the range."""
    a = _arithmetic(graph, equation, x)
    real, imag = (a.op("Abs", part) for part in parts(graph, x))
    largest, least = a.op("Max", real, imag), a.op("Min", real, imag)
    ratio = a.op("Div", least, a.where(a.flag("Equal", largest, 0), 1, largest))
    return a.op("Mul", largest, a.op("Sqrt", a.op("Add", a.op("Mul", ratio, ratio), 1)))


@_for_complex("exp")
def _exp(graph: Graph, equation: Equation, x: Value) -> Value:
    a = _arithmetic(graph, equation, x)
    real, imag = parts(graph, x)
    size = a.op("Exp", real)
    return _pair(a.op("Mul", size, a.op("Cos", imag)), a.op("Mul", size, a.op("Sin", imag)))


@_for_complex("convert_element_type")
def _convert(graph: Graph, equation: Equation, x: Value) -> Value:
    real, imag = parts(graph, x)
    if equation.dtype.kind != "c":
        return graph.cast(real, equation.dtype)
    dtype = np.float64 if equation.dtype == np.complex128 else np.float32
    return _pair(graph.cast(real, dtype), graph.cast(imag, dtype))


@lowers("real")
def _real(graph: Graph, equation: Equation, x: Value) -> Value:
    return parts(graph, x)[0]


@lowers("imag")
def _imag(graph: Graph, equation: Equation, x: Value) -> Value:
    return parts(graph, x)[1]


@lowers("complex")
def _complex(graph: Graph, equation: Equation, real: Value, imag: Value) -> Value:
    return _pair(graph.full(real), graph.full(imag))


@lowers("conj")
def _conj(graph: Graph, equation: Equation, x: Value) -> Value:
    real, imag = parts(graph, x)
    return _pair(real, _arithmetic(graph, equation, x).op("Neg", imag))


@lowers("fft")
def _fft(graph: Graph, equation: Equation, x: Value) -> Value:
    kind = str(equation.params["fft_type"]).rpartition(".")[2]
    kind = {"0": "FFT", "1": "IFFT", "2": "RFFT", "3": "IRFFT"}.get(kind, kind)
    rank, lengths = len(equation.shape), equation.params["fft_lengths"]
    axes = list(range(rank - len(lengths), rank))
    real, imag = (graph.full(part) for part in parts(graph, x))
    shape = list(x.shape)
    if kind == "RFFT":
        shape[-1] = equation.shape[-1]
        both = graph.stored_as(real, (*x.shape, 1), (*x.shape, 1))
        both = graph.op("DFT", [both], real.dtype, (*shape, 2), axis=rank - 1, onesided=1)
        axes = axes[:-1]
    else:
        if kind == "IRFFT":
            real, imag, shape = _mirrored(graph, real, imag, lengths[-1], axes[:-1])
        columns = [graph.stored_as(part, (*shape, 1), (*shape, 1)) for part in (real, imag)]
        both = graph.op("Concat", columns, real.dtype, (*shape, 2), axis=rank)
    for axis in reversed(axes):
        both = graph.op("DFT", [both], real.dtype, (*shape, 2), axis=axis, inverse=int(kind.startswith("I")))
    found = [graph.take(both, graph.constant(np.int64(place)), rank) for place in (0, 1)]
    return found[0] if kind == "IRFFT" else _pair(found[0], found[1])


def _mirrored(graph: Graph, real: Value, imag: Value, length: Any, others: Sequence[int]) -> tuple[Value, Value, list[Any]]:
    """All ``length`` entries of the spectrum of a real signal: the missing ones are the given ones' conjugates, counted from the end."""
    axis = len(real.shape) - 1
    shape = [*real.shape[:-1], length]
    given, missing = length // 2 + 1, (length + 1) // 2 - 1
    made = []
    for part, sign in ((real, 1), (imag, -1)):
        kept = graph.slice(part, axis, graph.ints(0), graph.size(given), given)
        back = graph.slice(kept, axis, graph.size(missing), graph.ints(0), missing, -1)
        for other in others:  # along these, entry i answers to entry -i
            size = back.shape[other]
            first = graph.slice(back, other, graph.ints(0), graph.ints(1), 1)
            rest = graph.slice(back, other, graph.ints(-1), graph.ints(0), size - 1, -1)
            back = graph.op("Concat", [first, rest], part.dtype, back.shape, axis=other)
        if sign < 0:
            back = graph.op("Neg", [back], part.dtype, back.shape)
            # The first entry, and the last of an even length, are real whatever was given.
        made.append(graph.op("Concat", [kept, back], part.dtype, tuple(shape), axis=axis))
    return made[0], made[1], shape
