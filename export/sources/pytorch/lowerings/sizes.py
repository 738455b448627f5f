"""Sizes that the model computes with factors and ratios: ``int(n * 0.7)``, ``-(-n // 4)``, ``math.ceil(n / 3)``, ``round(n / 2)``.

PyTorch computes them in double precision, the converter in float32 (onnxscript 0.7.2 and torch 2.13; pytorch/pytorch issue 124884),
where 0.7 * 90 is 63 and not 62; and its ``//`` of two sizes cuts toward zero. Here every number keeps a double behind it.
"""

from __future__ import annotations

import builtins
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import opset18

aten = torch.ops.aten
op: Any = opset18

_DOUBLE = ir.DataType.DOUBLE
_FLOAT = ir.DataType.FLOAT
_INT = ir.DataType.INT64


def _double(number: Any) -> Any:
    """The number in double precision: of what :func:`_shown` made, what it was made from."""
    if not isinstance(number, ir.Value):
        return op.Constant(value=ir.tensor(float(number), dtype=_DOUBLE))
    made_by = number.producer()
    if made_by is not None and made_by.op_type == "Cast" and made_by.inputs[0] is not None and made_by.inputs[0].dtype == _DOUBLE:
        return made_by.inputs[0]
    return op.Cast(number, to=_DOUBLE)


def _shown(double: Any) -> Any:
    """A double as the converter expects a float; :func:`_double` finds the double again."""
    double.dtype = _DOUBLE
    return op.Cast(double, to=_FLOAT)


def _is_whole(*numbers: Any) -> bool:
    return all(number.dtype == _INT if isinstance(number, ir.Value) else isinstance(number, int) for number in numbers)


def _with(whole: Callable[..., Any], plain: str) -> Callable[..., Any]:
    """An operator that is ``whole`` on whole numbers, and ONNX's ``plain`` in double precision on others."""

    def translate(a: Any, b: Any) -> Any:
        if _is_whole(a, b):
            return whole(a, b)
        return _shown(getattr(op, plain)(_double(a), _double(b)))

    return translate


def _floordiv(a: Any, b: Any) -> Any:
    if not _is_whole(a, b):
        return _shown(op.Floor(op.Div(_double(a), _double(b))))
    a, b = _whole(a), _whole(b)
    quotient = op.Div(a, b)
    rest = op.Sub(a, op.Mul(quotient, b))
    zero = _whole(0)
    cut = op.And(op.Not(op.Equal(rest, zero)), op.Xor(op.Less(rest, zero), op.Less(b, zero)))
    return op.Sub(quotient, op.Cast(cut, to=_INT))


def _whole(number: Any) -> Any:
    return number if isinstance(number, ir.Value) else op.Constant(value=ir.tensor(number, dtype=_INT))


def _rounded(how: str) -> Callable[..., Any]:
    def translate(number: Any, digits: None = None) -> Any:
        return number if _is_whole(number) else op.Cast(getattr(op, how)(_double(number)), to=_INT)

    return translate


def _trunc(number: Any) -> Any:
    # ONNX's Cast to a whole number cuts toward zero.
    return number if _is_whole(number) else op.Cast(_double(number), to=_INT)


TRANSLATIONS: Mapping[Any, Callable[..., Any]] = {
    torch.sym_float: lambda number: _shown(_double(number)),
    torch.sym_int: _trunc,
    math.trunc: _trunc,
    math.floor: _rounded("Floor"),
    math.ceil: _rounded("Ceil"),
    builtins.round: _rounded("Round"),  # both to the even neighbour
    operator.truediv: lambda a, b: _shown(op.Div(_double(a), _double(b))),
    operator.floordiv: _floordiv,
    operator.mul: _with(lambda a, b: op.Mul(_whole(a), _whole(b)), "Mul"),
    operator.add: _with(lambda a, b: op.Add(_whole(a), _whole(b)), "Add"),
    operator.sub: _with(lambda a, b: op.Sub(_whole(a), _whole(b)), "Sub"),
    operator.mod: _with(lambda a, b: op.Mod(_whole(a), _whole(b)), "Mod"),
}


def _roll(x: torch.Tensor, shifts: Any, dims: Any = ()) -> Any:
    """By a size that is open, as ``fftshift`` does: the converter takes numbers only."""
    given, axes = ([value] if isinstance(value, int | torch.SymInt) else list(value) for value in (shifts, dims))
    if not axes or not any(isinstance(shift, torch.SymInt) for shift in given):
        return NotImplemented
    for shift, axis in zip(given, axes, strict=True):
        size = x.shape[axis]
        cut = (size - shift) % size
        x = torch.cat([aten.slice(x, axis, cut, size), aten.slice(x, axis, 0, cut)], axis)
    return x


DECOMPOSITIONS: Mapping[Any, Callable[..., Any]] = {aten.roll.default: _roll}
