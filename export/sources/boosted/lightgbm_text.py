"""LightGBM's own model text, as ``Booster.model_to_string`` and ``save_model`` write it.

Decisions as in LightGBM 4's ``include/LightGBM/tree.h``: float64, ``value <= threshold`` goes left; by split, missing values are NaN,
zeros (up to 1e-35) or nothing, in which case NaN counts as 0. Categories are whole numbers, and a set of them goes left.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxferry.export.sources.boosted.forest import CategorySplit, Forest, check_forest
from onnxferry.runtime.errors import ExportError, InputError

ZERO = float(np.float32(1e-35))
CATEGORICAL, DEFAULT_LEFT, MISSING_ZERO, MISSING_NAN = 1, 2, 1, 2
DAMAGED = "the LightGBM model cannot be read"


@dataclass(frozen=True, eq=False)
class LinearLeaves:
    """Leaves that are linear in some features (``linear_tree``): by node, 0 for features that are not used."""

    constant: np.ndarray
    coefficients: np.ndarray  # (nodes, features)
    used: np.ndarray


@dataclass(frozen=True, eq=False)
class LightGbmModel:
    forest: Forest
    objective: str  # "" where it has none, of a function of the user's own
    parameters: dict[str, str]  # of the objective
    flags: frozenset[str]
    width: int  # trees in a round
    average: bool  # of the rounds, as random forests do
    names: tuple[str, ...]
    categorical: tuple[int, ...]  # the features that hold categories
    linear: LinearLeaves | None = None


def parsed(text: str) -> LightGbmModel:
    """Raises ExportError for text that is no model of LightGBM, or damaged."""
    if not text.lstrip().startswith("tree"):
        raise InputError("the text is no model of LightGBM, which begins with 'tree'")
    head, *blocks = text.partition("end of trees")[0].split("\nTree=")
    header = dict(_lines(head))
    if "end of trees" not in text or "max_feature_idx" not in header:
        raise ExportError(f"{DAMAGED}: it is cut off, or of another version")
    try:
        return _model(header, [dict(_lines(block)) for block in blocks], "average_output" in head.split("\n"), text)
    except (KeyError, ValueError, IndexError) as error:
        raise ExportError(f"{DAMAGED}: it is damaged, or of another version ({type(error).__name__}: {error})") from error


def _lines(block: str) -> Iterator[tuple[str, str]]:
    for line in block.split("\n"):
        key, equals, value = line.partition("=")
        if equals:
            yield key.strip(), value.strip()


def _model(header: dict[str, str], trees: list[dict[str, str]], average: bool, text: str) -> LightGbmModel:
    features = int(header["max_feature_idx"]) + 1
    if not trees:
        raise ExportError("the LightGBM model has no trees: nothing was learned")
    joined = _Joined(features)
    for tree in trees:
        joined.add(tree)
    forest = joined.forest()
    check_forest(forest, "the LightGBM model")
    words = header.get("objective", "").split()
    infos = header.get("feature_infos", "").split()
    return LightGbmModel(
        forest,
        objective=words[0] if words else "",
        parameters=dict(word.split(":", 1) for word in words[1:] if ":" in word),
        flags=frozenset(word for word in words[1:] if ":" not in word),
        width=int(header["num_tree_per_iteration"]),
        average=average,
        names=tuple(header.get("feature_names", "").split(" ")),
        categorical=_categorical(text, infos),
        linear=joined.linear(),
    )


def _categorical(text: str, infos: list[str]) -> tuple[int, ...]:
    """By the parameters, which are the last part of the text, or by the features' ranges: ``1:0:2`` and not ``[0:2]``."""
    for line in text.split("\nparameters:")[-1].split("\n"):
        if line.startswith("[categorical_feature:"):
            listed = line.partition(":")[2].strip(" ]")
            if listed and all(part.isdecimal() for part in listed.split(",")):
                return tuple(int(part) for part in listed.split(","))
    return tuple(place for place, info in enumerate(infos) if info != "none" and not info.startswith("["))


def _numbers(value: str, dtype: type) -> np.ndarray:
    return np.array([dtype(part) for part in value.split()])


class _Joined:
    """Trees, laid end to end: first the inner nodes of a tree, then its leaves."""

    def __init__(self, features: int) -> None:
        self.features = features
        self.parts: dict[str, list[np.ndarray]] = {}
        self.splits: dict[CategorySplit, int] = {}
        self.linears: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.is_linear = False
        self.trees = 0

    def add(self, tree: dict[str, str]) -> None:
        leaves = int(tree["num_leaves"])
        inner = leaves - 1
        values = _numbers(tree["leaf_value"], float)
        if len(values) != leaves:
            raise ValueError(f"a tree of {leaves} leaves has {len(values)} values")
        pad, nothing = np.zeros(leaves, np.int64), np.zeros(inner)
        own: dict[str, np.ndarray] = {"owner": np.full(inner + leaves, self.trees), "number": np.arange(inner + leaves)}
        own["values"] = np.concatenate([nothing, values])
        own["leaf"] = np.arange(inner + leaves) >= inner
        if inner:
            columns = {key: _numbers(tree[key], int) for key in ("split_feature", "decision_type", "left_child", "right_child")}
            columns["threshold"] = _numbers(tree["threshold"], float)
            if any(len(each) != inner for each in columns.values()):
                raise ValueError(f"a tree of {leaves} leaves has other than {inner} splits")
            feature, threshold, missing = self._decisions(columns, tree)
            for key, side in (("left", "left_child"), ("right", "right_child")):
                child = columns[side]
                own[key] = np.concatenate([np.where(child >= 0, child, inner + ~child), pad])
        else:
            feature, threshold, missing = np.zeros(0, np.int64), np.zeros(0), np.zeros(0, bool)
            own["left"] = own["right"] = pad
        own["feature"] = np.concatenate([feature, pad])
        own["threshold"] = np.concatenate([threshold, np.zeros(leaves)])
        own["missing_left"] = np.concatenate([missing, np.zeros(leaves, bool)])
        for key, array in own.items():
            self.parts.setdefault(key, []).append(array)
        self._add_linear(tree, inner, values)
        self.trees += 1

    def _decisions(self, columns: dict[str, np.ndarray], tree: dict[str, str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        feature, threshold, kind = columns["split_feature"].astype(np.int64), columns["threshold"], columns["decision_type"]
        if np.any((feature < 0) | (feature >= self.features)):
            raise ValueError("a split is on a feature that the model does not have")
        # LightGBM takes numbers up to ZERO in size for 0 before it compares.
        tiny = (threshold >= -ZERO) & (threshold < ZERO)
        threshold = np.where(tiny, np.where(threshold < 0, np.nextafter(-ZERO, -np.inf), ZERO), threshold)
        default, missing_type = (kind & DEFAULT_LEFT) > 0, (kind >> 2) & 3
        zero_left = threshold >= 0.0
        # A zero goes to the node's default side; where that is the side it goes to anyway, zeros need no column of their own.
        special = (missing_type == MISSING_ZERO) & (default != zero_left)
        missing = np.where(missing_type == 0, zero_left, default)
        chosen = np.where(special, feature + self.features, feature)
        for node in np.flatnonzero(kind & CATEGORICAL):
            chosen[node] = 2 * self.features + self._split(int(feature[node]), int(columns["threshold"][node]), tree)
            missing[node] = False
        return chosen, threshold, missing

    def _split(self, feature: int, number: int, tree: dict[str, str]) -> int:
        bounds = _numbers(tree["cat_boundaries"], int)
        words = _numbers(tree["cat_threshold"], int)[bounds[number] : bounds[number + 1]]
        members = tuple(32 * place + bit for place, word in enumerate(words.tolist()) for bit in range(32) if word >> bit & 1)
        split = CategorySplit(feature, members, members_left=True, missing_left=False, toward_zero=True)
        return self.splits.setdefault(split, len(self.splits))

    def _add_linear(self, tree: dict[str, str], inner: int, values: np.ndarray) -> None:
        constant, coefficients = values.copy(), np.zeros((len(values), self.features))
        used = np.zeros(coefficients.shape, bool)
        if tree.get("is_linear", "0") == "1":
            self.is_linear = True
            constant = _numbers(tree["leaf_const"], float)
            counts = _numbers(tree["num_features"], int)
            places, weights = _numbers(tree.get("leaf_features", ""), int), _numbers(tree.get("leaf_coeff", ""), float)
            rows = np.repeat(np.arange(len(values)), counts)
            if len(rows):
                coefficients[rows, places] = weights
                used[rows, places] = True
        self.linears.append(
            (
                np.concatenate([np.zeros(inner), constant]),
                np.concatenate([np.zeros((inner, self.features)), coefficients]),
                np.concatenate([np.zeros((inner, self.features), bool), used]),
            )
        )

    def forest(self) -> Forest:
        joined: dict[str, Any] = {key: np.concatenate(arrays) for key, arrays in self.parts.items()}
        return Forest(self.features, **joined, below=False, splits=tuple(self.splits), zeros=ZERO)

    def linear(self) -> LinearLeaves | None:
        if not self.is_linear:
            return None
        constant, coefficients, used = (np.concatenate(each) for each in zip(*self.linears, strict=True))
        return LinearLeaves(constant, coefficients, used)
