"""QuantileTransformer: places among the fitted quantiles, uniform or as those of a normal distribution."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxferry.export.sources.sklearn.converters.preprocessing import _kept_nan, interpolated
from onnxferry.export.sources.sklearn.converters.registry import TRANSFORM, Input, converts, matrix
from onnxferry.export.sources.sklearn.converters.tensors import GraphBuilder, Tensor

# sklearn.preprocessing._data: nearer to an end than this is the end itself, of a normal distribution.
BOUND = 1e-7

# M. J. Wichura, Algorithm AS 241: The Percentage Points of the Normal Distribution, Applied Statistics 37 (1988), PPND16.
MIDDLE = (
    (
        3.3871328727963666080,
        1.3314166789178437745e2,
        1.9715909503065514427e3,
        1.3731693765509461125e4,
        4.5921953931549871457e4,
        6.7265770927008700853e4,
        3.3430575583588128105e4,
        2.5090809287301226727e3,
    ),
    (
        1.0,
        4.2313330701600911252e1,
        6.8718700749205790830e2,
        5.3941960214247511077e3,
        2.1213794301586595867e4,
        3.9307895800092710610e4,
        2.8729085735721942674e4,
        5.2264952788528545610e3,
    ),
)
TAIL = (
    (
        1.42343711074968357734,
        4.63033784615654529590,
        5.76949722146069140550,
        3.64784832476320460504,
        1.27045825245236838258,
        2.41780725177450611770e-1,
        2.27238449892691845833e-2,
        7.74545014278341407640e-4,
    ),
    (
        1.0,
        2.05319162663775882187,
        1.67638483018380384940,
        6.89767334985100004550e-1,
        1.48103976427480074590e-1,
        1.51986665636164571966e-2,
        5.47593808499534494600e-4,
        1.05075007164441684324e-9,
    ),
)


@converts(TRANSFORM, "QuantileTransformer")
def _quantiles(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    found = matrix(graph, x)
    quantiles, references = np.asarray(model.quantiles_, np.float64), np.asarray(model.references_, np.float64)
    normal = model.output_distribution == "normal"
    made = []
    for place in range(quantiles.shape[1]):
        column, known = found.columns([place]), quantiles[:, place]
        up = interpolated(graph, column, known, references)
        down = interpolated_down(graph, column, known, references)
        share = (up + down) * 0.5
        first, last = np.float64(known[0]), np.float64(known[-1])
        above = column + BOUND > last if normal else column.equal(last)
        below = column - BOUND < first if normal else column.equal(first)
        share = graph.where(below, graph.constant(0.0), graph.where(above, graph.constant(1.0), share))
        made.append(_kept_nan(graph, column, normal_quantile(graph, share) if normal else share))
    return graph.concat(made)


def interpolated_down(graph: GraphBuilder, x: Tensor, xs: np.ndarray, ys: np.ndarray) -> Tensor:
    """From the other end: of equal quantiles the first counts."""
    return -interpolated(graph, -x, -xs[::-1], -ys[::-1])


def normal_quantile(graph: GraphBuilder, share: Tensor) -> Tensor:
    """``scipy.stats.norm.ppf``, float64, of shares held within 1e-7 of 0 and 1 as scikit-learn does; off by at most 1e-15 of itself."""
    end = BOUND - float(np.spacing(1.0))
    share = share.maximum(end).minimum(1.0 - end)
    off = share - 0.5
    square = 0.180625 - off * off
    middle = off * _polynomial(square, MIDDLE[0]) / _polynomial(square, MIDDLE[1])
    depth = (-share.minimum(1.0 - share).log()).sqrt() - 1.6
    tail = _polynomial(depth, TAIL[0]) / _polynomial(depth, TAIL[1])
    tail = graph.where(off < 0.0, -tail, tail)
    return graph.where(off.abs() <= 0.425, middle, tail)


def _polynomial(x: Tensor, factors: tuple[float, ...]) -> Tensor:
    """By Horner's rule, the constant first."""
    total = x * factors[-1]
    for factor in factors[-2:0:-1]:
        total = (total + factor) * x
    answer: Tensor = total + factors[0]
    return answer
