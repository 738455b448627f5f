"""What the three libraries' models have in common: which they are, their booster, and the answers that they give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

PACKAGES = ("lightgbm", "xgboost", "catboost")

OWN = "onnxferry.export.sources.boosted.adapters"


def library(model: Any) -> str:
    """``lightgbm``, ``xgboost``, ``catboost``, or "" for another model."""
    for kind in type(model).__mro__:
        package = kind.__module__.partition(".")[0]
        if package in PACKAGES:
            return package
        if kind.__module__ == OWN:
            return str(getattr(model, "library", ""))
    return ""


def booster_of(model: Any) -> Any:
    """The library's own booster."""
    if library(model) == "lightgbm":
        return getattr(model, "booster_", model)
    return model.get_booster() if hasattr(model, "get_booster") else getattr(model, "booster_", model)


def rounds_of(model: Any) -> tuple[int, int] | None:
    """Of an XGBoost estimator that stopped early: the rounds that its ``predict`` uses. A booster uses all."""
    if not hasattr(model, "get_booster"):
        return None
    try:
        best = model.best_iteration
    except AttributeError:
        return None
    return (0, int(best) + 1) if getattr(model, "booster", None) != "gblinear" else None


Answer = Callable[[Any, Any], np.ndarray]


def several_questions(model: Any) -> bool:
    """Whether a classifier answers each of several questions by yes or no."""
    if library(model) == "xgboost" and hasattr(model, "get_booster"):
        return str(model.objective) == "binary:logistic" and int(getattr(model, "n_classes_", 2)) == 2 and _targets(model) > 1
    if library(model) == "catboost":
        from onnxferry.export.sources.boosted.convert import catboost_loss

        return catboost_loss(model) in ("MultiLogloss", "MultiCrossEntropy")
    return False


def _targets(model: Any) -> int:
    import json

    config = json.loads(model.get_booster().save_config())
    return int(config["learner"]["learner_model_param"].get("num_target", 1))


def boosted_answers(model: Any, final: Any) -> dict[str, Answer]:
    """What a model that ends in a boosted one can say, by output name."""
    if hasattr(final, "predict_proba"):
        if several_questions(final):
            return {"class_index": lambda m, x: np.asarray(m.predict(x)).astype(np.int64), "probabilities": lambda m, x: m.predict_proba(x)}
        return {"class_index": lambda m, x: places_of(final.classes_, m.predict(x)), "probabilities": lambda m, x: m.predict_proba(x)}
    return {"prediction": lambda m, x: np.asarray(m.predict(x), np.float64)}


def places_of(classes: Any, predicted: Any) -> np.ndarray:
    """int64 (rows,): the index of each predicted class among the classes."""
    known = np.asarray(classes)
    found = np.asarray(predicted).reshape(-1)
    order = np.argsort(known, kind="stable")
    return np.asarray(order[np.searchsorted(known[order], found)], np.int64)
