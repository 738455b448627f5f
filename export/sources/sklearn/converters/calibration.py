"""Probabilities and decisions that are calibrated after the fit: isotonic regression, calibrated classifiers, tuned thresholds."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxferry.export.sources.sklearn.converters.preprocessing import interpolated
from onnxferry.export.sources.sklearn.converters.registry import (
    CLASS,
    PREDICT,
    PROBABILITIES,
    TRANSFORM,
    Input,
    average,
    converts,
    matrix,
    predict,
    probabilities,
    scores,
    unsupported,
)
from onnxferry.export.sources.sklearn.converters.tensors import GraphBuilder, Tensor


@converts(PREDICT, "IsotonicRegression")
def _isotonic(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    xs, ys = np.asarray(model.X_thresholds_, np.float64), np.asarray(model.y_thresholds_, np.float64)
    given = matrix(graph, x).as_column()
    found = interpolated(graph, given, xs, ys)
    if model.out_of_bounds == "nan":
        outside = (given < float(xs[0])) | (given > float(xs[-1]))
        found = graph.where(outside, graph.constant(np.nan), found)
    return found.flat()


@converts(TRANSFORM, "IsotonicRegression")
def _isotonic_transform(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    return _isotonic(graph, model, x)


@converts(CLASS, "FixedThresholdClassifier", "TunedThresholdClassifierCV")
def _threshold_class(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    fitted = model.estimator_
    tuned = hasattr(model, "best_threshold_")
    method = model.response_method
    if tuned or method == "auto":
        method = ["predict_proba", "decision_function"] if method == "auto" else [method]
        method = next(each for each in method if hasattr(fitted, each))
    threshold = model.best_threshold_ if tuned else model.threshold
    if threshold == "auto":
        threshold = 0.5 if method == "predict_proba" else 0.0
    positive = getattr(model, "pos_label", None)
    second = positive is None or positive == model.classes_[1]
    if method == "predict_proba":
        found = probabilities(graph, fitted, x).columns(1 if second else 0)
    else:
        found = scores(graph, fitted, x).flat()
        found = found if second else -found
    above = (found >= float(threshold)).cast("int64")
    return above if second else 1 - above


@converts(PROBABILITIES, "CalibratedClassifierCV")
def _calibrated(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    return average([_calibrated_member(graph, each, x) for each in model.calibrated_classifiers_])


@converts(CLASS, "CalibratedClassifierCV")
def _calibrated_class(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    return _calibrated(graph, model, x).argmax(1)


def _calibrated_member(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    inner = model.estimator
    known = len(model.classes)
    wanted = np.searchsorted(model.classes, inner.classes_)
    if hasattr(inner, "decision_function"):
        found = scores(graph, inner, x)
        found = found.as_column() if known == 2 else found
    else:
        found = probabilities(graph, inner, x)
        found = found.columns([1]) if known == 2 else found
    if model.method == "temperature":
        return _temperature(graph, model, inner, found, known)
    places = [1] if known == 2 else list(wanted)
    columns: dict[int, Tensor] = {}
    for number, (place, calibrator) in enumerate(zip(places, model.calibrators, strict=True)):
        columns[int(place)] = _calibrator(graph, calibrator, found.columns([number]))
    if known == 2:
        return graph.concat([1.0 - columns[1], columns[1]]).minimum(1.0)
    nothing = found.columns([0]) * 0.0
    joined = graph.concat([columns.get(place, nothing) for place in range(known)])
    total = joined.sum(keep=True)
    even = graph.full(joined, np.full(known, 1.0 / known))
    shares = joined / graph.where(total.equal(np.float64(0)), graph.constant(1.0), total)
    flag = total.equal(np.float64(0))
    return graph.where(flag, even, shares).minimum(1.0)


def _temperature(graph: GraphBuilder, model: Any, inner: Any, found: Tensor, known: int) -> Tensor:
    (calibrator,) = model.calibrators
    if not hasattr(inner, "decision_function"):
        raise unsupported(model, "method='temperature' on an estimator without decision_function")
    logits = graph.concat([found * 0.0, found]) if known == 2 else found
    return (logits * float(calibrator.beta_)).softmax()


def _calibrator(graph: GraphBuilder, calibrator: Any, x: Tensor) -> Tensor:
    if hasattr(calibrator, "a_"):
        return (-(x * float(calibrator.a_) + float(calibrator.b_))).sigmoid()
    return predict(graph, calibrator, x).as_column()
