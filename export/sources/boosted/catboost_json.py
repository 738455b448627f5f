"""CatBoost's own model, as ``save_model("model.json", format="json")`` writes it.

Decisions as in CatBoost's CPU evaluator: float32, ``value > border`` is a bit of the leaf's number, or goes right; NaN is below or above
all borders, as the feature says. Leaves are float64, added in order, then scaled. Categories are compared by their hashes, one by one
(one-hot); statistics of the targets by category (CTR) are refused, as they hash what only the training data have.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxferry.export.sources.boosted.forest import Forest, check_forest
from onnxferry.runtime.errors import ExportError

DAMAGED = "the CatBoost model cannot be read"

NO_CTR = (
    "the CatBoost model computes statistics of the targets by category (CTR), which need the training data's hashes: train it with "
    "one_hot_max_size=255 and fewer than 255 categories a feature, or encode the categories before it"
)

UNTRAINED_NAN = "AsTrue"


@dataclass(frozen=True)
class Flag:
    """A column of flags: a category of a feature."""

    feature: int  # place among all features
    value: int  # the category's hash, as CatBoost writes it: 32 bits with a sign


@dataclass(frozen=True, eq=False)
class Levels:
    """Trees whose levels have one split each."""

    columns: np.ndarray  # (trees, depth)
    borders: np.ndarray
    starts: np.ndarray  # (trees,): where each one's leaves begin
    leaves: np.ndarray  # of all trees: (leaves, width)


@dataclass(frozen=True, eq=False)
class CatboostModel:
    features: int
    names: tuple[str, ...]
    categorical: tuple[int, ...]
    above: tuple[int, ...]  # features whose missing values are above all borders
    flags: tuple[Flag, ...]  # columns after the features
    width: int
    scale: float
    bias: np.ndarray  # (width,)
    hashes: Mapping[int, str]  # the categories that the given rows have, by hash
    levels: Levels | None
    forest: Forest | None  # if there are no levels
    thresholds: Mapping[int, np.ndarray]  # by feature


def parsed(raw: str | bytes) -> CatboostModel:
    """Raises ExportError for what has no form in a graph, is no model, or damaged."""
    try:
        return _model(json.loads(raw))
    except (KeyError, ValueError, IndexError, TypeError, AttributeError) as error:
        raise ExportError(f"{DAMAGED}: it is damaged, or of another version ({type(error).__name__}: {error})") from error


def _model(model: dict[str, Any]) -> CatboostModel:
    infos = model["features_info"]
    for kind in ("text_features", "embedding_features"):
        if infos.get(kind):
            raise ExportError(f"the CatBoost model has {kind.replace('_', ' ')}, which no graph holds: make numbers of them before it")
    floats = infos.get("float_features") or []
    categories = infos.get("categorical_features") or []
    known = {int(each["flat_feature_index"]): each for each in (*floats, *categories)}
    features = max(known, default=-1) + 1
    float_place = {int(each["feature_index"]): int(each["flat_feature_index"]) for each in floats}
    category_place = {int(each["feature_index"]): int(each["flat_feature_index"]) for each in categories}
    scale, bias = model.get("scale_and_bias", [1, [0]])
    bias = np.atleast_1d(np.asarray(bias, np.float64))
    reader = _Splits(features, float_place, category_place)
    levels, forest = None, None
    if "oblivious_trees" in model:
        levels = _oblivious(model["oblivious_trees"], reader)
        width = levels.leaves.shape[1]
    else:
        forest, width = _forest(model["trees"], reader)
        check_forest(forest, "the CatBoost model")
    named = {place: str(each.get("feature_name") or each.get("feature_id") or place) for place, each in known.items()}
    return CatboostModel(
        features,
        tuple(named.get(place, str(place)) for place in range(features)),
        tuple(sorted(category_place.values())),
        tuple(int(each["flat_feature_index"]) for each in floats if each.get("nan_value_treatment") == UNTRAINED_NAN),
        tuple(reader.flags),
        width,
        float(scale),
        np.broadcast_to(bias, (width,)).copy(),
        {_signed(int(each["hash"])): str(each["value"]) for each in infos.get("cat_features_hash") or []},
        levels,
        forest,
        {place: np.unique(np.asarray(values)) for place, values in reader.thresholds.items()},
    )


def _signed(value: int) -> int:
    return value - 2**32 if value >= 2**31 else value


class _Splits:
    """Splits as a column and a border; each different category gets a column of its own, of flags."""

    def __init__(self, features: int, float_place: Mapping[int, int], category_place: Mapping[int, int]) -> None:
        self.features = features
        self.float_place = float_place
        self.category_place = category_place
        self.flags: dict[Flag, int] = {}
        self.thresholds: dict[int, list[float]] = {}

    def read(self, split: dict[str, Any]) -> tuple[int, float]:
        kind = split["split_type"]
        if kind == "FloatFeature":
            place, border = self.float_place[int(split["float_feature_index"])], float(split["border"])
            self.thresholds.setdefault(place, []).append(border)
            return place, border
        if kind == "OneHotFeature":
            flag = Flag(self.category_place[int(split["cat_feature_index"])], _signed(int(split["value"])))
            return self.features + self.flags.setdefault(flag, len(self.flags)), 0.5
        if kind == "OnlineCtr":
            raise ExportError(NO_CTR)
        raise ExportError(f"the CatBoost model has splits of the kind {kind}, which have no form in a graph")


def _oblivious(trees: Sequence[dict[str, Any]], reader: _Splits) -> Levels:
    if not trees:
        raise ExportError("the CatBoost model has no trees: nothing was learned")
    read = [[reader.read(split) for split in tree.get("splits") or ()] for tree in trees]
    depth = max(1, *(len(each) for each in read))
    columns, borders = np.zeros((len(trees), depth), np.int64), np.full((len(trees), depth), np.inf, np.float32)  # nothing is above that
    sizes, leaves = [], []
    for number, (tree, splits) in enumerate(zip(trees, read, strict=True)):
        for place, (column, border) in enumerate(splits):
            columns[number, place], borders[number, place] = column, border
        values = np.asarray(tree["leaf_values"], np.float64).reshape(2 ** len(splits), -1)
        sizes.append(len(values))
        leaves.append(values)
    return Levels(columns, borders, np.concatenate([[0], np.cumsum(sizes)[:-1]]), np.concatenate(leaves))


def _forest(trees: Sequence[dict[str, Any]], reader: _Splits) -> tuple[Forest, int]:
    """Trees of any shape; their leaves have one number, or one for each class."""
    nodes: list[tuple[int, int, int, float, int, int, bool, np.ndarray]] = []
    for owner, tree in enumerate(trees):
        base = len(nodes)
        todo = [(tree, -1, "")]
        own: list[list[Any]] = []
        while todo:
            node, parent, side = todo.pop()
            number = len(own)
            if parent >= 0:
                own[parent][4 if side == "left" else 5] = number
            if "split" in node:
                column, border = reader.read(node["split"])
                own.append([owner, number, column, border, 0, 0, False, np.zeros(1)])
                todo += [(node["right"], number, "right"), (node["left"], number, "left")]
            else:
                own.append([owner, number, 0, 0.0, 0, 0, True, np.atleast_1d(np.asarray(node["value"], np.float64))])
        nodes.extend(tuple(each) for each in own)
        if len(nodes) == base:
            raise ValueError("a tree has no nodes")
    width = max(len(each[7]) for each in nodes)
    values = np.zeros((len(nodes), width))
    for place, each in enumerate(nodes):
        if each[6]:
            values[place] = each[7]
    leaf = np.array([each[6] for each in nodes])
    forest = Forest(
        reader.features + len(reader.flags),
        owner=np.array([each[0] for each in nodes]),
        number=np.array([each[1] for each in nodes]),
        feature=np.array([each[2] for each in nodes], np.int64),
        threshold=np.array([each[3] for each in nodes], np.float32),
        left=np.array([each[4] for each in nodes]),
        right=np.array([each[5] for each in nodes]),
        missing_left=~leaf,  # below all borders; those above them are infinite when they get here
        leaf=leaf,
        values=values,
        below=False,
    )
    return forest, width
