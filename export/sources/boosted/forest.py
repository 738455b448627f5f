"""Boosted trees as a graph: which leaf a row falls into in every tree, and the leaves' values from a table.

    forest = Forest(...)                     # read from a model's own file
    values = leaf_values(graph, forest, x)   # (rows, trees), or (rows, trees, n) for leaves of several numbers

The tree ensemble of the graph gives leaf numbers alone, which are exact, and thresholds are compared in the dtype in which the library
compares them. The values are then added in the library's order and dtype, so that a threshold, a tie and its neighbors are answered as
the library does. Categories are looked up in tables: one column of flags for each different split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxferry.export.sources.sklearn.converters.tensors import GraphBuilder, Tensor
from onnxferry.export.sources.sklearn.converters.trees import MAX_LEAVES, tree_ensemble
from onnxferry.runtime.errors import ExportError

MAX_CATEGORY = 2**20
"""Categories are rows of a table; a larger code is refused."""


@dataclass(frozen=True)
class CategorySplit:
    """Which categories of a feature go left."""

    feature: int
    members: tuple[int, ...]
    members_left: bool  # they go left and all others right, unknown ones too; or the other way round
    missing_left: bool
    toward_zero: bool  # a code between -1 and 0 is category 0, else it is unknown

    def left(self, count: int) -> np.ndarray:
        """Flags for the codes 0 to count - 1, for an unknown one and for a missing one."""
        flags = np.full(count + 2, not self.members_left)
        flags[list(self.members)] = self.members_left
        flags[count + 1] = self.missing_left
        return flags


@dataclass(frozen=True, eq=False)
class Forest:
    """Trees laid end to end; all arrays are by node. The root of a tree is its number 0."""

    features: int  # columns of the input
    owner: np.ndarray  # the node's tree
    number: np.ndarray  # in its tree
    feature: (
        np.ndarray
    )  # a column of the input; where zeros are missing, plus ``features``; from 2 * ``features`` on, a split of categories
    threshold: np.ndarray  # float32 or float64: in which it is compared
    left: np.ndarray  # numbers in the tree; 0 at leaves
    right: np.ndarray
    missing_left: np.ndarray
    leaf: np.ndarray
    values: np.ndarray  # (nodes,) or (nodes, n)
    below: bool  # goes left if it is below the threshold; else also if it is equal
    splits: tuple[CategorySplit, ...] = ()
    zeros: float = 0.0  # for columns where zeros are missing: up to this size

    @property
    def trees(self) -> int:
        return int(self.owner[-1]) + 1 if len(self.owner) else 0

    def thresholds(self) -> dict[int, np.ndarray]:
        """By feature: the numbers that it is compared with, and for categories their codes."""
        found: dict[int, list[float]] = {}
        plain = ~self.leaf & (self.feature < 2 * self.features)
        for place, value in zip(self.feature[plain] % self.features, self.threshold[plain], strict=True):
            found.setdefault(int(place), []).append(float(value))
        for split in self.splits:
            found.setdefault(split.feature, []).extend(float(code) for code in split.members)
        return {place: np.unique(np.asarray(values)) for place, values in found.items()}


def check_forest(forest: Forest, what: str) -> None:
    """Raises ExportError for trees that do not end, or that point outside: files may be damaged."""
    starts = np.flatnonzero(forest.number == 0)
    sizes = np.diff([*starts, len(forest.number)])
    if len(starts) != forest.trees or not np.array_equal(forest.number, np.concatenate([np.arange(n) for n in sizes] or [np.zeros(0)])):
        raise ExportError(f"{what} has trees whose nodes are not in order: the file is damaged")
    if len(forest.owner) >= MAX_LEAVES:
        raise ExportError(f"{what} has {len(forest.owner)} nodes; at most {MAX_LEAVES} can be numbered: fewer or smaller trees")
    inner = ~forest.leaf
    limit = np.repeat(sizes, sizes)
    for child in (forest.left, forest.right):
        if np.any((child[inner] <= 0) | (child[inner] >= limit[inner])):
            raise ExportError(f"{what} has a node without children: the file is damaged")
    base = np.repeat(starts, sizes)
    parents = np.zeros(len(forest.owner), np.int64)
    np.add.at(parents, (base + forest.left)[inner], 1)
    np.add.at(parents, (base + forest.right)[inner], 1)
    if np.any(parents != (forest.number != 0)):
        raise ExportError(f"{what} has a node with two parents or none: the file is damaged")
    if np.any((forest.feature < 0) | (forest.feature >= 2 * forest.features + len(forest.splits))):
        raise ExportError(f"{what} has a split on a feature that it does not have: the file is damaged")


def leaf_places(graph: GraphBuilder, forest: Forest, x: Tensor) -> Tensor:
    """int64 (rows, trees): the leaf of each tree, as a place among all nodes. ``x``: (rows, features), reals."""
    dtype = forest.threshold.dtype.name
    x = x.cast(dtype)
    parts, feature = [x], forest.feature.copy()
    width = forest.features
    zero_columns = (feature >= forest.features) & (feature < 2 * forest.features)
    of_categories = feature >= 2 * forest.features
    if zero_columns.any():
        size = np.asarray(forest.zeros, dtype)
        parts.append(graph.where(x.abs() <= size, graph.constant(np.nan, dtype), x))
        width *= 2
    place: dict[int, int] = {}
    for owner in sorted({split.feature for split in forest.splits}):
        own = [number for number, split in enumerate(forest.splits) if split.feature == owner]
        parts.append(_goes_right(graph, x.columns(owner), [forest.splits[number] for number in own]).cast(dtype))
        for number in own:
            place[number] = width
            width += 1
    feature[of_categories] = [place[int(number)] for number in feature[of_categories] - 2 * forest.features]
    return tree_ensemble(
        graph,
        graph.concat(parts),
        owner=forest.owner,
        number=forest.number,
        feature=np.where(forest.leaf, 0, feature),
        threshold=np.where(forest.leaf, 0, np.where(of_categories, 0.5, forest.threshold)).astype(dtype),
        left=np.where(forest.leaf, 0, forest.left),
        right=np.where(forest.leaf, 0, forest.right),
        missing=forest.missing_left & ~forest.leaf,
        leaf=forest.leaf,
        below=forest.below,
    )


def _goes_right(graph: GraphBuilder, codes: Tensor, splits: Sequence[CategorySplit]) -> Tensor:
    """Flags (rows, splits) for one feature's codes, (rows,)."""
    count = 1 + max((max(split.members, default=0) for split in splits), default=0)
    if count > MAX_CATEGORY:
        raise ExportError(f"feature {splits[0].feature} has the category {count - 1}; at most {MAX_CATEGORY}: number them from 0 on")
    table = np.stack([~split.left(count) for split in splits], axis=1)
    unknown, missing = np.asarray(count, codes.dtype), np.asarray(count + 1, codes.dtype)
    negative = codes <= np.asarray(-1, codes.dtype) if splits[0].toward_zero else codes < np.asarray(0, codes.dtype)
    known = graph.where(codes.isnan(), graph.constant(missing, codes.dtype), codes.minimum(unknown))
    whole = graph.where(negative, graph.constant(unknown, codes.dtype), known).cast("int64")
    return graph.constant(table).take(whole)


def leaf_values(graph: GraphBuilder, forest: Forest, x: Tensor) -> Tensor:
    """(rows, trees), or (rows, trees, n), in the dtype of the values."""
    return graph.constant(forest.values, forest.values.dtype.name).take(leaf_places(graph, forest, x))


def sums(graph: GraphBuilder, values: Tensor, groups: Sequence[int], width: int) -> Tensor:
    """(rows, width): the trees' values added one after another, by the group of each tree."""
    order = np.asarray(groups)
    counts = np.bincount(order, minlength=width)
    if len(set(counts.tolist())) > 1:
        raise ExportError(f"the classes have different numbers of trees: {', '.join(map(str, counts))}")
    places = np.argsort(order, kind="stable").reshape(width, -1).T.ravel()  # round after round
    if not np.array_equal(places, np.arange(len(order))):
        values = values.columns(places)
    return values.reshape(0, -1, width).running_sum(1)
