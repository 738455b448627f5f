"""The gamma function's logarithm and its derivatives, and Hurwitz' zeta function.

Small arguments are moved up by the recurrences, to where the asymptotic series hold (NIST Digital Library of Mathematical Functions,
5.11.1, 5.11.2 and 25.11.28); negative ones are reflected (5.5.3 and 5.5.4).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from onnxferry.export.sources.pytorch.lowerings.special.formulas import Formula, where

aten = torch.ops.aten

# Bernoulli's numbers B2, B4 …
_BERNOULLI = (
    *(1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730),
    *(7 / 6, -3617 / 510, 43867 / 798, -174611 / 330, 854513 / 138, -236364091 / 2730),
)
_MOVED = 10


def _series(coefficients: tuple[float, ...], x: Formula) -> Formula:
    result = coefficients[-1] + 0.0 * x
    for coefficient in reversed(coefficients[:-1]):
        result = result * x + coefficient
    return result


def _from_whole(x: Formula) -> Formula:
    """The distance to the nearest whole number, with its sign."""
    return x - x.round()


def _lgamma_positive(x: Formula) -> Formula:
    large = where(x < _MOVED, x + float(_MOVED), x)
    terms = tuple(b / (2 * k * (2 * k - 1)) for k, b in enumerate(_BERNOULLI[:8], 1))
    at_large = (large - 0.5) * (large.log() - 1.0) + (0.5 * math.log(2 * math.pi) - 0.5) + _series(terms, 1.0 / (large * large)) / large
    return where(x < _MOVED, at_large - x.and_next(_MOVED).log().summed(_MOVED), at_large)


def _lgamma(x: Any) -> Any:
    real = Formula.of(x)
    reflected = real < 0.5
    upper = _lgamma_positive(where(reflected, 1.0 - real, real))
    # Its own sine, so that whole numbers are exactly 0 away.
    sine = abs((math.pi * _from_whole(real)).sin())
    made = where(reflected, math.log(math.pi) - sine.log() - upper, upper)
    made = where(abs(real).equals(math.inf), math.inf, made)
    return where(real.equals(1.0) | real.equals(2.0), 0.0, made).like(x)


def _digamma_positive(x: Formula) -> Formula:
    large = where(x < _MOVED, x + float(_MOVED), x)
    terms = tuple(b / (2 * k) for k, b in enumerate(_BERNOULLI[:8], 1))
    square = 1.0 / (large * large)
    at_large = large.log() - 0.5 / large - square * _series(terms, square)
    return where(x < _MOVED, at_large - (1.0 / x.and_next(_MOVED)).summed(_MOVED), at_large)


def _digamma(x: Any) -> Any:
    real = Formula.of(x)
    negative = real < 0.0
    angle = math.pi * _from_whole(real)
    upper = _digamma_positive(where(negative, 1.0 - real, real))
    made = where(negative, upper - math.pi * angle.cos() / angle.sin(), upper)
    made = where(negative & real.equals(real.round()), math.nan, made)
    # As PyTorch: minus infinity at 0, infinity at -0.
    return where(real.equals(0.0), -1.0 / real, made).like(x)


def _zeta_positive(s: Formula, q: Formula) -> Formula:
    """The sum of ``(q + k)**-s`` over all k from 0, for q > 0."""
    count = _MOVED - 1
    first = q.and_next(count).power(-(s.along_new_axis())).summed(count)
    edge = q + float(count)
    last = edge.power(-s)
    # Euler's and Maclaurin's sum of the rest.
    rest = 0.5 * last + last * edge / (s - 1.0)
    factor = last / edge * s
    for k, bernoulli in enumerate(_BERNOULLI, 1):
        rest = rest + factor * (bernoulli / math.factorial(2 * k))
        factor = factor * (s + float(2 * k - 1)) / edge * (s + float(2 * k)) / edge
    # Where the rest counts for nothing its factors may overflow.
    return first + where(last < 1e-17 * first, 0.0, rest)


def _zeta_of(s: Formula, q: Formula) -> Formula:
    """As PyTorch defines it: negative q for whole s only, infinite at the poles."""
    # Of a negative q: all whole steps from its fraction, in both directions, without those below it.
    fraction = q - q.floor()
    sign = where((s * 0.5).equals((s * 0.5).floor()), 1.0, -1.0)
    negative = q < 0.0
    upper = _zeta_positive(s, where(negative, fraction, q))
    downward = _zeta_positive(s, 1.0 - fraction) - _zeta_positive(s, where(negative, 1.0 - q, 1.0 + 0.0 * q))
    made = where(negative, upper + sign * downward, upper)
    made = where(negative & ~s.equals(s.floor()), math.nan, made)
    made = where((q <= 0.0) & q.equals(q.floor()), math.inf, made)
    return where(s.equals(1.0), math.inf, where(s < 1.0, math.nan, made))


def _zeta(s: Any, q: Any) -> Any:
    made = _zeta_of(Formula.of(s), Formula.of(q))
    return made.like(q if _is_tensor(q) and q.dtype.is_floating_point() else s)


def _is_tensor(x: Any) -> bool:
    return hasattr(x, "dtype")


def _polygamma(n: int, x: Any) -> Any:
    if n == 0:
        return _digamma(x)
    real = Formula.of(x)
    if n == 1:
        reflected = real < 0.5
        sine = (math.pi * real).sin()
        # Reflected (5.15.6). Of a negative whole number PyTorch gives a large number: pi is no whole number of float64's steps.
        square = where((real < 0.0) & (abs(sine) < 1e-16), 1e-32, sine * sine)
        upper = _zeta_positive(Formula.of(2.0), where(reflected, 1.0 - real, real))
        return where(reflected, math.pi**2 / square - upper, upper).like(x)
    sign = 1.0 if n % 2 else -1.0
    return (sign * math.exp(math.lgamma(n + 1.0)) * _zeta_of(Formula.of(n + 1.0), real)).like(x)


TRANSLATIONS: Mapping[Any, Callable[..., Any]] = {
    aten.lgamma.default: _lgamma,
    aten.digamma.default: _digamma,
    aten.polygamma.default: _polygamma,
    aten.special_zeta.default: _zeta,
    aten.special_zeta.other_scalar: _zeta,
    aten.special_zeta.self_scalar: _zeta,
}
