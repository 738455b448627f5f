"""Division, remainder and their rounding, as PyTorch defines them.

- Whole numbers: the converter takes ``torch.div(a, b, rounding_mode=…)`` through float32 (microsoft/onnxscript issues 2589 and
  2144; onnxscript 0.7.2), wrong beyond 2**24; ONNX Runtime 1.31 computes Mod with ``fmod=1`` through float64, wrong beyond 2**53.
- Floats: the converter's remainder is ``a - b * floor(a / b)`` and its ``//`` is ``floor(a / b)`` (microsoft/onnxscript issues 2727
  and 989, pytorch/pytorch issue 37743): 1.0 % 0.1 is 0.1 and not 0, and x % inf is x and not NaN.

ONNX's Div of whole numbers cuts toward zero, and its Mod without ``fmod`` has the sign of the divisor, as Python's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import opset18

# Its annotations know nothing of the constants that it takes in place of tensors.
op: Any = opset18

aten = torch.ops.aten


def _pair(a: Any, b: Any) -> tuple[Any, Any, ir.DataType]:
    """Both as ONNX values of the dtype that the tensor among them has."""
    dtype: Any = (a if isinstance(a, ir.Value) else b).dtype
    return _value(a, dtype), _value(b, dtype), dtype


def _value(number: Any, dtype: ir.DataType) -> Any:
    return number if isinstance(number, ir.Value) else op.Constant(value=ir.tensor(number, dtype=dtype))


def _divide(a: Any, b: Any, rounding_mode: str | None = None) -> Any:
    a, b, dtype = _pair(a, b)
    if rounding_mode is None:
        real = ir.DataType.FLOAT if dtype.is_integer() else dtype
        return op.Div(op.Cast(a, to=real), op.Cast(b, to=real)) if dtype.is_integer() else op.Div(a, b)
    if rounding_mode == "floor":
        return _floor_divide(a, b)
    return op.Div(a, b) if dtype.is_integer() else _toward_zero(op.Div(a, b))


def _toward_zero(x: Any) -> Any:
    return op.Mul(op.Sign(x), op.Floor(op.Abs(x)))


def _floor_divide(a: Any, b: Any) -> Any:
    a, b, dtype = _pair(a, b)
    if dtype.is_integer():
        quotient = op.Div(a, b)
        if not dtype.is_signed():
            return quotient
        # One less where something was cut off and the signs differ.
        rest = op.Sub(a, op.Mul(quotient, b))
        zero = _value(0, dtype)
        return op.Sub(quotient, op.Cast(_other_side(rest, b, zero), to=dtype))
    # As ATen's div_floor_floating: from the exact remainder, rounded to the nearest whole number.
    zero, one = _value(0.0, dtype), _value(1.0, dtype)
    rest = op.Mod(a, b, fmod=1)
    quotient = op.Div(op.Sub(a, rest), b)
    quotient = op.Where(_other_side(rest, b, zero), op.Sub(quotient, one), quotient)
    floored = op.Floor(quotient)
    floored = op.Where(op.Greater(op.Sub(quotient, floored), _value(0.5, dtype)), op.Add(floored, one), floored)
    return op.Where(op.Equal(b, zero), op.Div(a, b), floored)


def _remainder(a: Any, b: Any) -> Any:
    a, b, dtype = _pair(a, b)
    if dtype.is_integer():
        return op.Mod(a, b)
    rest = op.Mod(a, b, fmod=1)
    return op.Where(_other_side(rest, b, _value(0.0, dtype)), op.Add(rest, b), rest)


def _other_side(rest: Any, b: Any, zero: Any) -> Any:
    """Whether something is left, and its sign is not the divisor's."""
    return op.And(op.Not(op.Equal(rest, zero)), op.Xor(op.Less(rest, zero), op.Less(b, zero)))


def _fmod(a: Any, b: Any) -> Any:
    a, b, dtype = _pair(a, b)
    return op.Sub(a, op.Mul(op.Div(a, b), b)) if dtype.is_integer() else op.Mod(a, b, fmod=1)


TRANSLATIONS: Mapping[Any, Callable[..., Any]] = {
    aten.div.Tensor_mode: _divide,
    aten.div.Scalar_mode: _divide,
    aten.floor_divide.default: _floor_divide,
    aten.floor_divide.Scalar: _floor_divide,
    aten.remainder.Tensor: _remainder,
    aten.remainder.Scalar: _remainder,
    aten.remainder.Scalar_Tensor: _remainder,
    aten.fmod.Tensor: _fmod,
    aten.fmod.Scalar: _fmod,
}


def _fake_quantized(x: torch.Tensor, scale: Any, zero_point: Any, low: int, high: int) -> tuple[torch.Tensor, torch.Tensor]:
    """To the levels of an integer and back, by the reciprocal of the scale; the converter knows three pairs of limits only."""
    inverse = torch.reciprocal(scale) if isinstance(scale, torch.Tensor) else 1.0 / torch.full((), scale, dtype=x.dtype)
    level = torch.round(x * inverse) + (zero_point.to(x.dtype) if isinstance(zero_point, torch.Tensor) else zero_point)
    inside = (level >= low) & (level <= high)
    return (torch.clamp(level, low, high) - zero_point) * scale, inside


def _fake_quantized_channels(
    x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, axis: int, low: int, high: int
) -> tuple[torch.Tensor, torch.Tensor]:
    shape = [1] * x.dim()
    shape[axis] = -1
    return _fake_quantized(x, scale.reshape(shape), zero_point.reshape(shape), low, high)


DECOMPOSITIONS: Mapping[Any, Callable[..., Any]] = {
    aten.fake_quantize_per_tensor_affine.default: lambda *given: _fake_quantized(*given)[0],
    aten.fake_quantize_per_tensor_affine.tensor_qparams: lambda *given: _fake_quantized(*given)[0],
    aten.fake_quantize_per_tensor_affine_cachemask.default: _fake_quantized,
    aten.fake_quantize_per_channel_affine.default: lambda *given: _fake_quantized_channels(*given)[0],
    aten.fake_quantize_per_channel_affine_cachemask.default: _fake_quantized_channels,
}
