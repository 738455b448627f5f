"""Models that are a product with weights, and support vector machines and others that are one of kernels."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxferry.export.sources.sklearn.converters.composed import pairwise_votes
from onnxferry.export.sources.sklearn.converters.registry import (
    CLASS,
    PREDICT,
    PROBABILITIES,
    SCORES,
    TRANSFORM,
    Input,
    converts,
    matrix,
    probabilities,
    unsupported,
)
from onnxferry.export.sources.sklearn.converters.tensors import GraphBuilder, Tensor
from onnxferry.export.sources.sklearn.converters.trees import inlier

REGRESSORS = (
    "LinearModel",
    "LinearRegression",
    "Ridge",
    "Lasso",
    "ElasticNet",
    "MultiTaskElasticNet",
    "Lars",
    "OrthogonalMatchingPursuit",
    "HuberRegressor",
    "TheilSenRegressor",
    "BayesianRidge",
    "ARDRegression",
    "LinearSVR",
    "QuantileRegressor",
    "BaseSGDRegressor",
)


def dense(coef: Any) -> np.ndarray:
    return np.asarray(coef.toarray() if hasattr(coef, "toarray") else coef, np.float64)


def product(graph: GraphBuilder, x: Input, coef: Any, intercept: Any) -> Tensor:
    """``x @ coef.T + intercept``: a vector for a vector of weights."""
    weights = dense(coef)
    found = matrix(graph, x) @ (weights[:, None] if weights.ndim == 1 else weights.T) + np.atleast_1d(np.asarray(intercept, np.float64))
    return found.flat() if weights.ndim == 1 else found


@converts(PREDICT, *REGRESSORS)
def _linear(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    found = product(graph, x, model.coef_, model.intercept_)
    one = dense(model.coef_).ndim == 2 and type(model).__name__ in ("LinearSVR", "SGDRegressor", "PassiveAggressiveRegressor")
    return found.flat() if one else found


@converts(PREDICT, "_GeneralizedLinearRegressor")
def _generalized(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    raw = product(graph, x, model.coef_, model.intercept_)
    link = type(model._base_loss.link).__name__
    if link not in ("LogLink", "IdentityLink"):
        raise unsupported(model, f"the link {link}")
    return raw.exp() if link == "LogLink" else raw


def _one_score(model: Any) -> bool:
    weights = dense(model.coef_)
    return weights.ndim == 1 or weights.shape[0] == 1


@converts(SCORES, "LinearClassifierMixin")
def _linear_scores(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    found = product(graph, x, model.coef_, model.intercept_)
    return found.flat() if _one_score(model) else found


@converts(CLASS, "LinearClassifierMixin")
def _linear_class(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    found = _linear_scores(graph, model, x)
    binarizer = getattr(model, "_label_binarizer", None)
    if binarizer is not None and str(getattr(binarizer, "y_type_", "")).startswith("multilabel"):
        return (found > 0.0).cast("int64")
    return (found > 0.0).cast("int64") if _one_score(model) else found.argmax(1)


@converts(PROBABILITIES, "LogisticRegression", "LogisticRegressionCV")
def _logistic(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    found = _linear_scores(graph, model, x)
    one_for_each = getattr(model, "multi_class", "auto") == "ovr" or model.solver == "liblinear"
    if one_for_each:
        return _rest_shares(graph, found)
    if dense(model.coef_).shape[0] == 1:
        column = found.as_column()
        if len(model.classes_) == 2:
            second = column.sigmoid()
            return graph.concat([1.0 - second, second])
    return found.softmax()


def _rest_shares(graph: GraphBuilder, found: Tensor) -> Tensor:
    return graph.concat([1.0 - found.as_column().sigmoid(), found.as_column().sigmoid()])


@converts(PROBABILITIES, "LinearDiscriminantAnalysis")
def _discriminant(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    found = _linear_scores(graph, model, x)
    if len(model.classes_) == 2:
        second = found.as_column().sigmoid()
        return graph.concat([1.0 - second, second])
    return found.softmax()


@converts(PROBABILITIES, "SGDClassifier")
def _sgd(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    found = _linear_scores(graph, model, x)
    binary = len(model.classes_) == 2
    column = found.as_column() if binary else found
    if model.loss == "log_loss":
        each = column.sigmoid()
        if binary:
            return graph.concat([1.0 - each, each])
        return _as_shares(graph, each)
    if model.loss != "modified_huber":
        raise unsupported(model, f"probabilities of the loss {model.loss}")
    each = (column.clip(-1.0, 1.0) + 1.0) / 2.0
    if binary:
        return graph.concat([1.0 - each, each])
    return _as_shares(graph, each)


def _as_shares(graph: GraphBuilder, each: Tensor) -> Tensor:
    """Divided by their sum; equal shares where all are 0."""
    total = each.sum(keep=True)
    nothing = total.equal(np.float64(0))
    ones = each * 0.0 + 1.0
    return graph.where(nothing, ones, each) / graph.where(nothing, ones.sum(keep=True), total)


@converts(SCORES, "SGDOneClassSVM")
def _one_class_sgd(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    return product(graph, x, model.coef_, -np.asarray(model.offset_)).flat()


@converts(PREDICT, "SGDOneClassSVM")
def _one_class_sgd_inlier(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    return inlier(graph, _one_class_sgd(graph, model, x), strict=False)


@converts(PREDICT, "PLSRegression", "CCA", "PLSCanonical")
def _partial_least_squares(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    centered = matrix(graph, x) - np.asarray(model._x_mean, np.float64)
    found = centered @ dense(model.coef_).T + np.asarray(model.intercept_, np.float64)
    return found.flat() if getattr(model, "_predict_1d", False) else found


@converts(TRANSFORM, "PLSRegression", "CCA", "PLSCanonical")
def _partial_least_squares_transform(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    return ((matrix(graph, x) - np.asarray(model._x_mean)) / np.asarray(model._x_std)) @ np.asarray(model.x_rotations_)


@converts(TRANSFORM, "PLSSVD")
def _pls_svd(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    return ((matrix(graph, x) - np.asarray(model._x_mean)) / np.asarray(model._x_std)) @ np.asarray(model.x_weights_)


def squared_distances(x: Tensor, to: np.ndarray) -> Tensor:
    """(rows, m), by the differences themselves up to some size, so that equal rows are 0 apart: terms are added in order."""
    to = np.asarray(to, np.float64)
    if to.shape[1] <= MAX_UNROLLED:
        total: Tensor | None = None
        for place in range(to.shape[1]):
            gap = x.columns([place]) - to[None, :, place]
            total = gap * gap if total is None else total + gap * gap
        assert total is not None  # noqa: S101 - estimators have at least one feature
        return total
    squares = (x * x).sum(keep=True) - 2.0 * (x @ to.T) + (to * to).sum(1)[None, :]
    answer: Tensor = squares.maximum(0.0)
    return answer


def nearest(x: Tensor, centers: np.ndarray) -> Tensor:
    """The place of the nearest center, int64 (rows,). As in scikit-learn's k-means without the square of the row itself, which would
    hide the difference for rows far away.
    """
    squares = np.square(centers).sum(1)[None, :]
    found: Tensor = squares - 2.0 * (x @ centers.T)
    return found.argmin(1)


MAX_UNROLLED = 64
"""Features whose distances are added one by one; above, as a matrix product."""


def kernel(
    graph: GraphBuilder, model: Any, x: Input, name: Any, to: np.ndarray, gamma: float | None, degree: float, coef0: float
) -> Tensor:
    """Of sklearn.metrics.pairwise, (rows, m)."""
    x, to = matrix(graph, x), np.asarray(to, np.float64)
    rate = 1.0 / to.shape[1] if gamma is None else float(gamma)
    if name == "linear":
        return x @ to.T
    if name == "rbf":
        return (squared_distances(x, to) * -rate).exp()
    if name in ("poly", "polynomial"):
        return ((x @ to.T) * rate + float(coef0)) ** float(degree)
    if name == "sigmoid":
        return ((x @ to.T) * rate + float(coef0)).unary("Tanh")
    if name == "cosine":
        length = (x * x).sum(keep=True).sqrt()
        own = to / np.where(np.linalg.norm(to, axis=1, keepdims=True) == 0, 1.0, np.linalg.norm(to, axis=1, keepdims=True))
        return (x / graph.where(length.equal(np.float64(0)), graph.constant(1.0), length)) @ own.T
    if name == "laplacian":
        total = None
        for place in range(to.shape[1]):
            gap = (x.columns([place]) - to[None, :, place]).abs()
            total = gap if total is None else total + gap
        assert total is not None  # noqa: S101
        return (total * -rate).exp()
    raise unsupported(model, f"the kernel {name if isinstance(name, str) else type(name).__name__}")


def _support(graph: GraphBuilder, model: Any, x: Input) -> tuple[Tensor, np.ndarray]:
    """The kernel with the support vectors, and their weights."""
    vectors = dense(model.support_vectors_)
    found = kernel(graph, model, x, model.kernel, vectors, model._gamma, model.degree, model.coef0)
    return found, dense(model._dual_coef_)


@converts(PREDICT, "SVR", "NuSVR")
def _support_regression(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    found, weights = _support(graph, model, x)
    return (found @ weights.T + float(np.ravel(model._intercept_)[0])).flat()


@converts(SCORES, "OneClassSVM")
def _one_class(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    return _support_regression(graph, model, x)


@converts(PREDICT, "OneClassSVM")
def _one_class_inlier(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    return inlier(graph, _one_class(graph, model, x), strict=True)


def _pairs(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    """libsvm's decisions between pairs of classes, above 0 for the first of the pair, (rows, pairs)."""
    found, weights = _support(graph, model, x)
    counts = np.asarray(model._n_support)
    ends = np.cumsum(counts)
    known = len(counts)
    columns = []
    for i in range(known):
        for j in range(i + 1, known):
            column = np.zeros(weights.shape[1])
            one, two = slice(ends[i] - counts[i], ends[i]), slice(ends[j] - counts[j], ends[j])
            column[one], column[two] = weights[j - 1, one], weights[i, two]
            columns.append(column)
    return found @ np.stack(columns, axis=1) + np.asarray(model._intercept_, np.float64)


def _pair_list(found: Tensor, known: int) -> list[Tensor]:
    return [found.columns(place) for place in range(known * (known - 1) // 2)]


@converts(SCORES, "SVC", "NuSVC")
def _support_scores(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    found = _pairs(graph, model, x)
    known = len(model.classes_)
    if known == 2:
        return -found.flat()  # libsvm's is above 0 for the first of two classes
    if model.decision_function_shape == "ovo":
        return found
    decisions = _pair_list(found, known)
    return pairwise_votes(graph, [(each < 0.0).cast("int64") for each in decisions], [-each for each in decisions], known)


@converts(CLASS, "SVC", "NuSVC")
def _support_class(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    known = len(model.classes_)
    if model.break_ties and model.decision_function_shape == "ovr" and known > 2:
        return _support_scores(graph, model, x).argmax(1)
    found = _pairs(graph, model, x)
    zero = found.columns(0) * 0.0
    votes = [zero] * known
    pair = 0
    for i in range(known):
        for j in range(i + 1, known):
            first = (found.columns(pair) > 0.0).real()
            votes[i] = votes[i] + first
            votes[j] = votes[j] + (1.0 - first)
            pair += 1
    return graph.concat([each.as_column() for each in votes]).argmax(1)


@converts(PREDICT, "KernelRidge")
def _kernel_ridge(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    found = kernel(graph, model, x, model.kernel, model.X_fit_, model.gamma, model.degree, model.coef0)
    weights = dense(model.dual_coef_)
    made = found @ (weights[:, None] if weights.ndim == 1 else weights)
    return made.flat() if weights.ndim == 1 else made


@converts(TRANSFORM, "KernelPCA")
def _kernel_pca(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    return projected_kernel(model, kernel(graph, model, x, model.kernel, model.X_fit_, model.gamma_, model.degree, model.coef0))


def projected_kernel(model: Any, found: Tensor) -> Tensor:
    """Of a KernelPCA, from the kernel between the given rows and the fitted ones."""
    center = model._centerer
    centered = found - np.asarray(center.K_fit_rows_) - found.sum(keep=True) / float(len(center.K_fit_rows_)) + float(center.K_fit_all_)
    keep = np.flatnonzero(model.eigenvalues_)
    scaled = np.zeros_like(model.eigenvectors_)
    scaled[:, keep] = model.eigenvectors_[:, keep] / np.sqrt(model.eigenvalues_[keep])
    answer: Tensor = centered @ scaled
    return answer


@converts(TRANSFORM, "Nystroem")
def _nystroem(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    extra = model.kernel_params or {}
    gamma, degree, coef0 = model.gamma, model.degree, model.coef0
    if extra:
        raise unsupported(model, "kernel_params")
    found = kernel(graph, model, x, model.kernel, model.components_, gamma, 3 if degree is None else degree, 1 if coef0 is None else coef0)
    answer: Tensor = found @ model.normalization_.T
    return answer


@converts(PREDICT, "MLPRegressor")
def _perceptron(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    found = _layers(graph, model, x)
    if model.out_activation_ not in ("identity", "exp"):
        raise unsupported(model, f"the activation {model.out_activation_}")
    found = found.exp() if model.out_activation_ == "exp" else found
    return found.flat() if model.n_outputs_ == 1 else found


def _layers(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    kinds = {"relu": "Relu", "tanh": "Tanh", "logistic": "Sigmoid"}
    found = matrix(graph, x)
    for place, (weights, bias) in enumerate(zip(model.coefs_, model.intercepts_, strict=True)):
        found = found @ np.asarray(weights, np.float64) + np.asarray(bias, np.float64)
        if place < len(model.coefs_) - 1 and model.activation != "identity":
            found = found.unary(kinds[model.activation])
    return found


@converts(PROBABILITIES, "MLPClassifier")
def _perceptron_probabilities(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    found = _layers(graph, model, x)
    if model.out_activation_ == "softmax":
        return found.softmax()
    second = found.sigmoid()
    return second if model.n_outputs_ > 1 else graph.concat([1.0 - second, second])


@converts(CLASS, "MLPClassifier")
def _perceptron_class(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    found = probabilities(graph, model, x)
    if model.out_activation_ == "softmax":
        return found.argmax(1)
    if model.n_outputs_ > 1:
        return (found > 0.5).cast("int64")
    return (found.columns(1) > 0.5).cast("int64")


@converts(PROBABILITIES, "DummyClassifier")
def _dummy(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    if model.strategy not in ("prior", "most_frequent", "constant") or model.n_outputs_ > 1:
        raise unsupported(model, f"strategy={model.strategy!r}")
    row = np.asarray(model.predict_proba(np.zeros((1, model.n_features_in_))), np.float64)[0]
    return graph.full(matrix(graph, x), row)


@converts(PREDICT, "DummyRegressor")
def _dummy_prediction(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    found = graph.full(matrix(graph, x), np.ravel(model.constant_).astype(np.float64))
    return found.flat() if model.n_outputs_ == 1 else found
