"""The error function's relatives: erfc, erfcx, erfinv, the normal distribution's quantiles and its logarithm.

``erfcx(x)`` is ``exp(x**2) * erfc(x)``: of all of them the one that neither underflows nor cancels, so the others come from it. Quantiles
in the tails come from ``sqrt(-log(p))``, in which they are nearly straight.
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


def _by(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: function(torch.from_numpy(x)).numpy()


# erfcx(x) / u, where u = 1 / (1 + x) runs over all of x >= 0.
_ERFCX = Table(_by(lambda u: _special.erfcx(1 / u - 1) / u), 0.0, 1.0, 128)
# erfinv(y) / y, by y**2.
_ERFINV = Table(_by(lambda square: torch.erfinv(square.sqrt()) / square.sqrt()), 0.0, 0.64, 64)
# The quantile, its sign dropped, by sqrt(-log(p)) for p from 1e-307 to 0.15.
_TAIL = Table(_by(lambda z: -_special.ndtri(torch.exp(-z * z))), 1.37, 26.6, 256)


def _erfcx_positive(x: Formula) -> Formula:
    u = 1.0 / (x + 1.0)
    return u * _ERFCX(u)


def _erfcx(x: Any) -> Any:
    real = Formula.of(x)
    positive = _erfcx_positive(abs(real))
    return where(real < 0.0, 2.0 * (real * real).exp() - positive, positive).like(x)


def _erfc(x: Any) -> Any:
    real = Formula.of(x)
    size = abs(real)
    positive = _erfcx_positive(size) * (-size * size).exp()
    return where(real < 0.0, 2.0 - positive, positive).like(x)


def _log_ndtr(x: Any) -> Any:
    real = Formula.of(x)
    scaled = abs(real) * math.sqrt(0.5)
    square = scaled * scaled
    half = 0.5 * _erfcx_positive(scaled)
    # log(1 - tail), by its series where the tail is small.
    tail = half * (-square).exp()
    above = where(tail < 1e-5, -tail * (1.0 + 0.5 * tail), (1.0 - tail).log())
    return where(real < 0.0, half.log() - square, above).like(x)


def _erfinv(x: Any) -> Any:
    real = Formula.of(x)
    size = abs(real)
    middle = size * _ERFINV(size * size)
    outer = _TAIL((-(((1.0 - size) * 0.5).log())).sqrt()) * math.sqrt(0.5)
    made = where(size < 0.8, middle, outer)
    made = where(size.equals(1.0), math.inf, where(size > 1.0, math.nan, made))
    return (made * real.sign()).like(x)


def _ndtri(x: Any) -> Any:
    p = Formula.of(x)
    centred = 2.0 * p - 1.0
    middle = math.sqrt(2.0) * centred * _ERFINV(centred * centred)
    low = -_TAIL((-(p.log())).sqrt())
    high = _TAIL((-((1.0 - p).log())).sqrt())
    made = where(p < 0.15, low, where(p > 0.85, high, middle))
    made = where(p.equals(0.0), -math.inf, where(p.equals(1.0), math.inf, made))
    return where((p < 0.0) | (p > 1.0), math.nan, made).like(x)


TRANSLATIONS: Mapping[Any, Callable[..., Any]] = {
    aten.special_erfcx.default: _erfcx,
    aten.erfc.default: _erfc,
    aten.erfinv.default: _erfinv,
    aten.special_ndtri.default: _ndtri,
    aten.special_log_ndtr.default: _log_ndtr,
}
