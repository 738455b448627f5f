"""Signs and angles, signed zeros and infinities among them, and rounding of what is whole already.

- ``atan2``: the converter adds pi by ``y < 0``, so that -0.0 and -pi come out wrong (microsoft/onnxruntime issue 19003,
  pytorch/pytorch issue 162570); ``angle`` of NaN is NaN.
- ``clamp`` with one bound: ONNX Runtime puts the largest float for the other, so that infinity becomes 3.4e38 (onnx/onnx issue 6003).
- ``copysign``, rounding and tests for finiteness of whole numbers: not in the converter (onnxscript 0.7.2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

aten = torch.ops.aten


def sign_bit(x: torch.Tensor) -> torch.Tensor:
    """Of floats, -0.0 included, but not of NaN."""
    if not x.is_floating_point():
        return x < 0
    return (x < 0) | ((x == 0) & (torch.reciprocal(x) < 0))


def _real(x: Any) -> Any:
    return x.to(torch.get_default_dtype()) if isinstance(x, torch.Tensor) and not x.is_floating_point() else x


def _copysign(a: torch.Tensor, b: Any) -> torch.Tensor:
    size = torch.abs(_real(a))
    if not isinstance(b, torch.Tensor):
        return -size if math.copysign(1.0, b) < 0 else size
    return torch.where(sign_bit(b), -size, size)


def _atan2(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    y, x = _real(y), _real(x)
    if y.dtype != x.dtype:
        y, x = y.to(torch.promote_types(y.dtype, x.dtype)), x.to(torch.promote_types(y.dtype, x.dtype))
    high, wide = torch.abs(y), torch.abs(x)
    # Both zero: the angle of (x, 0). Both infinite: of the diagonal.
    ratio = torch.where((high == wide) & ((high == 0) | torch.isinf(high)), (high != 0).to(high.dtype), high / wide)
    angle = torch.atan(ratio)
    angle = torch.where(sign_bit(x), math.pi - angle, angle)
    return torch.where(sign_bit(y), -angle, angle)


def _angle(x: torch.Tensor) -> Any:
    if x.is_complex():
        parts = torch.view_as_real(x)
        return _atan2(parts[..., 1], parts[..., 0])
    x = _real(x)
    return torch.where(torch.isnan(x), x, torch.where(x < 0, torch.full_like(x, math.pi), torch.zeros_like(x)))


def _hypot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Without squares that overflow."""
    a, b = torch.abs(_real(a)), torch.abs(_real(b))
    large, small = torch.maximum(a, b), torch.minimum(a, b)
    ratio = small / large
    return torch.where((large == 0) | torch.isinf(large), large, large * torch.sqrt(1 + ratio * ratio))


def _heaviside(x: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return torch.where(x == 0, values, (x > 0).to(x.dtype))


def _clamp(x: torch.Tensor, low: Any = None, high: Any = None) -> Any:
    """Both bounds of a float, an infinite one where none is given."""
    if not x.is_floating_point() or (low is not None and high is not None) or not _numbers(low, high):
        return NotImplemented
    return torch.clamp(x, -math.inf if low is None else float(low), math.inf if high is None else float(high))


def _numbers(*bounds: Any) -> bool:
    return all(bound is None or isinstance(bound, int | float) for bound in bounds)


def _of_numbers(choose: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Callable[..., Any]:
    """``fmax`` and ``fmin``: of a number and NaN, the number."""

    def chosen(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        dtype = torch.promote_types(a.dtype, b.dtype)
        a, b = a.to(dtype), b.to(dtype)
        if not dtype.is_floating_point:
            return choose(a, b)
        return torch.where(torch.isnan(a), b, torch.where(torch.isnan(b), a, choose(a, b)))

    return chosen


def _of_whole(value: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., Any]:
    """What the operator is on whole numbers and flags; floats are left to the converter."""

    def whole(x: torch.Tensor, *rest: Any, **more: Any) -> Any:
        return NotImplemented if x.is_floating_point() or x.is_complex() else value(x)

    return whole


def _defaults(operator: Any) -> dict[str, Any]:
    """An operator's own defaults by argument."""
    return {argument.name: argument.default_value for argument in operator._schema.arguments if argument.has_default_value()}


def _is_close(a: torch.Tensor, b: torch.Tensor, *bounds: Any, **named: Any) -> Any:
    """Of whole numbers: the difference in whole numbers, the tolerance in float32, as ATen has them."""
    if a.is_floating_point() or a.is_complex():
        return NotImplemented
    if a.dtype is torch.bool:
        return a == b
    given = {**_defaults(aten.isclose.default), **dict(zip(("rtol", "atol"), bounds, strict=False)), **named}
    real = b.to(torch.get_default_dtype())
    return (a == b) | (torch.abs(a - real) <= given["atol"] + torch.abs(given["rtol"] * real))


_same = _of_whole(torch.clone)
_never = _of_whole(lambda x: torch.zeros_like(x, dtype=torch.bool))

DECOMPOSITIONS: Mapping[Any, Callable[..., Any]] = {
    aten.signbit.default: sign_bit,
    aten.copysign.Tensor: _copysign,
    aten.copysign.Scalar: _copysign,
    aten.atan2.default: _atan2,
    aten.angle.default: _angle,
    aten.hypot.default: _hypot,
    aten.heaviside.default: _heaviside,
    aten.clamp.default: _clamp,
    aten.clamp_min.default: lambda x, low: _clamp(x, low, None),
    aten.clamp_max.default: lambda x, high: _clamp(x, None, high),
    aten.fmax.default: _of_numbers(torch.maximum),
    aten.fmin.default: _of_numbers(torch.minimum),
    aten.isclose.default: _is_close,
    aten.floor.default: _same,
    aten.ceil.default: _same,
    aten.trunc.default: _same,
    aten.round.default: _same,
    aten.isfinite.default: _of_whole(lambda x: torch.ones_like(x, dtype=torch.bool)),
    aten.isinf.default: _never,
    aten.isposinf.default: _never,
    aten.isneginf.default: _never,
    aten.isnan.default: _never,
}
