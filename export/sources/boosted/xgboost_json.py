"""XGBoost's own model, as ``Booster.save_raw("json")`` and ``save_model("model.json")`` write it.

Decisions as in XGBoost's CPU predictor: float32, ``value < threshold`` goes left, NaN where the split says. Of categories a set goes
right; those without a number from 0 on go left. Everything is added in float32. https://xgboost.readthedocs.io/en/stable/tutorials/saving_model.html
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxferry.export.sources.boosted.forest import CategorySplit, Forest, check_forest
from onnxferry.runtime.errors import ExportError

DAMAGED = "the XGBoost model cannot be read"

LOGISTIC = ("binary:logistic", "reg:logistic")
EXPONENTIAL = ("count:poisson", "reg:gamma", "reg:tweedie", "survival:cox", "survival:aft")
UNCHANGED = (
    "reg:squarederror", "reg:linear", "reg:squaredlogerror", "reg:pseudohubererror", "reg:absoluteerror", "reg:quantileerror",
    "reg:expectileerror", "rank:pairwise", "rank:ndcg", "rank:map", "multi:softmax", "multi:softprob", "binary:hinge", "binary:logitraw",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class XgboostModel:
    features: int
    names: tuple[str, ...]
    objective: str
    width: int  # numbers of an answer: classes or targets
    # None: linear. The leaves of each group's first tree hold the base score, to which XGBoost adds them first.
    forest: Forest | None
    groups: tuple[int, ...]  # of each tree, the class or target; all trees together where leaves have several numbers
    linear: np.ndarray | None  # (features + 1, width): weights and, last, the bias
    categories: tuple[tuple[Any, ...] | None, ...]  # by feature: the values that codes stand for, in a model that was fitted on a frame
    categorical: tuple[int, ...]


def parsed(raw: str | bytes, rounds: tuple[int, int] | None = None) -> XgboostModel:
    """``rounds``: the first and the one after the last that are used; None for all. Raises ExportError for what is no model, or damaged."""
    try:
        learner = json.loads(raw)["learner"]
        return _model(learner, rounds)
    except (KeyError, ValueError, IndexError, TypeError, AttributeError) as error:
        raise ExportError(f"{DAMAGED}: it is damaged, or of another version ({type(error).__name__}: {error})") from error


def _model(learner: dict[str, Any], rounds: tuple[int, int] | None) -> XgboostModel:
    parameters = learner["learner_model_param"]
    features = int(parameters["num_feature"])
    width = max(int(parameters["num_class"]), int(parameters.get("num_target", 1)), 1)
    objective = str(learner["objective"]["name"])
    booster = learner["gradient_booster"]
    name = booster["name"]
    names = tuple(learner.get("feature_names") or ())
    kinds = tuple(learner.get("feature_types") or ())
    start = _start(parameters["base_score"], objective, width)
    categorical = tuple(place for place, kind in enumerate(kinds) if kind == "c")
    if name == "gblinear":
        weights = np.asarray(booster["model"]["weights"], np.float32).reshape(features + 1, width)
        return XgboostModel(features, names, objective, width, None, (), weights, (None,) * features, categorical)
    model = booster["gbtree"]["model"] if name == "dart" else booster["model"]
    trees, groups = model["trees"], [int(group) for group in model["tree_info"]]
    dropped = [np.float32(each) for each in booster["weight_drop"]] if name == "dart" else [np.float32(1)] * len(trees)
    if rounds is not None:
        bounds = model.get("iteration_indptr") or _bounds(model, width)
        first, last = int(bounds[rounds[0]]), int(bounds[min(rounds[1], len(bounds) - 1)])
        trees, groups, dropped = trees[first:last], groups[first:last], dropped[first:last]
    if not trees:
        raise ExportError("the XGBoost model has no trees: nothing was learned")
    forest = _forest(trees, dropped, features)
    for group in range(width if forest.values.ndim == 1 else 1):
        first = (forest.owner == groups.index(group)) & forest.leaf
        forest.values[first] += start[group] if forest.values.ndim == 1 else start
    check_forest(forest, "the XGBoost model")
    return XgboostModel(features, names, objective, width, forest, tuple(groups), None, _categories(model, features), categorical)


def _bounds(model: dict[str, Any], width: int) -> list[int]:
    each = width * max(int(model["gbtree_model_param"].get("num_parallel_tree", 1)), 1)
    return list(range(0, len(model["trees"]) + 1, each))


def _start(base_score: str, objective: str, width: int) -> np.ndarray:
    """The base score as the sum's start, as the objective's ``ProbToMargin`` turns it."""
    read = json.loads(base_score)
    base = np.asarray(read if isinstance(read, list) else [read], np.float32)
    if objective in LOGISTIC:
        base = -np.log(np.float32(1) / base - np.float32(1))
    elif objective in EXPONENTIAL:
        base = np.log(base)
    return np.broadcast_to(base.astype(np.float32), (width,)).copy()


def _forest(trees: Sequence[dict[str, Any]], dropped: Sequence[np.float32], features: int) -> Forest:
    parts: dict[str, list[np.ndarray]] = {}
    splits: dict[CategorySplit, int] = {}
    for place, (tree, weight) in enumerate(zip(trees, dropped, strict=True)):
        left = np.asarray(tree["left_children"], np.int64)
        right = np.asarray(tree["right_children"], np.int64)
        condition = np.asarray(tree["split_conditions"], np.float32)
        feature = np.asarray(tree["split_indices"], np.int64)
        default = np.asarray(tree["default_left"]).astype(bool)
        leaf = left == -1
        if np.any((feature < 0) | (feature >= features)):
            raise ValueError("a split is on a feature that the model does not have")
        size = int(tree["tree_param"].get("size_leaf_vector", 1))
        if size > 1:
            table = np.asarray(tree["leaf_weights"] if "leaf_weights" in tree else tree["base_weights"], np.float32).reshape(-1, size)
            values = np.zeros((len(left), size), np.float32)
            values[leaf] = table[right[leaf]] if "leaf_weights" in tree else table[leaf]
        else:
            values = np.where(leaf, condition, np.float32(0))
        feature = _with_categories(tree, feature, leaf, default, features, splits)
        own = {
            "owner": np.full(len(left), place),
            "number": np.arange(len(left)),
            "feature": np.where(leaf, 0, feature),
            "threshold": np.where(leaf, np.float32(0), condition),
            "left": np.where(leaf, 0, left),
            "right": np.where(leaf, 0, right),
            "missing_left": default & ~leaf,
            "leaf": leaf,
            "values": (values * weight).astype(np.float32),
        }
        if len({len(each) for each in own.values()}) > 1:
            raise ValueError("a tree has arrays of different lengths")
        for key, array in own.items():
            parts.setdefault(key, []).append(array)
    joined: dict[str, Any] = {key: np.concatenate(arrays) for key, arrays in parts.items()}
    return Forest(features, **joined, below=True, splits=tuple(splits))


def _with_categories(
    tree: dict[str, Any], feature: np.ndarray, leaf: np.ndarray, default: np.ndarray, features: int, splits: dict[CategorySplit, int]
) -> np.ndarray:
    """The features, where a split of categories has a number of its own."""
    found = feature.copy()
    kinds = np.asarray(tree.get("split_type", np.zeros(len(feature))), np.int64)
    members: dict[int, tuple[int, ...]] = {}
    for node, begin, size in zip(
        tree.get("categories_nodes", ()), tree.get("categories_segments", ()), tree.get("categories_sizes", ()), strict=True
    ):
        members[int(node)] = tuple(int(each) for each in tree["categories"][begin : begin + size])
    for node in np.flatnonzero((kinds == 1) & ~leaf):
        split = CategorySplit(
            int(feature[node]), members[int(node)], members_left=False, missing_left=bool(default[node]), toward_zero=False
        )
        found[node] = 2 * features + splits.setdefault(split, len(splits))
        default[node] = False
    return found


def _categories(model: dict[str, Any], features: int) -> tuple[tuple[Any, ...] | None, ...]:
    """What the codes of each feature stand for. XGBoost keeps it from version 3.1 on."""
    kept = (model.get("cats") or {}).get("enc") or []
    if not kept:
        return (None,) * features
    return tuple(_values(each) for each in kept)


def _values(kept: dict[str, Any]) -> tuple[Any, ...] | None:
    values = kept.get("values") or []
    if "offsets" in kept:
        ends = kept["offsets"]
        letters = bytes(number % 256 for number in values)
        return tuple(letters[a:b].decode() for a, b in itertools.pairwise(ends)) or None
    return tuple(values) or None
