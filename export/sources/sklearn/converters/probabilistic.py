"""Naive Bayes, mixtures and discriminants."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxferry.export.sources.sklearn.converters.registry import (
    CLASS,
    PREDICT,
    PROBABILITIES,
    SCORES,
    Columns,
    Input,
    converts,
    matrix,
    unsupported,
)
from onnxferry.export.sources.sklearn.converters.tensors import GraphBuilder, Tensor

JOINT = "joint_log_likelihood"


def _shares(found: Tensor) -> Tensor:
    return found.softmax()


def _gaussian(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    found = matrix(graph, x)
    parts = []
    for mean, variance, prior in zip(model.theta_, model.var_, model.class_prior_, strict=True):
        gap = found - mean
        constant = float(np.log(prior) - 0.5 * np.sum(np.log(2.0 * np.pi * variance)))
        parts.append((gap * gap / variance).sum(keep=True) * -0.5 + constant)
    return graph.concat(parts)


def _multinomial(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    return matrix(graph, x) @ np.asarray(model.feature_log_prob_).T + np.asarray(model.class_log_prior_)


def _complement(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    found = matrix(graph, x) @ np.asarray(model.feature_log_prob_).T
    return found + np.asarray(model.class_log_prior_) if len(model.classes_) == 1 else found


def _bernoulli(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    found = matrix(graph, x)
    if model.binarize is not None:
        found = (found > float(model.binarize)).cast("float64")
    absent = np.log(1 - np.exp(model.feature_log_prob_))
    answer: Tensor = found @ (model.feature_log_prob_ - absent).T + (model.class_log_prior_ + absent.sum(1))
    return answer


def _categorical(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    found = matrix(graph, x).cast("int64")
    total = None
    for place, table in enumerate(model.feature_log_prob_):
        # One beyond the table is an error here as there.
        term = graph.constant(np.asarray(table, np.float64).T).take(found.columns(place))
        total = term if total is None else total + term
    assert total is not None  # noqa: S101 - estimators have at least one feature
    return total + np.asarray(model.class_log_prior_)


def _quadratic(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    found = matrix(graph, x)
    if not hasattr(model, "rotations_"):
        raise unsupported(model, "this solver")
    parts = []
    for mean, rotation, scaling, prior in zip(model.means_, model.rotations_, model.scalings_, model.priors_, strict=True):
        moved = (found - mean) @ (rotation * (scaling**-0.5))
        parts.append(((moved * moved).sum(keep=True) + float(np.sum(np.log(scaling)))) * -0.5 + float(np.log(prior)))
    return graph.concat(parts)


LIKELIHOODS = {
    "GaussianNB": _gaussian,
    "MultinomialNB": _multinomial,
    "ComplementNB": _complement,
    "BernoulliNB": _bernoulli,
    "CategoricalNB": _categorical,
    "QuadraticDiscriminantAnalysis": _quadratic,
}


def _likelihood(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    made: Tensor = LIKELIHOODS[type(model).__name__](graph, model, x)
    return made


@converts(PROBABILITIES, *LIKELIHOODS)
def _probabilities(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    return _shares(_likelihood(graph, model, x))


@converts(CLASS, *LIKELIHOODS)
def _class(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    return _likelihood(graph, model, x).argmax(1)


@converts(SCORES, "QuadraticDiscriminantAnalysis")
def _scores(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    found = _quadratic(graph, model, x)
    return found.columns(1) - found.columns(0) if len(model.classes_) == 2 else found


def _mixture(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    """The logarithm of each component's weighted density, up to what is the same for all."""
    found = matrix(graph, x)
    # Of rows of whole numbers scikit-learn 1.9 keeps the distances as whole numbers, too.
    dtypes = {part.dtype for part in x.parts} if isinstance(x, Columns) else {x.dtype}
    cut = dtypes == {"int64"} and model.covariance_type in ("full", "tied")
    means = np.asarray(model.means_)
    parts = []
    for place, mean in enumerate(means):
        chol = model.precisions_cholesky_
        gap = found - mean
        if model.covariance_type in ("full", "tied"):
            root = chol[place] if model.covariance_type == "full" else chol
            moved, log_det = gap @ np.asarray(root), float(np.sum(np.log(np.diag(root))))
        elif model.covariance_type == "diag":
            moved, log_det = gap * np.asarray(chol[place]), float(np.sum(np.log(chol[place])))
        else:
            moved, log_det = gap * float(chol[place]), float(len(mean) * np.log(chol[place]))
        squares = (moved * moved).sum(keep=True)
        if cut:
            squares = squares.cast("int64").real()
        parts.append(squares * -0.5 + log_det)
    joined = graph.concat(parts)
    if type(model).__name__ == "BayesianGaussianMixture":
        features = means.shape[1]
        freedom = np.asarray(model.degrees_of_freedom_)
        from scipy.special import digamma  # type: ignore[import-untyped]

        log_lambda = features * np.log(2.0) + np.sum(digamma(0.5 * (freedom - np.arange(features)[:, None])), axis=0)
        joined = joined - 0.5 * features * np.log(freedom)
        joined = joined + 0.5 * (log_lambda - features / np.asarray(model.mean_precision_))
    return joined + np.asarray(model._estimate_log_weights())


@converts(PREDICT, "BaseMixture")
def _component(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    return _mixture(graph, model, x).argmax(1)


@converts(PROBABILITIES, "BaseMixture")
def _component_probabilities(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    return _shares(_mixture(graph, model, x))
