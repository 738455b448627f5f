"""Nearest neighbors, centers and other models by distance, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxferry.export.sources.sklearn.converters.linear import dense, nearest, projected_kernel, squared_distances
from onnxferry.export.sources.sklearn.converters.registry import (
    CLASS,
    PREDICT,
    PROBABILITIES,
    SCORES,
    TRANSFORM,
    Input,
    converts,
    matrix,
    unsupported,
)
from onnxferry.export.sources.sklearn.converters.tensors import GraphBuilder, Tensor, Whole
from onnxferry.export.sources.sklearn.converters.trees import inlier

LIKELY = "likely"
"""Key of the builder's memo: the cause to name where the file differs, and what to try."""

EQUALLY_NEAR = (
    "several fitted rows are equally near, as among whole numbers, and which of them counts is chance: of the search in scikit-learn",
    "tell such rows apart before fit(): drop those that repeat, or add a little noise to the fitted rows",
)


def distances(graph: GraphBuilder, model: Any, x: Tensor, to: np.ndarray) -> Tensor:
    """By the metric that was fitted, (rows, m)."""
    graph.memo[LIKELY] = EQUALLY_NEAR
    metric = model.effective_metric_
    power = (model.effective_metric_params_ or {}).get("p", 2)
    if metric in ("euclidean", "l2") or (metric == "minkowski" and power == 2):
        return squared_distances(x, to).sqrt()
    if metric == "sqeuclidean":
        return squared_distances(x, to)
    if metric in ("manhattan", "cityblock", "l1") or (metric == "minkowski" and power == 1):
        return _over_features(x, to, lambda total, gap: gap if total is None else total + gap)
    if metric in ("chebyshev",):
        return _over_features(x, to, lambda total, gap: gap if total is None else total.maximum(gap))
    if metric == "minkowski":
        rate = float(power)
        return _over_features(x, to, lambda total, gap: gap**rate if total is None else total + gap**rate) ** (1 / rate)
    if metric == "cosine":
        length = (x * x).sum(keep=True).sqrt()
        own = to / np.maximum(np.linalg.norm(to, axis=1, keepdims=True), np.finfo(np.float64).tiny)
        answer: Tensor = (1.0 - (x / graph.where(length.equal(np.float64(0)), graph.constant(1.0), length)) @ own.T).maximum(0.0)
        return answer
    raise unsupported(model, f"the metric {metric if isinstance(metric, str) else type(metric).__name__}")


def _over_features(x: Tensor, to: np.ndarray, step: Any) -> Tensor:
    total: Tensor | None = None
    for place in range(to.shape[1]):
        total = step(total, (x.columns([place]) - to[None, :, place]).abs())
    assert total is not None  # noqa: S101 - estimators have at least one feature
    return total


def _fitted_rows(model: Any) -> np.ndarray:
    return dense(model._fit_X)


def _nearest(graph: GraphBuilder, model: Any, x: Input) -> tuple[Tensor, Tensor]:
    """Places of the neighbors (rows, k) and their weights."""
    rows = _fitted_rows(model)
    found, places = distances(graph, model, matrix(graph, x), rows).smallest(int(model.n_neighbors))
    return places, _weights(graph, model, found)


def _weights(graph: GraphBuilder, model: Any, found: Tensor) -> Tensor:
    if model.weights in (None, "uniform"):
        return found * 0.0 + 1.0
    if model.weights != "distance":
        raise unsupported(model, "a function of one's own as weights")
    # Rows that are equal to the asked one count alone.
    zero = found.equal(np.float64(0))
    exact = zero.any().as_column()
    return graph.where(exact, zero.cast("float64"), 1.0 / graph.where(zero, graph.constant(1.0), found))


@converts(PROBABILITIES, "KNeighborsClassifier")
def _votes(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    _single(model)
    places, weights = _nearest(graph, model, x)
    known = len(model.classes_)
    classes = graph.constant(np.asarray(model._y).ravel().astype(np.int64)).take(places)
    hits = classes.unsqueeze(2).equal(Whole(np.arange(known))).cast("float64")
    votes = (hits * weights.unsqueeze(2)).running_sum(1)
    total = votes.sum(keep=True)
    return votes / graph.where(total.equal(np.float64(0)), graph.constant(1.0), total)


def _single(model: Any) -> None:
    if getattr(model, "outputs_2d_", False):
        raise unsupported(model, "several targets at once; export one for each")


@converts(CLASS, "KNeighborsClassifier")
def _vote(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    return _votes(graph, model, x).argmax(1)


@converts(PREDICT, "KNeighborsRegressor")
def _neighbors_mean(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    places, weights = _nearest(graph, model, x)
    targets = np.asarray(model._y, np.float64)
    one = targets.ndim == 1
    values = graph.constant(targets.reshape(len(targets), -1)).take(places)
    made = (values * weights.unsqueeze(2)).running_sum(1) / weights.sum(keep=True)
    return made.flat() if one else made


@converts(TRANSFORM, "KNeighborsTransformer")
def _neighbors_graph(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    rows = _fitted_rows(model)
    gaps = distances(graph, model, matrix(graph, x), rows)
    count = int(model.n_neighbors) + (model.mode == "distance")
    found, places = gaps.smallest(count)
    values = found if model.mode == "distance" else found * 0.0 + 1.0
    return graph.op("ScatterElements", [gaps * 0.0, places, values], "float64", axis=1)


@converts(TRANSFORM, "Isomap")
def _isomap(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    """The shortest way to every fitted row goes by one of the nearest."""
    neighbors = model.nbrs_
    if model.n_neighbors is None:
        raise unsupported(model, "neighbors within a radius; use n_neighbors")
    found, places = distances(graph, neighbors, matrix(graph, x), _fitted_rows(neighbors)).smallest(int(neighbors.n_neighbors))
    ways = graph.constant(np.asarray(model.dist_matrix_, np.float64)).take(places) + found.unsqueeze(2)
    shortest = ways.min(1)
    return projected_kernel(model.kernel_pca_, shortest * shortest * -0.5)


@converts(TRANSFORM, "LocallyLinearEmbedding")
def _locally_linear(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    """The weights that make a row of its neighbors, as ``barycenter_weights``: a small system a row, solved by Gauss and Jordan."""
    count = int(model.n_neighbors)
    if count > 32:
        raise unsupported(model, f"n_neighbors={count}; the limit is 32")
    rows, given = _fitted_rows(model.nbrs_), matrix(graph, x)
    _, places = distances(graph, model.nbrs_, given, rows).smallest(count)
    apart = graph.constant(rows).take(places) - given.unsqueeze(1)
    products = graph.op("MatMul", [apart, graph.op("Transpose", [apart], "float64", perm=[0, 2, 1])], "float64")
    unit = np.eye(count)
    trace = graph.op("ReduceSum", [products * unit, Whole([1, 2])], "float64", keepdims=1)
    ridge = graph.where(trace > 0.0, trace * float(model.reg), graph.constant(float(model.reg)))
    system = graph.concat([products + ridge * unit, (products * 0.0 + 1.0).max(2).unsqueeze(2)], axis=2)
    for place in range(count):
        row = graph.op("Gather", [system, Whole(place)], "float64", axis=1)
        row = row / graph.op("Gather", [row, Whole([place])], "float64", axis=1)
        column = graph.op("Gather", [system, Whole([place])], "float64", axis=2)
        system = graph.where(graph.constant(unit[place].reshape(-1, 1) > 0), row.unsqueeze(1), system - column * row.unsqueeze(1))
    weights = graph.op("Gather", [system, Whole(count)], "float64", axis=2)
    shares = weights / weights.sum(keep=True)
    return (graph.constant(np.asarray(model.embedding_, np.float64)).take(places) * shares.unsqueeze(2)).running_sum(1)


@converts(PREDICT, "RadiusNeighborsRegressor")
def _radius_mean(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    found = distances(graph, model, matrix(graph, x), _fitted_rows(model))
    weights = _radius_weights(graph, model, found)
    targets = np.asarray(model._y, np.float64)
    total = weights.sum(keep=True)
    made = (weights @ targets.reshape(len(targets), -1)) / total
    if np.asarray(model._y).dtype.kind in "iu":  # scikit-learn's NaN for a row without neighbors, as a whole number
        made = graph.where(total.equal(np.float64(0)), graph.constant(float(np.iinfo(np.int64).min)), made)
    return made.flat() if targets.ndim == 1 else made


def _radius_weights(graph: GraphBuilder, model: Any, found: Tensor) -> Tensor:
    inside = found <= float(model.radius)
    if model.weights in (None, "uniform"):
        return inside.cast("float64")
    if model.weights != "distance":
        raise unsupported(model, "a function of one's own as weights")
    zero = found.equal(np.float64(0))
    exact = zero.any().as_column()
    away = 1.0 / graph.where(zero, graph.constant(1.0), found)
    return graph.where(exact, zero.cast("float64"), away) * inside.cast("float64")


@converts(PROBABILITIES, "RadiusNeighborsClassifier")
def _radius_votes(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    _single(model)
    if model.outlier_label_ is None:
        pass  # scikit-learn raises for a row without neighbors; the file answers NaN
    found = distances(graph, model, matrix(graph, x), _fitted_rows(model))
    known = len(model.classes_)
    hits = np.eye(known)[np.asarray(model._y).ravel().astype(int)]
    votes = _radius_weights(graph, model, found) @ hits
    total = votes.sum(keep=True)
    label = model.outlier_label_
    if label is None:
        answer: Tensor = votes / total
        return answer
    alone = np.zeros(known)
    alone[np.flatnonzero(np.asarray(model.classes_) == np.ravel(label)[0])] = 1.0
    none = total.equal(np.float64(0))
    return graph.where(none, graph.full(votes, alone), votes / graph.where(none, graph.constant(1.0), total))


@converts(CLASS, "RadiusNeighborsClassifier")
def _radius_vote(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    return _radius_votes(graph, model, x).argmax(1)


def _even(priors: np.ndarray) -> bool:
    """By scikit-learn's own rule, ``numpy.isclose`` with its defaults."""
    return bool(np.abs(priors - 1 / len(priors)).max() <= 1e-8 + 1e-5 / len(priors))


@converts(CLASS, "NearestCentroid")
def _nearest_centroid(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    if model.metric not in ("euclidean", "manhattan"):
        raise unsupported(model, f"the metric {model.metric}")
    if model.metric == "manhattan":
        gaps = _over_features(
            matrix(graph, x), np.asarray(model.centroids_, np.float64), lambda total, gap: gap if total is None else total + gap
        )
        return gaps.argmin(1)
    if _even(np.asarray(model.class_prior_, np.float64)):
        return nearest(matrix(graph, x), np.asarray(model.centroids_, np.float64))
    return _centroid_scores(graph, model, x).argmax(1)


def _centroid_scores(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    scale = np.asarray(model.within_class_std_dev_, np.float64)
    used = scale != 0
    divided = matrix(graph, x) / np.where(used, scale, 1.0)
    centers = np.where(used, model.centroids_ / np.where(used, scale, 1.0), model.centroids_)
    answer: Tensor = -squared_distances(divided, centers) + 2.0 * np.log(model.class_prior_)
    return answer


@converts(PROBABILITIES, "NearestCentroid")
def _centroid_probabilities(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    return _centroid_scores(graph, model, x).softmax()


def _centers(model: Any) -> np.ndarray:
    for name in ("cluster_centers_", "subcluster_centers_"):
        if hasattr(model, name):
            return np.asarray(getattr(model, name), np.float64)
    raise unsupported(model, "no centers")


CLUSTERS = ("KMeans", "MiniBatchKMeans", "MeanShift", "AffinityPropagation", "Birch")


@converts(PREDICT, *CLUSTERS)
def _cluster(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    place = nearest(matrix(graph, x), _centers(model))
    if hasattr(model, "subcluster_labels_"):
        return graph.constant(np.asarray(model.subcluster_labels_).astype(np.int64)).take(place)
    return place


@converts(PREDICT, "BisectingKMeans")
def _bisecting(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    found = matrix(graph, x) - np.asarray(getattr(model, "_X_mean", 0.0))

    def below(node: Any) -> Tensor:
        if node.left is None:
            return (found.columns([0]) * 0.0).cast("int64").flat() + Whole(int(node.label))
        first = nearest(found, np.stack([node.left.center, node.right.center])).equal(Whole(0))
        return graph.where(first, below(node.left), below(node.right))

    return below(model._bisecting_tree)


@converts(TRANSFORM, "KMeans", "MiniBatchKMeans", "BisectingKMeans", "Birch")
def _center_distances(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    return squared_distances(matrix(graph, x), _centers(model)).sqrt()


@converts(SCORES, "LocalOutlierFactor")
def _outlier_factor(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    found, places = distances(graph, model, matrix(graph, x), _fitted_rows(model)).smallest(int(model.n_neighbors_))
    reach = graph.constant(np.asarray(model._distances_fit_X_[:, model.n_neighbors_ - 1], np.float64)).take(places).maximum(found)
    density = 1.0 / (reach.sum(keep=True) / float(model.n_neighbors_) + 1e-10)
    ratios = graph.constant(np.asarray(model._lrd, np.float64)).take(places) / density
    return -(ratios.sum() / float(model.n_neighbors_)) - float(model.offset_)


@converts(PREDICT, "LocalOutlierFactor")
def _outlier_factor_inlier(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    return inlier(graph, _outlier_factor(graph, model, x), strict=False)


@converts(SCORES, "EllipticEnvelope")
def _envelope(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    centered = matrix(graph, x) - np.asarray(model.location_, np.float64)
    return -((centered @ np.asarray(model.get_precision())) * centered).sum() - float(model.offset_)


@converts(PREDICT, "EllipticEnvelope")
def _envelope_inlier(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    return inlier(graph, _envelope(graph, model, x), strict=False)


@converts(PROBABILITIES, "LabelPropagation", "LabelSpreading")
def _propagated(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    rows = dense(model.X_)
    if model.kernel == "rbf":
        weights = (squared_distances(matrix(graph, x), rows) * -float(model.gamma)).exp()
        found = weights @ np.asarray(model.label_distributions_, np.float64)
    elif model.kernel == "knn":
        _, places = squared_distances(matrix(graph, x), rows).smallest(int(model.n_neighbors))
        found = graph.constant(np.asarray(model.label_distributions_, np.float64)).take(places).running_sum(1)
    else:
        raise unsupported(model, "a kernel of one's own")
    return found / found.sum(keep=True)
