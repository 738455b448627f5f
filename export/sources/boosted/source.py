"""A model of LightGBM, XGBoost or CatBoost as a source: an estimator, a booster, or a file. Its own ``predict`` is the reference."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from onnxferry.export.options import ExportOptions
from onnxferry.export.source import Plan, numbered
from onnxferry.export.sources.boosted.adapters import LightGbmClassifier, LightGbmRegressor, XgboostClassifier, XgboostRegressor
from onnxferry.export.sources.boosted.convert import catboost_loss, read_lightgbm, read_xgboost
from onnxferry.export.sources.boosted.edges import edges, features_of
from onnxferry.export.sources.boosted.files import read_model
from onnxferry.export.sources.boosted.models import booster_of, library
from onnxferry.export.sources.sklearn.converters.tensors import GraphBuilder
from onnxferry.export.sources.sklearn.estimator import SklearnSource
from onnxferry.export.sources.sklearn.thresholds import threshold_samples
from onnxferry.runtime.errors import InputError

ROWS = 64
"""Rows that are drawn where none are given."""

OF_CLASSES = ("Logloss", "CrossEntropy", "MultiClass", "MultiClassOneVsAll", "MultiLogloss", "MultiCrossEntropy")
"""Losses of CatBoost's classifiers."""

MISSING = 0.05
"""Share of missing values in drawn rows."""


def plans(model: Any, example_inputs: Any, options: ExportOptions, target: Path) -> Sequence[Plan]:
    """``model``: an estimator or booster of one of the three libraries, or the path of a file that it saved."""
    source = BoostedSource(
        read_model(model) if isinstance(model, Path) else model,
        example_inputs,
        dynamic_shapes=options.dynamic_shapes,
        output_names=options.output_names,
    )
    samples = numbered([*source.more, *options.samples]) | threshold_samples(source)
    return [Plan(source, labels=source.labels, samples=samples, goldens=options.chosen_goldens(None))]


class BoostedSource(SklearnSource):
    """Outputs as of a scikit-learn estimator: ``class_index`` and ``probabilities`` of a classifier, else ``prediction``.

    ``examples``: as for scikit-learn; None to draw rows at and around the thresholds of the trees. A column of pandas' category dtype is an
    input of text or numbers, and a missing category is empty text.
    """

    def __init__(self, model: Any, examples: Any, *, dynamic_shapes: Any = None, output_names: Sequence[str] | None = None) -> None:
        _check_trained(model)
        own = as_estimator(model)
        drawn = examples is None
        super().__init__(own, drawn_rows(own) if drawn else examples, dynamic_shapes=dynamic_shapes, output_names=output_names)
        self.original = model
        if drawn:
            self.notes = ["the rows that were compared are drawn at and around the thresholds of the trees: none were given"]

    def provenance(self) -> dict[str, Any]:
        import onnx

        name = library(self.model)
        return {
            "framework": name,
            "versions": {name: str(import_module(name).__version__), "onnx": str(onnx.__version__), "numpy": np.__version__},
            "model": type(self.original).__name__,
            "weights_sha256": _sha256(self.model),
        }


def _check_trained(model: Any) -> None:
    if isinstance(model, type):
        raise InputError(f"{model.__name__} is a class; give a fitted {model.__name__}")
    trained = model.is_fitted() if library(model) == "catboost" else getattr(model, "__sklearn_is_fitted__", lambda: True)()
    if not trained:
        raise InputError(f"this {type(model).__name__} is not fitted, so there is nothing to export; call fit() first")


def as_estimator(model: Any) -> Any:
    """The model with ``predict`` and, where it knows classes, ``predict_proba`` and ``classes_``."""
    if type(model).__name__ != "Booster" and library(model) != "catboost":
        return model
    graph = GraphBuilder(18)
    if library(model) == "lightgbm":
        lightgbm = read_lightgbm(graph, model)
        if lightgbm.objective in ("binary", "multiclass", "multiclassova"):
            return LightGbmClassifier(model, max(2, lightgbm.width))
        return LightGbmRegressor(model)
    if library(model) == "xgboost":
        xgboost = read_xgboost(graph, model)
        if xgboost.objective in ("multi:softprob", "multi:softmax"):
            return XgboostClassifier(model, xgboost.width, softmax=xgboost.objective == "multi:softmax")
        return XgboostClassifier(model, 2) if xgboost.objective == "binary:logistic" and xgboost.width == 1 else XgboostRegressor(model)
    return _catboost_estimator(model)


def _catboost_estimator(model: Any) -> Any:
    """CatBoost's plain class does not give probabilities by itself."""
    if type(model).__name__ != "CatBoost" or not model.is_fitted():
        return model
    import catboost

    classifies = catboost_loss(model) in (
        "Logloss",
        "CrossEntropy",
        "MultiClass",
        "MultiClassOneVsAll",
        "MultiLogloss",
        "MultiCrossEntropy",
    )
    made = catboost.CatBoostClassifier() if classifies else catboost.CatBoostRegressor()
    made.load_model(blob=model._serialize_model())
    return made


def drawn_rows(model: Any) -> np.ndarray | Mapping[str, np.ndarray]:
    """(ROWS, features) between and beyond the thresholds, with some missing values; of XGBoost and CatBoost float32, as they compare."""
    count, categorical = features_of(model)
    rng = np.random.default_rng(20)
    known = edges(model)
    rows = rng.standard_normal((ROWS, count))
    for place, values in known.items():
        low, high = float(values.min()), float(values.max())
        span = (high - low) or max(abs(low), 1.0)
        if place in categorical:
            rows[:, place] = rng.integers(0, int(high) + 2, ROWS)
        else:
            rows[:, place] = rng.uniform(low - span / 4, high + span / 4, ROWS)
    rows[rng.random(rows.shape) < MISSING] = np.nan
    texts = _text_categories(model)
    if texts:
        raise InputError(f"the model takes text categories ({texts}): give rows to compare on, a DataFrame or a .csv file")
    return rows if library(model) == "lightgbm" else rows.astype(np.float32)


def _text_categories(model: Any) -> str:
    graph = GraphBuilder(18)
    if library(model) == "lightgbm":
        kept = getattr(booster_of(model), "pandas_categorical", None) or []
        return ", ".join(str(each) for values in kept for each in values[:3] if isinstance(each, str))
    if library(model) == "xgboost":
        return ", ".join(
            str(each) for values in read_xgboost(graph, model).categories if values for each in values[:3] if isinstance(each, str)
        )
    return "CatBoost keeps their hashes" if model.get_cat_feature_indices() else ""


def _sha256(model: Any) -> str:
    if library(model) == "lightgbm":
        return hashlib.sha256(booster_of(model).model_to_string().encode()).hexdigest()
    if library(model) == "xgboost":
        return hashlib.sha256(bytes(booster_of(model).save_raw("json"))).hexdigest()
    return hashlib.sha256(model._serialize_model()).hexdigest()
