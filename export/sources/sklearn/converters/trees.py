"""Decision trees and ensembles of them, equal to scikit-learn bit by bit.

The graph's tree ensemble finds only which leaf a row falls into, one per tree; the values of the leaves stand in a float64 table and
are added in scikit-learn's order. So sums that are equal there are equal here, whatever the number of threads. Thresholds are compared
in float32, as scikit-learn's trees do, and missing values go where ``tree_.missing_go_to_left`` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from onnxferry.export.sources.sklearn.converters.registry import (
    CLASS,
    PREDICT,
    PROBABILITIES,
    QUESTION,
    SCORES,
    TRANSFORM,
    Input,
    class_index,
    converts,
    matrix,
    predict,
    probabilities,
    unsupported,
)
from onnxferry.export.sources.sklearn.converters.tensors import ML_DOMAIN, GraphBuilder, Tensor, Whole, running_total

MAX_LEAVES = 2**24
"""Node numbers are float32 in the tree ensemble: whole up to here."""


def float32_below(thresholds: np.ndarray) -> np.ndarray:
    """The largest float32 that is no larger: for a float32 x, ``x <= threshold`` and ``x <= float32_below(threshold)`` are the same."""
    rounded = thresholds.astype(np.float32)
    return np.where(rounded > thresholds, np.nextafter(rounded, np.float32(-np.inf)), rounded)


def leaf_places(graph: GraphBuilder, trees: Sequence[Any], x: Tensor, features: Sequence[np.ndarray] | None = None) -> Tensor:
    """int64 (rows, trees): the row's leaf in each tree, as a place among the nodes of all trees laid end to end.

    ``features``: for each tree, which columns of x it sees.
    """
    counts = [tree.node_count for tree in trees]
    starts = np.concatenate([[0], np.cumsum(counts)])
    if starts[-1] >= MAX_LEAVES:
        raise unsupported(trees[0], f"{starts[-1]} nodes; at most {MAX_LEAVES} can be numbered")
    left = np.concatenate([tree.children_left for tree in trees])
    right = np.concatenate([tree.children_right for tree in trees])
    leaf = left < 0
    feature = np.concatenate(
        [tree.feature if features is None else np.asarray(features[i])[np.maximum(tree.feature, 0)] for i, tree in enumerate(trees)]
    )
    thresholds = float32_below(np.concatenate([tree.threshold for tree in trees]))
    missing = np.concatenate([tree.missing_go_to_left for tree in trees]).astype(bool)
    owner = np.repeat(np.arange(len(trees)), counts)
    number = np.arange(starts[-1]) - starts[owner]
    return tree_ensemble(
        graph,
        x.cast("float32"),
        owner=owner,
        number=number,
        feature=np.where(leaf, 0, feature),
        threshold=np.where(leaf, np.float32(0), thresholds).astype(np.float32),
        left=np.where(leaf, 0, left),
        right=np.where(leaf, 0, right),
        missing=missing & ~leaf,
        leaf=leaf,
    )


def tree_ensemble(
    graph: GraphBuilder,
    x: Tensor,
    *,
    owner: np.ndarray,
    number: np.ndarray,
    feature: np.ndarray,
    threshold: np.ndarray,
    left: np.ndarray,
    right: np.ndarray,
    missing: np.ndarray,
    leaf: np.ndarray,
    below: bool = False,
) -> Tensor:
    """One target for each tree, and for each leaf its place as the weight. Arrays by node, trees one after another.

    ``below``: rows below a threshold go left, those at it right; else they go left too.
    """
    branch = "BRANCH_LT" if below else "BRANCH_LEQ"
    leaves = np.flatnonzero(leaf)
    attributes: dict[str, Any] = {
        "n_targets": int(owner[-1]) + 1,
        "aggregate_function": "SUM",
        "post_transform": "NONE",
        "nodes_treeids": owner.tolist(),
        "nodes_nodeids": number.tolist(),
        "nodes_featureids": feature.tolist(),
        "nodes_modes": ["LEAF" if each else branch for each in leaf.tolist()],
        "nodes_truenodeids": left.tolist(),
        "nodes_falsenodeids": right.tolist(),
        "nodes_missing_value_tracks_true": missing.astype(int).tolist(),
        "target_treeids": owner[leaves].tolist(),
        "target_nodeids": number[leaves].tolist(),
        "target_ids": owner[leaves].tolist(),
    }
    if x.dtype == "float64":
        attributes["nodes_values_as_tensor"] = numpy_helper.from_array(threshold.astype(np.float64), "thresholds")
        attributes["target_weights_as_tensor"] = numpy_helper.from_array(leaves.astype(np.float64), "places")
    else:
        attributes["nodes_values"] = threshold.tolist()
        attributes["target_weights"] = leaves.astype(np.float32).tolist()
    name = graph.fresh("leaves")
    graph.nodes.append(helper.make_node("TreeEnsembleRegressor", [x.name], [name], name=name, domain=ML_DOMAIN, **attributes))
    return Tensor(graph, name, "float32").cast("int64")


def leaf_values(
    graph: GraphBuilder, trees: Sequence[Any], x: Tensor, table: np.ndarray, features: Sequence[np.ndarray] | None = None
) -> Tensor:
    """``table``: values by node, trees laid end to end. Returns (rows, trees) or (rows, trees, n)."""
    return graph.constant(table.astype(np.float64)).take(leaf_places(graph, trees, x, features))


def _trees(models: Sequence[Any]) -> list[Any]:
    return [model.tree_ for model in models]


def _stacked(trees: Sequence[Any], output: int, width: int) -> np.ndarray:
    return np.concatenate([tree.value[:, output, :width] for tree in trees])


CLASSIFYING = ("DecisionTreeClassifier", "ExtraTreeClassifier")
REGRESSING = ("DecisionTreeRegressor", "ExtraTreeRegressor")
FORESTS = ("RandomForestClassifier", "ExtraTreesClassifier")
REGRESSING_FORESTS = ("RandomForestRegressor", "ExtraTreesRegressor")


def _members(model: Any) -> list[Any]:
    return [model.tree_] if hasattr(model, "tree_") else _trees(model.estimators_)


def forest_probabilities(graph: GraphBuilder, model: Any, x: Input, output: int = 0) -> Tensor:
    """Of one of the questions that the model answers."""
    trees = _members(model)
    count = model.n_classes_ if model.n_outputs_ == 1 else model.n_classes_[output]
    total = leaf_values(graph, trees, matrix(graph, x), _stacked(trees, output, int(count))).running_sum(1)
    return total / np.float64(len(trees)) if len(trees) > 1 else total


@converts(PROBABILITIES, *CLASSIFYING, *FORESTS)
def _forest_probabilities(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    return forest_probabilities(graph, model, x)


@converts(QUESTION, *CLASSIFYING, *FORESTS)
def _forest_question(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    return forest_probabilities(graph, model, x, graph.memo[QUESTION])


@converts(CLASS, *CLASSIFYING, *FORESTS)
def _forest_class(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    if model.n_outputs_ == 1:
        return probabilities(graph, model, x).argmax(1)
    return graph.concat([forest_probabilities(graph, model, x, k).argmax(1).as_column() for k in range(model.n_outputs_)])


@converts(PREDICT, *REGRESSING, *REGRESSING_FORESTS)
def _forest_prediction(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    trees = _members(model)
    table = np.concatenate([tree.value[:, :, 0] for tree in trees])
    total = leaf_values(graph, trees, matrix(graph, x), table).running_sum(1)
    total = total / np.float64(len(trees)) if len(trees) > 1 else total
    return total.flat() if model.n_outputs_ == 1 else total


@converts(TRANSFORM, "RandomTreesEmbedding")
def _embedding(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    trees = _trees(model.estimators_)
    starts = np.concatenate([[0], np.cumsum([tree.node_count for tree in trees])[:-1]])
    places = leaf_places(graph, trees, matrix(graph, x))
    parts = []
    for number, known in enumerate(model.one_hot_encoder_.categories_):
        parts.append(places.columns([number]).equal(Whole(known.astype(np.int64) + starts[number])).cast("float64"))
    return graph.concat(parts)


@converts(SCORES, "GradientBoostingClassifier", "GradientBoostingRegressor")
def _boosted(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    """Raw predictions, (rows, n)."""
    x = matrix(graph, x)
    members = model.estimators_
    trees = _trees(members.ravel())
    table = model.learning_rate * np.concatenate([tree.value[:, 0, 0] for tree in trees])
    steps = leaf_values(graph, trees, x, table).reshape(0, *members.shape)
    return graph.concat([_boosting_start(graph, model, x, members.shape[1]), steps]).running_sum(1)


def _boosting_start(graph: GraphBuilder, model: Any, x: Tensor, width: int) -> Tensor:
    init = model.init_
    if isinstance(init, str) or type(init).__name__.startswith("Dummy"):
        constant = model._raw_predict_init(np.zeros((1, model.n_features_in_), np.float32))
        return graph.full(x, constant[0]).reshape(0, 1, width)
    x = x.cast("float32").real()  # as the trees see it
    if hasattr(model, "classes_"):
        known = probabilities(graph, init, x)
        eps = float(np.finfo(np.float64).eps)
        known = (known if width > 1 else known.columns([1])).clip(eps, 1 - eps)
        if width > 1:
            logs = known.log()
            raw = logs - logs.sum(keep=True) / float(width)
        else:
            raw = (known / (1.0 - known)).log()
            raw = raw * 0.5 if type(model._loss).__name__ == "ExponentialLoss" else raw
    else:
        raw = predict(graph, init, x)
    return raw.reshape(0, 1, width) if width > 1 else raw.reshape(-1, 1, 1)


@converts(PREDICT, "GradientBoostingRegressor")
def _boosted_prediction(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    return _boosted(graph, model, x).flat()


@converts(PROBABILITIES, "GradientBoostingClassifier")
def _boosted_probabilities(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    raw = _boosted(graph, model, x)
    if model.estimators_.shape[1] > 1:
        return raw.softmax()
    second = (raw * 2.0 if type(model._loss).__name__ == "ExponentialLoss" else raw).sigmoid()
    return graph.concat([1.0 - second, second])


@converts(CLASS, "GradientBoostingClassifier")
def _boosted_class(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    raw = _boosted(graph, model, x)
    return raw.argmax(1) if model.estimators_.shape[1] > 1 else (raw.flat() >= 0.0).cast("int64")


@converts(SCORES, "IsolationForest")
def _isolation_scores(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    from sklearn.ensemble._iforest import _average_path_length

    trees = _trees(model.estimators_)
    depths = [
        lengths + known - 1.0 for lengths, known in zip(model._decision_path_lengths, model._average_path_length_per_tree, strict=True)
    ]
    total = leaf_values(graph, trees, matrix(graph, x), np.concatenate(depths), model.estimators_features_).running_sum(1)
    most = len(trees) * float(_average_path_length([model._max_samples])[0])
    return graph.constant(2.0) ** (total / -most) * -1.0 - float(model.offset_) if most else graph.full(total, -1.0 - model.offset_).flat()


@converts(PREDICT, "IsolationForest")
def _isolation_inlier(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    return inlier(graph, _isolation_scores(graph, model, x), strict=False)


def inlier(graph: GraphBuilder, found: Tensor, *, strict: bool) -> Tensor:
    """1 where the score is above 0 (not below it, if not strict), else -1."""
    inside = found.flat() > 0.0 if strict else found.flat() >= 0.0
    return graph.where(inside, graph.constant(1), graph.constant(-1))


@converts(SCORES, "AdaBoostClassifier")
def _ada_scores(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    known = model.n_classes_
    if known == 1:
        raise unsupported(model, "a single class")
    places = np.asarray(model.classes_)
    terms = []
    for member, weight in zip(model.estimators_, model.estimator_weights_, strict=False):
        own = np.searchsorted(places, member.classes_)
        hit = graph.constant(own).take(class_index(graph, member, x)).as_column().equal(Whole(np.arange(known)))
        terms.append(graph.where(hit, graph.constant(np.float64(weight)), graph.constant(np.float64(-1 / (known - 1) * weight))))
    total = running_total(terms) / float(model.estimator_weights_.sum())
    return (total * np.array([-1.0, 1.0])).sum(1) if known == 2 else total


@converts(PROBABILITIES, "AdaBoostClassifier")
def _ada_probabilities(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    found = _ada_scores(graph, model, x)
    if model.n_classes_ > 2:
        return (found / float(model.n_classes_ - 1)).softmax()
    column = found.as_column()
    return (graph.concat([-column, column]) / 2.0).softmax()


@converts(CLASS, "AdaBoostClassifier")
def _ada_class(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    found = _ada_scores(graph, model, x)
    return (found > 0.0).cast("int64") if model.n_classes_ == 2 else found.argmax(1)


@converts(PREDICT, "AdaBoostRegressor")
def _ada_prediction(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    """The weighted median of the members."""
    count = len(model.estimators_)
    found = graph.concat([predict(graph, member, x).as_column() for member in model.estimators_])
    values, order = found.smallest(count)
    weights = np.asarray(model.estimator_weights_, np.float64)[:count]
    running = graph.op("CumSum", [graph.constant(weights).take(order), Whole(1)], "float64")
    half = running.columns([count - 1]) * 0.5
    reached = (running >= half).cast("int64").argmax(1)
    return graph.op("GatherElements", [values, reached.as_column()], "float64", axis=1).flat()


@converts(SCORES, "HistGradientBoostingClassifier", "HistGradientBoostingRegressor")
def _histogram(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    """Raw predictions, (rows, n). Thresholds are compared in float64."""
    if getattr(model, "is_categorical_", None) is not None:
        raise unsupported(model, "categorical_features; encode them before it")
    predictors = [tree for each in model._predictors for tree in each]
    nodes = [tree.nodes for tree in predictors]
    counts = [len(each) for each in nodes]
    joined = np.concatenate(nodes)
    owner = np.repeat(np.arange(len(nodes)), counts)
    number = np.arange(len(joined)) - np.repeat(np.concatenate([[0], np.cumsum(counts)[:-1]]), counts)
    leaf = joined["is_leaf"].astype(bool)
    if len(joined) >= MAX_LEAVES:
        raise unsupported(model, f"{len(joined)} nodes; at most {MAX_LEAVES} can be numbered")
    places = tree_ensemble(
        graph,
        matrix(graph, x),
        owner=owner,
        number=number,
        feature=np.where(leaf, 0, joined["feature_idx"]).astype(int),
        threshold=np.where(leaf, 0.0, joined["num_threshold"]),
        left=np.where(leaf, 0, joined["left"]).astype(int),
        right=np.where(leaf, 0, joined["right"]).astype(int),
        missing=joined["missing_go_to_left"].astype(bool) & ~leaf,
        leaf=leaf,
    )
    width = model.n_trees_per_iteration_
    steps = graph.constant(joined["value"].astype(np.float64)).take(places).reshape(0, -1, width)
    start = graph.full(x if isinstance(x, Tensor) else x.parts[0], np.ravel(model._baseline_prediction)).reshape(0, 1, width)
    return graph.concat([start, steps]).running_sum(1)


@converts(PREDICT, "HistGradientBoostingRegressor")
def _histogram_prediction(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    raw = _histogram(graph, model, x).flat()
    return raw.exp() if model.loss in ("poisson", "gamma") else raw


@converts(PROBABILITIES, "HistGradientBoostingClassifier")
def _histogram_probabilities(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    raw = _histogram(graph, model, x)
    if model.n_trees_per_iteration_ > 1:
        return raw.softmax()
    second = raw.sigmoid()
    return graph.concat([1.0 - second, second])


@converts(CLASS, "HistGradientBoostingClassifier")
def _histogram_class(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    raw = _histogram(graph, model, x)
    return raw.argmax(1) if model.n_trees_per_iteration_ > 1 else (raw.flat() > 0.0).cast("int64")
