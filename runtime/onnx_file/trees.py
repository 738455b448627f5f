"""How deep the trees of an ensemble are: ONNX Runtime walks them by recursion as it opens a file, and too deep ones end the process.

Source: https://github.com/onnx/onnx/blob/main/docs/Operators-ml.md, TreeEnsemble, TreeEnsembleClassifier, TreeEnsembleRegressor.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Ints = Callable[[str], np.ndarray]
"""The whole numbers of an attribute, by its name."""


def deeper_than(limit: int, operator: str, ints: Ints) -> bool:
    """Whether a tree of the node has a path of more than ``limit`` nodes, or one without an end."""
    found = _of_ensemble(ints) if operator == "TreeEnsemble" else _of_older(ints, limit)
    if found is None:
        return False
    roots, children = found
    level = np.unique(roots)
    for _ in range(limit):
        after = children[level].ravel()
        level = np.unique(after[after >= 0])
        if not level.size:
            return False
    return True


def _of_ensemble(ints: Ints) -> tuple[np.ndarray, np.ndarray] | None:
    """Roots, and the two children of each node as positions, -1 for a leaf. None where lists are of no one length."""
    roots = ints("tree_roots")
    sides = []
    for side in ("true", "false"):
        to, leaf = ints(f"nodes_{side}nodeids"), ints(f"nodes_{side}leafs")
        if len(to) != len(leaf):
            return None
        sides.append(np.where((leaf == 0) & (to >= 0) & (to < len(to)), to, -1))
    if len(sides[0]) != len(sides[1]):
        return None
    return roots[(roots >= 0) & (roots < len(sides[0]))], np.stack(sides, axis=1)


def _of_older(ints: Ints, limit: int) -> tuple[np.ndarray, np.ndarray] | None:
    """As :func:`_of_ensemble`, of nodes that are named by two numbers. None also where no tree has nodes enough."""
    tree, node = ints("nodes_treeids"), ints("nodes_nodeids")
    if len(tree) != len(node) or not len(tree) or int(np.unique(tree, return_counts=True)[1].max()) <= limit:
        return None
    listed = np.unique(tree, return_index=True)[1]  # the first node of each tree in the file
    order = np.lexsort((node, tree))
    tree, node = tree[order], node[order]
    _, first, which = np.unique(tree, return_index=True, return_inverse=True)
    stop = np.append(first[1:], len(tree))
    sides = []
    for side in ("true", "false"):
        to = ints(f"nodes_{side}nodeids")
        if len(to) != len(tree):
            return None
        sides.append(_positions(to[order], node, first[which], stop[which]))
    children = np.stack(sides, axis=1)
    # A leaf's children are 0, which is most often the root.
    leaf = (sides[0] == sides[1]) & (sides[0] == first[which])
    children[leaf] = -1
    is_child = np.zeros(len(tree), bool)
    is_child[children[children >= 0]] = True
    return np.concatenate([first, np.argsort(order)[listed], np.flatnonzero(~is_child)]), children


def _positions(wanted: np.ndarray, nodes: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Where each wanted number stands in its own sorted stretch of ``nodes``; -1 where it does not. By bisection, all at once."""
    low, end = low.copy(), high
    high = high.copy()
    while (low < high).any():
        middle = (low + high) // 2
        smaller = (low < high) & (nodes[np.minimum(middle, len(nodes) - 1)] < wanted)
        low, high = np.where(smaller, middle + 1, low), np.where(smaller | (low >= high), high, middle)
    found = low < end
    found &= nodes[np.minimum(low, len(nodes) - 1)] == wanted
    return np.where(found, low, -1)
