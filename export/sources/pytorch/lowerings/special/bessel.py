"""Bessel functions of order 0 and 1, plain and modified.

Near 0 they are smooth but for a logarithm, which is taken out (NIST Digital Library of Mathematical Functions, 10.8 and 10.31); for large
arguments they are an exponential, or a sine and a cosine, times what is smooth in 1/x (10.17 and 10.40). The bound is 8.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from onnxferry.export.sources.pytorch.lowerings.special.formulas import Formula, Table, where

aten = torch.ops.aten

_special: Any = torch.special
_BOUND = 8.0


def _by(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: function(torch.from_numpy(x)).numpy()


def _near(function: Callable[[torch.Tensor], torch.Tensor], bound: float = _BOUND) -> Table:
    return Table(_by(function), 0.0, bound, 64)


def _far(function: Callable[[torch.Tensor], torch.Tensor], bound: float = _BOUND) -> Table:
    """A function of x beyond the bound, by bound / x."""
    return Table(_by(lambda u: function(bound / u)), 0.0, 1.0, 64)


_I0_NEAR, _I0_FAR = _near(_special.i0e), _far(lambda x: x.sqrt() * _special.i0e(x))
_I1_NEAR, _I1_FAR = _near(lambda x: _special.i1e(x) / x), _far(lambda x: x.sqrt() * _special.i1e(x))

_K_BOUND = 2.0
_K0_NEAR = _near(lambda x: _special.modified_bessel_k0(x) + x.log() * _special.i0(x), _K_BOUND)
_K1_NEAR = _near(lambda x: x * _special.modified_bessel_k1(x) - x * x.log() * _special.i1(x), _K_BOUND)
_K0_FAR = _far(lambda x: x.sqrt() * _special.scaled_modified_bessel_k0(x), _K_BOUND)
_K1_FAR = _far(lambda x: x.sqrt() * _special.scaled_modified_bessel_k1(x), _K_BOUND)

_J0_NEAR = _near(_special.bessel_j0)
_J1_NEAR = _near(lambda x: _special.bessel_j1(x) / x)
_Y0_NEAR = _near(lambda x: _special.bessel_y0(x) - (2 / math.pi) * x.log() * _special.bessel_j0(x))
_Y1_NEAR = _near(lambda x: x * _special.bessel_y1(x) - (2 / math.pi) * x * x.log() * _special.bessel_j1(x))


def _waves(j: Callable[[torch.Tensor], torch.Tensor], y: Callable[[torch.Tensor], torch.Tensor], shift: float) -> tuple[Table, Table]:
    """P and Q of ``j = sqrt(2 / pi x) (P cos - Q sin)(x - shift)``, ``y = sqrt(2 / pi x) (P sin + Q cos)(x - shift)``."""

    def p(x: torch.Tensor) -> torch.Tensor:
        return (x * (math.pi / 2)).sqrt() * (j(x) * (x - shift).cos() + y(x) * (x - shift).sin())

    def q(x: torch.Tensor) -> torch.Tensor:
        return (x * (math.pi / 2)).sqrt() * (y(x) * (x - shift).cos() - j(x) * (x - shift).sin())

    return _far(p), _far(q)


_WAVES_0 = _waves(_special.bessel_j0, _special.bessel_y0, math.pi / 4)
_WAVES_1 = _waves(_special.bessel_j1, _special.bessel_y1, 3 * math.pi / 4)


def _wave(x: Formula, waves: tuple[Table, Table], shift: float, *, second: bool) -> Formula:
    inverse = _BOUND / x
    p, q, angle = waves[0](inverse), waves[1](inverse), x - shift
    sine, cosine = angle.sin(), angle.cos()
    wave = p * sine + q * cosine if second else p * cosine - q * sine
    return (2 / math.pi / x).sqrt() * wave


def _i0e_of(x: Formula) -> Formula:
    size = abs(x)
    return where(size < _BOUND, _I0_NEAR(size), _I0_FAR(_BOUND / size) / size.sqrt())


def _i1e_of(x: Formula) -> Formula:
    size = abs(x)
    return x.sign() * where(size < _BOUND, size * _I1_NEAR(size), _I1_FAR(_BOUND / size) / size.sqrt())


def _i0(x: Any) -> Any:
    real = Formula.of(x)
    return (_i0e_of(real) * abs(real).exp()).like(x)


def _i1(x: Any) -> Any:
    real = Formula.of(x)
    return (_i1e_of(real) * abs(real).exp()).like(x)


def _i0e(x: Any) -> Any:
    return _i0e_of(Formula.of(x)).like(x)


def _i1e(x: Any) -> Any:
    return _i1e_of(Formula.of(x)).like(x)


def _from_0(made: Formula, x: Formula, at_0: float) -> Formula:
    """NaN below 0, and infinity at 0."""
    return where(x.equals(0.0), at_0, where(x < 0.0, math.nan, made))


def _k(x: Any, near: Callable[[Formula], Formula], far: Table, *, scaled: bool) -> Any:
    real = Formula.of(x)
    small = near(real)
    if scaled:
        small = small * real.exp()
    large = far(_K_BOUND / real) / real.sqrt()
    if not scaled:
        large = large * (-real).exp()
    return _from_0(where(real < _K_BOUND, small, large), real, math.inf).like(x)


def _k0_near(x: Formula) -> Formula:
    return _K0_NEAR(x) - x.log() * _i0e_of(x) * x.exp()


def _k1_near(x: Formula) -> Formula:
    return _K1_NEAR(x) / x + x.log() * _i1e_of(x) * x.exp()


def _j0(x: Any) -> Any:
    size = abs(Formula.of(x))
    return where(size < _BOUND, _J0_NEAR(size), _wave(size, _WAVES_0, math.pi / 4, second=False)).like(x)


def _j1(x: Any) -> Any:
    real = Formula.of(x)
    size = abs(real)
    return (real.sign() * where(size < _BOUND, size * _J1_NEAR(size), _wave(size, _WAVES_1, 3 * math.pi / 4, second=False))).like(x)


def _y0(x: Any) -> Any:
    real = Formula.of(x)
    near = _Y0_NEAR(real) + (2 / math.pi) * real.log() * _J0_NEAR(real)
    made = where(real < _BOUND, near, _wave(real, _WAVES_0, math.pi / 4, second=True))
    return _from_0(made, real, -math.inf).like(x)


def _y1(x: Any) -> Any:
    real = Formula.of(x)
    near = _Y1_NEAR(real) / real + (2 / math.pi) * real.log() * real * _J1_NEAR(real)
    made = where(real < _BOUND, near, _wave(real, _WAVES_1, 3 * math.pi / 4, second=True))
    return _from_0(made, real, -math.inf).like(x)


def _spherical_j0(x: Any) -> Any:
    real = Formula.of(x)
    made = where(real.equals(0.0), 1.0, real.sin() / real)
    return where(abs(real).equals(math.inf), 0.0, made).like(x)


TRANSLATIONS: Mapping[Any, Callable[..., Any]] = {
    aten.i0.default: _i0,
    aten.special_i0e.default: _i0e,
    aten.special_i1.default: _i1,
    aten.special_i1e.default: _i1e,
    aten.special_modified_bessel_i0.default: _i0,
    aten.special_modified_bessel_i1.default: _i1,
    aten.special_modified_bessel_k0.default: lambda x: _k(x, _k0_near, _K0_FAR, scaled=False),
    aten.special_modified_bessel_k1.default: lambda x: _k(x, _k1_near, _K1_FAR, scaled=False),
    aten.special_scaled_modified_bessel_k0.default: lambda x: _k(x, _k0_near, _K0_FAR, scaled=True),
    aten.special_scaled_modified_bessel_k1.default: lambda x: _k(x, _k1_near, _K1_FAR, scaled=True),
    aten.special_bessel_j0.default: _j0,
    aten.special_bessel_j1.default: _j1,
    aten.special_bessel_y0.default: _y0,
    aten.special_bessel_y1.default: _y1,
    aten.special_spherical_bessel_j0.default: _spherical_j0,
}
