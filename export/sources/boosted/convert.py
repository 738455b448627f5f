"""The converters of LightGBM's, XGBoost's and CatBoost's models, for themselves and as steps of scikit-learn's pipelines.

Sums, links and the choice of a class are computed as the library's own ``predict`` does, in its dtype and order.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxferry.export.sources.boosted import catboost_json, lightgbm_text, xgboost_json
from onnxferry.export.sources.boosted.columns import as_codes, flags_of, numbers
from onnxferry.export.sources.boosted.forest import leaf_places, leaf_values, sums
from onnxferry.export.sources.boosted.models import booster_of, rounds_of
from onnxferry.export.sources.sklearn.converters.registry import (
    CLASS,
    PREDICT,
    PROBABILITIES,
    Columns,
    Input,
    converted,
    converts,
    matrix,
    unsupported,
)
from onnxferry.export.sources.sklearn.converters.tensors import GraphBuilder, Tensor, Whole
from onnxferry.runtime.errors import ExportError

GIVEN_ROWS = "given rows"
"""Key of the builder's memo: a function that gives the rows that the model was called with, as it was."""

ANSWER = "answer"
"""What the booster itself gives, (rows, width): after the link, of CatBoost before it."""

LIGHTGBM = ("LGBMClassifier", "LGBMRegressor", "LGBMRanker", "LGBMModel", "LightGbmClassifier", "LightGbmRegressor")
XGBOOST = ("XGBClassifier", "XGBRegressor", "XGBRanker", "XGBModel", "XgboostClassifier", "XgboostRegressor")
CATBOOST = ("CatBoostClassifier", "CatBoostRegressor", "CatBoostRanker", "CatBoost")


# LightGBM


def read_lightgbm(graph: GraphBuilder, model: Any) -> lightgbm_text.LightGbmModel:
    key = ("lightgbm", id(model))
    if key not in graph.memo:
        graph.memo[key] = lightgbm_text.parsed(booster_of(model).model_to_string())
    found: lightgbm_text.LightGbmModel = graph.memo[key]
    return found


def _lightgbm_raw(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    """(rows, width), float64."""
    known = read_lightgbm(graph, model)
    kept = getattr(booster_of(model), "pandas_categorical", None) or []
    if isinstance(x, Columns) and kept:
        features = _with_codes(graph, x, dict(zip(known.categorical, kept, strict=False)))
    else:
        features = matrix(graph, x)
    values = leaf_values(graph, known.forest, features) if known.linear is None else _linear_leaves(graph, known, known.linear, features)
    groups = [tree % known.width for tree in range(known.forest.trees)]
    total = sums(graph, values, groups, known.width)
    return total / np.float64(known.forest.trees // known.width) if known.average else total


def _linear_leaves(graph: GraphBuilder, known: lightgbm_text.LightGbmModel, linear: lightgbm_text.LinearLeaves, x: Tensor) -> Tensor:
    """A leaf's constant and its features times their coefficients; its plain value where one of them is missing."""
    places = leaf_places(graph, known.forest, x)
    used, each = graph.constant(linear.used).take(places), x.unsqueeze(1)
    terms = graph.where(used, each, np.float64(0)) * graph.constant(linear.coefficients).take(places)
    value = terms.sum(2) + graph.constant(linear.constant).take(places)
    lacks = (used & each.isnan()).cast("int64").max(2).cast("bool")
    return graph.where(lacks, graph.constant(known.forest.values).take(places), value)


def _with_codes(graph: GraphBuilder, x: Columns, categories: dict[int, Sequence[Any]], *, next_above: bool = False) -> Tensor:
    """The columns as float64, where categories are their places in those that the model was fitted on; NaN for others."""
    parts = [
        as_codes(graph, part, list(categories[place]), next_above=next_above) if place in categories else matrix(graph, part)
        for place, part in enumerate(x.parts)
    ]
    return graph.concat(parts)


def _softmax(raw: Tensor) -> Tensor:
    shifted = (raw - raw.max(1, keep=True)).exp()
    return shifted / shifted.sum(1, keep=True)


def _two(second: Tensor) -> Tensor:
    """Of two classes, from the second's share (rows, 1)."""
    return second.graph.concat([1.0 - second, second])


@converts(ANSWER, *LIGHTGBM)
def _lightgbm_answer(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    """What ``Booster.predict`` gives: (rows, width)."""
    known = read_lightgbm(graph, model)
    raw = _lightgbm_raw(graph, model, x)
    name = known.objective
    slope = np.float64(known.parameters.get("sigmoid", 1.0))
    if name in ("binary", "multiclassova"):
        return 1.0 / ((raw * -slope).exp() + 1.0)
    if name == "multiclass":
        return _softmax(raw)
    if name == "cross_entropy":
        return 1.0 / ((-raw).exp() + 1.0)
    if name == "cross_entropy_lambda":
        return (raw.exp() + 1.0).log()
    if name in ("poisson", "gamma", "tweedie"):
        return raw.exp()
    if "sqrt" in known.flags:
        return raw.unary("Sign") * raw * raw
    return raw


@converts(PROBABILITIES, *LIGHTGBM)
def _lightgbm_probabilities(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    known = read_lightgbm(graph, model)
    if known.objective not in ("binary", "multiclass", "multiclassova", "cross_entropy"):
        raise unsupported(model, f"the objective {known.objective or 'of your own'}, which gives no probabilities; export its booster_")
    found = converted(ANSWER, graph, model, x)
    return _two(found) if known.width == 1 else found


@converts(PREDICT, *LIGHTGBM)
def _lightgbm_prediction(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    found = converted(ANSWER, graph, model, x)
    return found.flat() if read_lightgbm(graph, model).width == 1 else found


# XGBoost


def read_xgboost(graph: GraphBuilder, model: Any) -> xgboost_json.XgboostModel:
    key = ("xgboost", id(model))
    if key not in graph.memo:
        graph.memo[key] = xgboost_json.parsed(bytes(booster_of(model).save_raw("json")), rounds_of(model))
    found: xgboost_json.XgboostModel = graph.memo[key]
    return found


def _xgboost_raw(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    """The margins, (rows, width), float32."""
    known = read_xgboost(graph, model)
    if isinstance(x, Columns) and any(known.categories):
        features = _with_codes(graph, x, {place: each for place, each in enumerate(known.categories) if each}, next_above=True)
    else:
        features = matrix(graph, x)
    features = features.cast("float32")
    if known.linear is not None:
        return _linear(graph, booster_of(model), known.linear, features)
    if known.forest is None:
        raise ExportError("the XGBoost model has neither trees nor weights")
    values = leaf_values(graph, known.forest, features)
    return values.running_sum(1) if known.forest.values.ndim == 2 else sums(graph, values, known.groups, known.width)


def _linear(graph: GraphBuilder, booster: Any, weights: np.ndarray, x: Tensor) -> Tensor:
    """Of ``gblinear``: a missing value counts as 0. Terms are added one after another, as XGBoost does."""
    import xgboost

    # Which of several base scores is added differs between XGBoost's versions: a row of zeros has them and the biases.
    zeros = xgboost.DMatrix(
        np.zeros((1, len(weights) - 1), np.float32), feature_names=booster.feature_names, feature_types=booster.feature_types
    )
    start = np.asarray(booster.predict(zeros, output_margin=True), np.float32).reshape(-1)
    filled = graph.where(x.isnan(), graph.constant(0.0, "float32"), x)
    terms = filled.unsqueeze(2) * graph.constant(weights[:-1], "float32")
    return graph.concat([graph.full(terms, start, "float32").reshape(0, 1, len(start)), terms]).running_sum(1)


def _float32_sigmoid(raw: Tensor) -> Tensor:
    """As XGBoost writes it: beyond 88.7 an exponential would be infinite."""
    return np.float32(1) / ((-raw).minimum(np.float32(88.7)).exp() + np.float32(1))


@converts(ANSWER, *XGBOOST)
def _xgboost_answer(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    """(rows, width), after the objective's link."""
    raw, name = _xgboost_raw(graph, model, x), read_xgboost(graph, model).objective
    if name in ("binary:logistic", "reg:logistic"):
        return _float32_sigmoid(raw)
    if name in ("multi:softprob", "multi:softmax"):
        return _softmax(raw)
    if name == "binary:hinge":
        return (raw > np.float32(0)).cast("float32")
    return raw.exp() if name in xgboost_json.EXPONENTIAL else raw


@converts(PROBABILITIES, *XGBOOST)
def _xgboost_probabilities(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    known = read_xgboost(graph, model)
    if known.objective not in ("binary:logistic", "multi:softprob", "multi:softmax", "binary:hinge"):
        raise unsupported(model, f"the objective {known.objective}, which gives no probabilities; export its get_booster()")
    found = converted(ANSWER, graph, model, x)
    return _two(found) if known.width == 1 else found


@converts(CLASS, *XGBOOST)
def _xgboost_class(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    found = converted(ANSWER, graph, model, x)
    known = read_xgboost(graph, model)
    if known.width == 1:
        return (found > np.float32(0.5)).cast("int64").flat()
    if known.objective == "binary:logistic":  # several questions
        return (found > np.float32(0.5)).cast("int64")
    return found.argmax(1)


@converts(PREDICT, *XGBOOST)
def _xgboost_prediction(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    found = converted(ANSWER, graph, model, x)
    return found.flat() if read_xgboost(graph, model).width == 1 else found


# CatBoost


def read_catboost(graph: GraphBuilder, model: Any) -> catboost_json.CatboostModel:
    key = ("catboost", id(model))
    if key not in graph.memo:
        graph.memo[key] = catboost_json.parsed(_catboost_json(graph, model))
    found: catboost_json.CatboostModel = graph.memo[key]
    return found


def _catboost_json(graph: GraphBuilder, model: Any) -> str:
    pool = None
    if model.get_cat_feature_indices():
        import catboost

        rows = graph.memo.get(GIVEN_ROWS)
        pool = catboost.Pool(rows(), cat_features=model.get_cat_feature_indices()) if rows is not None else None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.json"
        model.save_model(str(path), format="json", pool=pool)
        return path.read_text(encoding="utf-8")


@converts(ANSWER, *CATBOOST)
def _catboost_raw(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    """(rows, width), float64, scaled."""
    known = read_catboost(graph, model)
    features = numbers(graph, x, known.categorical).cast("float32")
    if known.above:
        above = np.isin(np.arange(known.features), known.above)
        lifted = graph.op("And", [features.isnan(), graph.constant(above)], "bool")
        features = graph.where(lifted, graph.constant(np.inf, "float32"), features)
    if known.flags:
        features = graph.concat([features, *(flag.cast("float32") for flag in flags_of(graph, x, known))])
    if known.levels is not None:
        total = _oblivious(graph, known.levels, features)
    elif known.forest is not None:
        total = leaf_values(graph, known.forest, features).running_sum(1)
    else:
        raise ExportError("the CatBoost model has no trees")
    total = total if known.width > 1 else total.as_column()
    if known.scale != 1.0:
        total = total * known.scale
    return total + known.bias if np.any(known.bias) else total


def _oblivious(graph: GraphBuilder, known: catboost_json.Levels, x: Tensor) -> Tensor:
    """Each tree's bits make the number of its leaf; the sum of the leaves, (rows,) or (rows, width). Rows are last, for speed."""
    trees, depth = known.columns.shape
    above = x.transposed().take(graph.constant(known.columns.T.ravel())) > graph.constant(known.borders.T.reshape(-1, 1), "float32")
    bits = graph.op("Reshape", [above.cast("float32"), Whole([depth, trees, -1])], "float32")
    places = (bits * graph.constant((2.0 ** np.arange(depth)).reshape(-1, 1, 1), "float32")).sum(0).cast("int64")
    leaves = graph.constant(known.leaves if known.leaves.shape[1] > 1 else known.leaves[:, 0])
    return leaves.take(places + Whole(known.starts[:, None])).running_sum(0)


def catboost_loss(model: Any) -> str:
    """The loss function's name, without its parameters."""
    chosen = model.get_all_params().get("loss_function") or (model.get_params() or {}).get("loss_function", "")
    if isinstance(chosen, dict):
        chosen = chosen.get("type", "")
    return str(chosen).partition(":")[0] if isinstance(chosen, str) else ""


LIKELY_TWO = ("Logloss", "CrossEntropy")
CATBOOST_EXPONENTIAL = ("Poisson", "Tweedie", "LogLinQuantile")
PLAIN = (
    "RMSE", "MAE", "Quantile", "MAPE", "Huber", "Expectile", "Lq", "MultiRMSE", "MultiRMSEWithMissingValues", "YetiRank",
    "YetiRankPairwise", "PairLogit", "PairLogitPairwise", "QueryRMSE", "QuerySoftMax", "MultiQuantile", "StochasticRank", "LambdaMart",
)  # fmt: skip


@converts(PROBABILITIES, *CATBOOST)
def _catboost_probabilities(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    loss = catboost_loss(model)
    raw = converted(ANSWER, graph, model, x)
    if loss in LIKELY_TWO:
        return _two(1.0 / ((-raw).exp() + 1.0))
    if loss == "MultiClass":
        return _softmax(raw)
    if loss in ("MultiClassOneVsAll", "MultiLogloss", "MultiCrossEntropy"):
        return 1.0 / ((-raw).exp() + 1.0)
    raise unsupported(model, f"the loss function {loss}, which gives no probabilities")


@converts(CLASS, *CATBOOST)
def _catboost_class(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    loss = catboost_loss(model)
    raw = converted(ANSWER, graph, model, x)
    if loss in LIKELY_TWO:
        return (raw > 0.0).cast("int64").flat()
    return (raw > 0.0).cast("int64") if loss in ("MultiLogloss", "MultiCrossEntropy") else raw.argmax(1)


@converts(PREDICT, *CATBOOST)
def _catboost_prediction(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    loss = catboost_loss(model)
    raw = converted(ANSWER, graph, model, x)
    if loss in CATBOOST_EXPONENTIAL:
        raw = raw.exp()
    elif loss not in PLAIN:
        raise unsupported(model, f"the loss function {loss or 'of your own'}")
    return raw.flat() if read_catboost(graph, model).width == 1 else raw
