"""``F.interpolate(scale_factor=…)`` with a factor that ONNX's Resize does not take as PyTorch does, such as 0.7 or 1.3.

PyTorch computes the size in double precision and the coordinates from the factor; Resize keeps the factor as float32, from which
its size and its coordinates come (pytorch/pytorch issue 124884; torch 2.13, onnxscript 0.7.2): 90 * 0.7 is 63 there and not 62.
Such a resize is written out, axis by axis, as gathers and weighted sums; the sizes are those of ``sizes.py``. The coordinates are
computed in double precision and rounded once, which gives those of ATen bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

aten = torch.ops.aten

# Not annotated in torch.
_sym_int: Callable[[Any], Any] = torch.sym_int
_sym_float: Callable[[Any], Any] = torch.sym_float

# The coefficient of Keys' cubic convolution, as ATen has it.
_CUBIC = -0.75


def _as_onnx(factors: Sequence[float] | None) -> bool:
    """Whether Resize gives PyTorch's size and coordinates at every size: whole and half factors, and binary fractions."""
    return factors is None or all((2 * f == int(2 * f) and f > 0) or (0 < f < 1 and 256 * f == int(256 * f)) for f in factors)


def _scalar(size: Any) -> torch.Tensor:
    return torch.full((), size, dtype=torch.int64)


def _places(out: Any) -> torch.Tensor:
    return torch.arange(out, dtype=torch.int64).to(torch.float64)


def _float32(number: float) -> float:
    return float(np.float32(number))


def _resized(function: Callable[..., torch.Tensor]) -> Callable[..., Any]:
    """A decomposition that resizes each axis by ``function(x, axis, out, factor, …)``."""

    def resize(x: torch.Tensor, output_size: Any, *rest: Any) -> Any:
        *options, factors = rest
        if _as_onnx(factors):
            return NotImplemented
        for axis, factor in enumerate(factors, start=2):
            out = _sym_int(_sym_float(x.shape[axis]) * factor)
            x = function(x, axis, out, factor, *options)
        return x

    return resize


def _nearest(exact: bool) -> Callable[..., torch.Tensor]:
    def along(x: torch.Tensor, axis: int, out: Any, factor: float) -> torch.Tensor:
        i = _places(out)
        source = torch.floor(((i + 0.5 if exact else i) * _float32(1 / factor)).to(torch.float32)).to(torch.int64)
        if x.dim() > 3:
            # Of images and volumes, ATen does not use the factor where the size stays or doubles.
            whole = i.to(torch.int64)
            source = torch.where(_scalar(out) == 2 * _scalar(x.shape[axis]), torch.div(whole, 2, rounding_mode="floor"), source)
            source = torch.where(_scalar(out) == _scalar(x.shape[axis]), whole, source)
        return torch.index_select(x, axis, torch.minimum(source, _scalar(x.shape[axis]) - 1))

    return along


def _source(x: torch.Tensor, axis: int, out: Any, factor: float, align_corners: bool) -> torch.Tensor:
    """Where each place of the result lies in ``x``, as float32."""
    if not align_corners:
        return ((_places(out) + 0.5) * _float32(1 / factor) - 0.5).to(torch.float32)
    steps = (_scalar(out) - 1).to(torch.float32)
    step = (_scalar(x.shape[axis]) - 1).to(torch.float32) / torch.clamp(steps, min=1.0)
    return (_places(out) * torch.where(steps > 0, step, torch.zeros_like(step)).to(torch.float64)).to(torch.float32)


def _along(weights: torch.Tensor, x: torch.Tensor, axis: int) -> torch.Tensor:
    return weights.to(x.dtype).reshape((-1,) + (1,) * (x.dim() - 1 - axis))


def _linear(x: torch.Tensor, axis: int, out: Any, factor: float, align_corners: bool) -> torch.Tensor:
    source = torch.clamp(_source(x, axis, out, factor, align_corners), min=0.0)
    source = torch.where(_scalar(out) == _scalar(x.shape[axis]), _places(out).to(torch.float32), source)
    last = _scalar(x.shape[axis]) - 1
    low = torch.minimum(source.to(torch.int64), last)
    high = torch.minimum(low + 1, last)
    share = _along(torch.clamp(source - low.to(torch.float32), max=1.0), x, axis)
    return torch.index_select(x, axis, low) * (1 - share) + torch.index_select(x, axis, high) * share


def _cubic(x: torch.Tensor, axis: int, out: Any, factor: float, align_corners: bool) -> torch.Tensor:
    source = _source(x, axis, out, factor, align_corners)
    floor = torch.floor(source)
    t = source - floor
    last = _scalar(x.shape[axis]) - 1

    def near(d: torch.Tensor) -> torch.Tensor:
        return ((_CUBIC + 2) * d - (_CUBIC + 3)) * d * d + 1

    def far(d: torch.Tensor) -> torch.Tensor:
        return ((_CUBIC * d - 5 * _CUBIC) * d + 8 * _CUBIC) * d - 4 * _CUBIC

    answer = None
    for offset, weights in ((-1, far(t + 1)), (0, near(t)), (1, near(1 - t)), (2, far(2 - t))):
        index = torch.minimum(torch.clamp(floor.to(torch.int64) + offset, min=0), last)
        term = torch.index_select(x, axis, index) * _along(weights, x, axis)
        answer = term if answer is None else answer + term
    assert answer is not None  # noqa: S101 - for the type checker: there are four terms
    return answer


DECOMPOSITIONS: Mapping[Any, Callable[..., Any]] = {
    aten.upsample_nearest1d.vec: _resized(_nearest(exact=False)),
    aten.upsample_nearest2d.vec: _resized(_nearest(exact=False)),
    aten.upsample_nearest3d.vec: _resized(_nearest(exact=False)),
    aten._upsample_nearest_exact1d.vec: _resized(_nearest(exact=True)),
    aten._upsample_nearest_exact2d.vec: _resized(_nearest(exact=True)),
    aten._upsample_nearest_exact3d.vec: _resized(_nearest(exact=True)),
    aten.upsample_linear1d.vec: _resized(_linear),
    aten.upsample_bilinear2d.vec: _resized(_linear),
    aten.upsample_trilinear3d.vec: _resized(_linear),
    aten.upsample_bicubic2d.vec: _resized(_cubic),
}
