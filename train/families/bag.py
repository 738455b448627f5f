"""Logistic regression on a bag of n-grams: each n-gram of a text counts by how rare it is (tf-idf), and a text's numbers have length 1.

It is convex, so it is fitted at once, with L-BFGS, to its optimum. It is the linear half of a text classifier, and the simple model that
one is compared with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Bag:
    """What was fitted. Logits: the sum of ``weights`` over a text's n-grams, by the root of the sum of ``rarity`` ** 2, plus ``bias``."""

    weights: Tensor  # float32 (classes, buckets), times the n-grams' rarity
    bias: Tensor  # float32 (classes,)
    rarity: Tensor  # float32 (buckets,)

    def logits(self, texts: Sequence[np.ndarray]) -> Tensor:
        """float32 (texts, classes). ``texts``: each the hashes of its n-grams, int64, of any shape."""
        return _sparse(texts, np.ones(len(self.rarity), np.float32), self.rarity.numpy()) @ self.weights.T + self.bias


def fit_bag(
    texts: Sequence[np.ndarray], labels: np.ndarray, classes: int, *, buckets: int, strength: float, class_weights: Tensor | None = None
) -> Bag:
    """The best one for ``texts``, each the hashes of its n-grams, int64, of any shape, with ``labels`` int64 (texts,).

    ``strength``: scikit-learn's C, the inverse of the penalty on squared weights.
    """
    seen = np.zeros(buckets, np.float32)
    for text in texts:
        seen[np.unique(text % buckets)] += 1
    rarity = (np.log((1 + len(texts)) / (1 + seen)) + 1).astype(np.float32)
    x, target = _sparse(texts, rarity, rarity), torch.from_numpy(labels)
    weights = torch.zeros(buckets + 1, classes, requires_grad=True)
    solver = torch.optim.LBFGS([weights], max_iter=60, history_size=8, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(torch.sparse.mm(x, weights[1:]) + weights[0], target, class_weights)
        loss = loss + (weights[1:] ** 2).sum() / (2 * strength * len(labels))
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        solver.step(closure)  # type: ignore[no-untyped-call]
    found = weights.detach()
    return Bag((found[1:].T * torch.from_numpy(rarity)).contiguous(), found[0].clone(), torch.from_numpy(rarity))


def _sparse(texts: Sequence[np.ndarray], values: np.ndarray, rarity: np.ndarray) -> Tensor:
    """float32 (texts, buckets): of each n-gram of a text its value, over the root of the sum of squared ``rarity``."""
    rows, columns, numbers = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
    for row, text in enumerate(texts):
        found = text.ravel() % len(rarity)
        rows.append(np.full(len(found), row))
        columns.append(found)
        numbers.append(values[found] / np.sqrt((rarity[found] ** 2).sum()))
    index = torch.from_numpy(np.stack([np.concatenate(rows), np.concatenate(columns)]))
    shape = (len(texts), len(rarity))
    return torch.sparse_coo_tensor(index, torch.from_numpy(np.concatenate(numbers)), shape, check_invariants=False).coalesce()
