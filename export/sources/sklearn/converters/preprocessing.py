"""Scalers, bins, splines and other transformers of numbers, and their inverses where a target is transformed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from onnxferry.export.sources.sklearn.converters.registry import (
    TRANSFORM,
    Columns,
    Input,
    converts,
    matrix,
    unsupported,
)
from onnxferry.export.sources.sklearn.converters.tensors import GraphBuilder, Tensor


@converts(TRANSFORM, "StandardScaler")
def _standard(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    found = matrix(graph, x)
    if model.with_mean:
        found = found - np.asarray(model.mean_, np.float64)
    return found / np.asarray(model.scale_, np.float64) if model.with_std else found


@converts(TRANSFORM, "MinMaxScaler")
def _min_max(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    found = matrix(graph, x) * np.asarray(model.scale_, np.float64) + np.asarray(model.min_, np.float64)
    return _kept_nan(graph, found, found.clip(*model.feature_range)) if model.clip else found


def _kept_nan(graph: GraphBuilder, before: Tensor, after: Tensor) -> Tensor:
    return graph.where(before.isnan(), before, after)


@converts(TRANSFORM, "MaxAbsScaler")
def _max_abs(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    found = matrix(graph, x) / np.asarray(model.scale_, np.float64)
    return _kept_nan(graph, found, found.clip(-1.0, 1.0)) if getattr(model, "clip", False) else found


@converts(TRANSFORM, "RobustScaler")
def _robust(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    found = matrix(graph, x)
    if model.with_centering:
        found = found - np.asarray(model.center_, np.float64)
    return found / np.asarray(model.scale_, np.float64) if model.with_scaling else found


@converts(TRANSFORM, "Normalizer")
def _normalizer(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    found = matrix(graph, x)
    if model.norm == "l2":
        length = (found * found).sum(keep=True).sqrt()
    else:
        length = found.abs().max(keep=True) if model.norm == "max" else found.abs().sum(keep=True)
    # scikit-learn divides by 1 what is smaller than ten roundings.
    return found / graph.where(length < 10 * float(np.finfo(np.float64).eps), graph.constant(1.0), length)


@converts(TRANSFORM, "Binarizer")
def _binarizer(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    return (matrix(graph, x) > float(model.threshold)).cast("float64")


@converts(TRANSFORM, "KBinsDiscretizer")
def _bins(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    found = matrix(graph, x)
    made = []
    for place, edges in enumerate(model.bin_edges_):
        column = found.columns([place])
        bins = (column >= np.asarray(edges[1:-1], np.float64)[None, :]).cast("float64").sum(keep=True) if len(edges) > 2 else column * 0.0
        if model.encode == "ordinal":
            made.append(bins)
        else:
            made.append(bins.equal(np.arange(model.n_bins_[place], dtype=np.float64)[None, :]).cast("float64"))
    return graph.concat(made)


@converts(TRANSFORM, "PolynomialFeatures")
def _polynomial(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    found = matrix(graph, x)
    powers = model.powers_
    if powers.shape[0] > 3000:
        raise unsupported(model, f"{powers.shape[0]} outputs; the limit is 3000")
    first = found.columns([0]) * 0.0 + 1.0
    known: dict[tuple[int, ...], Tensor] = {(): first}
    made = []
    for row in powers:
        factors = tuple(int(place) for place in np.repeat(np.arange(len(row)), row))
        if factors not in known:
            if len(factors) == 1:
                known[factors] = found.columns([factors[0]])
            else:
                before = known.get(factors[:-1])
                if before is None:
                    before = known[factors[:-1]] = _multiplied(found, factors[:-1])
                known[factors] = before * found.columns([factors[-1]])
        made.append(known[factors])
    return graph.concat(made)


def _multiplied(x: Tensor, factors: tuple[int, ...]) -> Tensor:
    made = x.columns([factors[0]])
    for place in factors[1:]:
        made = made * x.columns([place])
    return made


@converts(TRANSFORM, "SplineTransformer")
def _splines(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    """B-splines by de Boor's recursion, outside of the knots as ``extrapolation`` says."""
    found = matrix(graph, x)
    made = [_spline(graph, model, spline, found.columns([place])) for place, spline in enumerate(model.bsplines_)]
    if model.include_bias:
        return graph.concat(made)
    count = model.n_features_out_ // len(model.bsplines_) + 1
    return graph.concat([each.columns(list(range(count - 1))) for each in made])


def _spline(graph: GraphBuilder, model: Any, spline: Any, x: Tensor) -> Tensor:
    degree, knots = int(spline.k), np.asarray(spline.t, np.float64)
    count = spline.c.shape[1]
    low, high = float(knots[degree]), float(knots[-degree - 1])
    ways = model.extrapolation
    if ways == "error":
        raise unsupported(model, "extrapolation='error'")
    if ways == "periodic":
        count_all = len(knots) - degree - 1
        span = high - low
        wrapped = x - ((x - low) / span).unary("Floor") * span
        return _basis(graph, wrapped, knots, degree, count_all, high) @ np.asarray(spline.c, np.float64)
    inside = x.clip(low, high)
    found = _basis(graph, inside, knots, degree, count, high)
    if ways == "constant":
        return found
    if ways == "continue":
        return _continued(graph, spline, x, found, low, high)
    # Linear: the value and the slope at the nearest boundary; outer splines only.
    values = {end: np.asarray(spline(end)) for end in (low, high)}
    slopes = {end: np.asarray(spline(end, nu=1)) for end in (low, high)}
    steps = degree if degree > 1 else 1
    left, right = np.zeros(count), np.zeros(count)
    left[:steps], right[-steps:] = 1.0, 1.0
    below = (values[low] * left)[None, :] + (x - low) * (slopes[low] * left)[None, :]
    above = (values[high] * right)[None, :] + (x - high) * (slopes[high] * right)[None, :]
    return graph.where(x < low, below, graph.where(x > high, above, found))


def _continued(graph: GraphBuilder, spline: Any, x: Tensor, found: Tensor, low: float, high: float) -> Tensor:
    """The polynomials of the first and last interval."""
    from math import factorial

    parts = []
    for end in (low, high):
        total = None
        for power in range(int(spline.k) + 1):
            slope = np.asarray(spline(np.nextafter(end, (low + high) / 2), nu=power)) / factorial(power)
            term = (x - end) ** float(power) * slope[None, :] if power else x * 0.0 + slope[None, :]
            total = term if total is None else total + term
        parts.append(total)
    return graph.where(x < low, parts[0], graph.where(x > high, parts[1], found))


def _basis(graph: GraphBuilder, x: Tensor, knots: np.ndarray, degree: int, count: int, high: float) -> Tensor:
    """(rows, count): the base splines at x, inside of the knots; the last interval holds its upper end."""
    intervals = len(knots) - 1
    upper = knots[1:].copy()
    last = int(np.flatnonzero(knots[:-1] < high)[-1])
    upper[last] = np.inf
    lower = knots[:-1].copy()
    lower[last + 1 :] = np.inf
    values = ((x >= lower[None, :]) & (x < upper[None, :])).cast("float64")
    for order in range(1, degree + 1):
        intervals -= 1
        one = knots[order : order + intervals] - knots[:intervals]
        two = knots[order + 1 : order + 1 + intervals] - knots[1 : 1 + intervals]
        one, two = (np.where(each == 0, 1.0, each)[None, :] for each in (one, two))
        first = values.columns(list(range(intervals)))
        second = values.columns(list(range(1, intervals + 1)))
        values = (x - knots[None, :intervals]) / one * first + (knots[None, order + 1 : order + 1 + intervals] - x) / two * second
    return values.columns(list(range(count)))


@converts(TRANSFORM, "PowerTransformer")
def _power(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    found = matrix(graph, x)
    made = [_power_column(graph, model.method, float(rate), found.columns([place])) for place, rate in enumerate(model.lambdas_)]
    joined = graph.concat(made)
    return _standard(graph, model._scaler, joined) if model.standardize else joined


def _power_column(graph: GraphBuilder, method: str, rate: float, x: Tensor) -> Tensor:
    if np.isnan(rate):
        return x
    if method == "box-cox":
        return x.log() if rate == 0 else (x**rate - 1.0) / rate
    up, down = x.maximum(0.0) + 1.0, (-x).maximum(0.0) + 1.0
    eps = float(np.spacing(1.0))
    above = _log1p(graph, x.maximum(0.0)) if abs(rate) < eps else (up**rate - 1.0) / rate
    below = -_log1p(graph, (-x).maximum(0.0)) if abs(rate - 2) <= eps else -((down ** (2 - rate) - 1.0) / (2 - rate))
    return _kept_nan(graph, x, graph.where(x >= 0.0, above, below))


def _log1p(graph: GraphBuilder, x: Tensor) -> Tensor:
    """Exact for small x too: log(u) * x / (u - 1) with u = 1 + x."""
    u = x + 1.0
    same = u.equal(np.float64(1))
    safe = graph.where(same, graph.constant(2.0), u)
    return graph.where(same, x, safe.log() * x / (safe - 1.0))


def _expm1(graph: GraphBuilder, x: Tensor) -> Tensor:
    """Exact for small x too: 2 sinh(x/2) exp(x/2) through a series below 1e-2."""
    series = x * (1.0 + x / 2.0 * (1.0 + x / 3.0 * (1.0 + x / 4.0 * (1.0 + x / 5.0 * (1.0 + x / 6.0 * (1.0 + x / 7.0))))))
    return graph.where(x.abs() < 1e-2, series, x.exp() - 1.0)


def interpolated(graph: GraphBuilder, x: Tensor, xs: np.ndarray, ys: np.ndarray) -> Tensor:
    """``numpy.interp`` of one column, (rows, 1)."""
    xs, ys = np.asarray(xs, np.float64), np.asarray(ys, np.float64)
    if len(xs) == 1:
        return x * 0.0 + float(ys[0])
    slopes = np.diff(ys) / np.where(np.diff(xs) == 0, 1.0, np.diff(xs))
    place = (x >= xs[None, 1:-1]).cast("int64").sum(keep=True) if len(xs) > 2 else (x > np.inf).cast("int64")
    start, value, slope = (graph.constant(each).take(place) for each in (xs[:-1], ys[:-1], slopes))
    inside = slope * (x - start) + value
    return _kept_nan(
        graph,
        x,
        graph.where(
            x <= float(xs[0]), graph.constant(float(ys[0])), graph.where(x >= float(xs[-1]), graph.constant(float(ys[-1])), inside)
        ),
    )


@converts(TRANSFORM, "VarianceThreshold", "SelectorMixin", "SelectFromModel", "SelectKBest")
def _selected(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    places = np.flatnonzero(model.get_support()).tolist()
    if not places:
        raise unsupported(model, "no feature selected")
    return matrix(graph, x).columns(places)


@converts(TRANSFORM, "KernelCenterer")
def _centerer(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    found = matrix(graph, x)
    return found - np.asarray(model.K_fit_rows_) - found.sum(keep=True) / float(len(model.K_fit_rows_)) + float(model.K_fit_all_)


UFUNCS: dict[str, Callable[[GraphBuilder, Tensor], Tensor]] = {
    "log": lambda g, x: x.log(),
    "log2": lambda g, x: x.log() / float(np.log(2)),
    "log10": lambda g, x: x.log() / float(np.log(10)),
    "log1p": _log1p,
    "exp": lambda g, x: x.exp(),
    "exp2": lambda g, x: g.constant(2.0) ** x,
    "expm1": _expm1,
    "sqrt": lambda g, x: x.sqrt(),
    "square": lambda g, x: x * x,
    "abs": lambda g, x: x.abs(),
    "absolute": lambda g, x: x.abs(),
    "fabs": lambda g, x: x.abs(),
    "negative": lambda g, x: -x,
    "positive": lambda g, x: x,
    "reciprocal": lambda g, x: 1.0 / x,
    "sin": lambda g, x: x.unary("Sin"),
    "cos": lambda g, x: x.unary("Cos"),
    "tanh": lambda g, x: x.unary("Tanh"),
    "sign": lambda g, x: x.unary("Sign"),
    "floor": lambda g, x: x.unary("Floor"),
    "ceil": lambda g, x: x.unary("Ceil"),
    "rint": lambda g, x: x.unary("Round"),
    "cbrt": lambda g, x: x.unary("Sign") * x.abs() ** (1 / 3),
    "deg2rad": lambda g, x: x * float(np.pi / 180),
    "radians": lambda g, x: x * float(np.pi / 180),
    "rad2deg": lambda g, x: x * float(180 / np.pi),
    "degrees": lambda g, x: x * float(180 / np.pi),
    "isnan": lambda g, x: x.isnan(),
    "expit": lambda g, x: x.sigmoid(),
}


def applied(graph: GraphBuilder, model: Any, function: Any, arguments: Any, x: Input) -> Input:
    if function is None:
        return x
    name = getattr(function, "__name__", "")
    numpy_s = isinstance(function, np.ufunc) or function in (np.abs,)
    if arguments or not numpy_s or name not in UFUNCS:
        shown = name or type(function).__name__
        raise unsupported(model, f"the function {shown}: known are numpy's {', '.join(sorted(UFUNCS))}, without arguments")
    made: Tensor = UFUNCS[name](graph, matrix(graph, x))
    return made


@converts(TRANSFORM, "FunctionTransformer")
def _function(graph: GraphBuilder, model: Any, x: Input) -> Any:
    found = applied(graph, model, model.func, model.kw_args, x)
    if isinstance(found, Columns):
        return graph.concat(list(found.parts)) if {part.dtype for part in found.parts} == {"str"} else matrix(graph, found)
    return found


def inverse_transform(graph: GraphBuilder, model: Any, x: Tensor) -> Tensor:
    """Of the transformer of a target."""
    kind = type(model).__name__
    if kind == "FunctionTransformer":
        found = applied(graph, model, model.inverse_func, model.inv_kw_args, x)
        assert isinstance(found, Tensor)  # noqa: S101 - so was x
        return found
    if kind == "StandardScaler":
        found = x * np.asarray(model.scale_, np.float64) if model.with_std else x
        return found + np.asarray(model.mean_, np.float64) if model.with_mean else found
    if kind == "MinMaxScaler":
        return (x - np.asarray(model.min_, np.float64)) / np.asarray(model.scale_, np.float64)
    if kind == "MaxAbsScaler":
        return x * np.asarray(model.scale_, np.float64)
    if kind == "RobustScaler":
        found = x * np.asarray(model.scale_, np.float64) if model.with_scaling else x
        return found + np.asarray(model.center_, np.float64) if model.with_centering else found
    if kind == "PowerTransformer":
        raw = inverse_transform(graph, model._scaler, x) if model.standardize else x
        return graph.concat([_power_back(graph, model.method, float(r), raw.columns([i])) for i, r in enumerate(model.lambdas_)])
    if kind == "QuantileTransformer" and model.output_distribution == "uniform":
        quantiles = np.asarray(model.quantiles_, np.float64)
        return graph.concat([interpolated(graph, x.columns([i]), model.references_, quantiles[:, i]) for i in range(quantiles.shape[1])])
    if kind == "Pipeline":
        for _, step in reversed(model.steps):
            x = x if step is None or isinstance(step, str) else inverse_transform(graph, step, x)
        return x
    raise unsupported(model, "its inverse_transform, which the target needs")


def _power_back(graph: GraphBuilder, method: str, rate: float, x: Tensor) -> Tensor:
    if method == "box-cox":
        return x.exp() if rate == 0 else (x * rate + 1.0) ** (1 / rate)
    eps = float(np.spacing(1.0))
    up = x.maximum(0.0)
    down = x.minimum(0.0)
    above = _expm1(graph, up) if abs(rate) < eps else (up * rate + 1.0) ** (1 / rate) - 1.0
    below = -_expm1(graph, -down) if abs(rate - 2) <= eps else 1.0 - (down * (rate - 2) + 1.0) ** (1 / (2 - rate))
    return graph.where(x >= 0.0, above, below)
