"""Formulas in ONNX operators, and functions of one number as tables of polynomials.

ONNX has none of the special functions. Each is computed in float64 from what ONNX has (exp, log, sin, cos, sqrt) and from smooth
functions of one number between two bounds. For these, a table holds a polynomial an interval, interpolated at Chebyshev points of
PyTorch's own float64 function (L. N. Trefethen, Approximation Theory and Approximation Practice, chapter 8): no coefficients are copied
from anywhere. ONNX Runtime 1.31 has Gather and every operator used here in float64 on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Self

import numpy as np
import onnx_ir as ir
from onnxscript import opset18

# Its annotations know nothing of the constants that it takes in place of tensors.
op: Any = opset18

DEGREE = 7


class Formula:
    """A float64 value of the graph; Python's arithmetic on it adds nodes."""

    def __init__(self, value: Any) -> None:
        self.value = value

    @classmethod
    def of(cls, x: Any) -> Self:
        """Any number or tensor, in float64."""
        return cls(op.Cast(x, to=ir.DataType.DOUBLE) if isinstance(x, ir.Value) else _constant(float(x)))

    def like(self, x: Any) -> Any:
        """The result in the dtype that PyTorch gives for arguments of this dtype: whole numbers and flags give float32."""
        real = isinstance(x, ir.Value) and x.dtype is not None and x.dtype.is_floating_point()
        # Of nothing nothing: ONNX Runtime 1.31 fails on sums of it.
        nothing = isinstance(x, ir.Value) and x.shape is not None and 0 in tuple(x.shape)
        return op.Cast(x if nothing else self.value, to=x.dtype if real else ir.DataType.FLOAT)

    def __add__(self, other: Any) -> Formula:
        return Formula(op.Add(self.value, _value(other)))

    def __radd__(self, other: Any) -> Formula:
        return Formula(op.Add(_value(other), self.value))

    def __sub__(self, other: Any) -> Formula:
        return Formula(op.Sub(self.value, _value(other)))

    def __rsub__(self, other: Any) -> Formula:
        return Formula(op.Sub(_value(other), self.value))

    def __mul__(self, other: Any) -> Formula:
        return Formula(op.Mul(self.value, _value(other)))

    def __rmul__(self, other: Any) -> Formula:
        return Formula(op.Mul(_value(other), self.value))

    def __truediv__(self, other: Any) -> Formula:
        return Formula(op.Div(self.value, _value(other)))

    def __rtruediv__(self, other: Any) -> Formula:
        return Formula(op.Div(_value(other), self.value))

    def __neg__(self) -> Formula:
        return Formula(op.Neg(self.value))

    def __abs__(self) -> Formula:
        return Formula(op.Abs(self.value))

    def __lt__(self, other: Any) -> Condition:
        return Condition(op.Less(self.value, _value(other)))

    def __gt__(self, other: Any) -> Condition:
        return Condition(op.Greater(self.value, _value(other)))

    def __le__(self, other: Any) -> Condition:
        return Condition(op.LessOrEqual(self.value, _value(other)))

    def __ge__(self, other: Any) -> Condition:
        return Condition(op.GreaterOrEqual(self.value, _value(other)))

    def equals(self, other: Any) -> Condition:
        return Condition(op.Equal(self.value, _value(other)))

    def log(self) -> Formula:
        return Formula(op.Log(self.value))

    def exp(self) -> Formula:
        return Formula(op.Exp(self.value))

    def sqrt(self) -> Formula:
        return Formula(op.Sqrt(self.value))

    def sin(self) -> Formula:
        return Formula(op.Sin(self.value))

    def cos(self) -> Formula:
        return Formula(op.Cos(self.value))

    def floor(self) -> Formula:
        return Formula(op.Floor(self.value))

    def round(self) -> Formula:
        return Formula(op.Round(self.value))

    def sign(self) -> Formula:
        return Formula(op.Sign(self.value))

    def power(self, exponent: Any) -> Formula:
        return Formula(op.Pow(self.value, _value(exponent)))

    def and_next(self, count: int) -> Formula:
        """``x, x + 1 …``, ``count`` of them along a new last axis."""
        apart = op.Unsqueeze(self.value, op.Constant(value=ir.tensor(np.array([-1]))))
        return Formula(op.Add(apart, op.Constant(value=ir.tensor(np.arange(float(count))))))

    def along_new_axis(self) -> Formula:
        return Formula(op.Unsqueeze(self.value, op.Constant(value=ir.tensor(np.array([-1])))))

    def summed(self, count: int) -> Formula:
        """Over the last axis, which has ``count`` numbers and goes."""
        return Formula(op.MatMul(self.value, op.Constant(value=ir.tensor(np.ones(count)))))


class Condition:
    """A truth value of the graph."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __and__(self, other: Condition) -> Condition:
        return Condition(op.And(self.value, other.value))

    def __or__(self, other: Condition) -> Condition:
        return Condition(op.Or(self.value, other.value))

    def __invert__(self) -> Condition:
        return Condition(op.Not(self.value))


def where(condition: Condition, then: Any, otherwise: Any) -> Formula:
    return Formula(op.Where(condition.value, _value(then), _value(otherwise)))


def _constant(number: float) -> Any:
    return op.Constant(value=ir.tensor(np.float64(number)))


def _value(x: Any) -> Any:
    return x.value if isinstance(x, Formula) else _constant(x)


class Table:
    """``function`` on [low, high], as a polynomial of ``DEGREE`` on each of ``pieces`` equal intervals.

    ``function`` takes and gives a float64 array; it is only called at points inside the interval, never at its bounds.
    """

    def __init__(self, function: Callable[[np.ndarray], np.ndarray], low: float, high: float, pieces: int) -> None:
        self._function, self._low, self._high, self._pieces = function, low, high, pieces

    @cache  # noqa: B019 - the tables are module constants
    def coefficients(self) -> np.ndarray:
        """(DEGREE + 1, pieces): in powers of the place inside the interval, from -1 to 1."""
        points = np.cos(np.pi * (np.arange(DEGREE + 1) + 0.5) / (DEGREE + 1))
        width = (self._high - self._low) / self._pieces
        middles = self._low + width * (np.arange(self._pieces) + 0.5)
        values = self._function(middles + 0.5 * width * points[:, None])
        in_chebyshev = np.linalg.solve(np.polynomial.chebyshev.chebvander(points, DEGREE), values)
        powers = np.zeros((DEGREE + 1, DEGREE + 1))
        for degree in range(DEGREE + 1):
            powers[: degree + 1, degree] = np.polynomial.chebyshev.cheb2poly(np.eye(DEGREE + 1)[degree, : degree + 1])
        made: np.ndarray = powers @ in_chebyshev
        return made

    def __call__(self, x: Formula) -> Formula:
        """Beyond the bounds the polynomials next to them go on; the caller chooses something else there."""
        place = (x - self._low) * (self._pieces / (self._high - self._low))
        # NaN has no place; it comes out by the powers of the place below.
        known = op.Where(op.IsNaN(place.value), _constant(0.0), place.value)
        inside = op.Clip(known, _constant(0.0), _constant(self._pieces - 1))
        piece = op.Cast(op.Floor(inside), to=ir.DataType.INT64)
        within = (place - Formula(op.Floor(inside))) * 2.0 - 1.0
        terms = [Formula(op.Gather(op.Constant(value=ir.tensor(row)), piece, axis=0)) for row in self.coefficients()]
        result = terms[-1]
        for term in reversed(terms[:-1]):
            result = result * within + term
        return result
