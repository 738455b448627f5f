"""What a simple model makes of the same data: a trained network that is no better has not learned.

Each is trained in seconds beside the network, on the same training part, and measured on the same test part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from onnxferry.train.data.images import ImageSet, ImageSplits
from onnxferry.train.data.text_tokens import tokens
from onnxferry.train.families.bag import fit_bag
from onnxferry.train.preprocessing import center_square

SIDE = 20
"""Side of the small grey images, pixels."""


MOST = 5000
"""Training images that are used, at most."""


FEW = 10
"""Training images of a class below which a warning is given."""


def few_a_class(splits: ImageSplits) -> list[str]:
    """A warning for classes with fewer than FEW images to train on."""
    counts = np.bincount(splits.train.labels, minlength=len(splits.classes))
    few = [f"{splits.classes[i]} {counts[i]}" for i in np.flatnonzero(counts < FEW)]
    if not few:
        return []
    named = ", ".join(few[:5]) + (", …" if len(few) > 5 else "")
    return [f"classes with fewer than {FEW} images to train on ({named}) are learned poorly, and their scores are chance: add images"]


def majority(train: np.ndarray, test: np.ndarray) -> float:
    """Accuracy of always answering the most frequent class of ``train`` int64 (n,), on ``test`` int64 (m,)."""
    return float((test == np.bincount(train).argmax()).mean()) if len(test) else 0.0


def logistic_regression(train: ImageSet, test: ImageSet, classes: int) -> float:
    """Accuracy on ``test`` of multinomial logistic regression on 20 × 20 grey pixels, with scikit-learn's default penalty."""
    chosen = np.unique(np.linspace(0, len(train) - 1, min(len(train), MOST)).astype(np.int64))
    train = train.take(chosen)
    pixels = _small_grey(train.images)
    mean, std = pixels.mean(dim=0), pixels.std(dim=0).clamp(min=1e-3)
    x, labels = (pixels - mean) / std, torch.from_numpy(train.labels)
    weights = torch.zeros(x.shape[1] + 1, classes, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([weights], max_iter=60, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(x @ weights[1:] + weights[0], labels) + (weights[1:] ** 2).sum() / (2 * len(labels))
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        solver.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        answers = ((_small_grey(test.images) - mean) / std @ weights[1:] + weights[0]).argmax(dim=1)
    return float((answers.numpy() == test.labels).mean()) if len(test) else 0.0


def _small_grey(images: np.ndarray) -> torch.Tensor:
    """uint8 (n, height, width, channels) → float64 (n, 400)."""
    parts = [torch.zeros(0, SIDE * SIDE, dtype=torch.float64)]
    for start in range(0, len(images), 500):
        grey = torch.from_numpy(images[start : start + 500].mean(axis=3, dtype=np.float32))[:, None]
        parts.append(center_square(grey, SIDE).flatten(1).double() / 255)
    return torch.cat(parts)


BAG_BUCKETS = 2**18
"""Columns that tokens and pairs of tokens share, by their hashes."""


BAG_STRENGTH = 16.0
"""scikit-learn's C."""


def bag_of_words(train: Sequence[bytes], labels: np.ndarray, test: Sequence[bytes], expected: np.ndarray, classes: int) -> float:
    """Accuracy on ``test`` of multinomial logistic regression on a bag of words: tokens and pairs of tokens, tf-idf.

    ``labels`` int64 (len(train),), ``expected`` int64 (len(test),).
    """
    if not len(test):
        return 0.0
    bags, others = ([tokens(text).hashes[:, [0, 2]] for text in texts] for texts in (train, test))
    bag = fit_bag(bags, labels, classes, buckets=BAG_BUCKETS, strength=BAG_STRENGTH)
    return float((bag.logits(others).argmax(dim=1).numpy() == expected).mean())


def letter_counts(train: np.ndarray, test: np.ndarray) -> dict[str, float]:
    """Bits a byte on ``test`` uint8 (m,) of models that count the bytes, and the pairs of bytes, of ``train`` uint8 (n,).

    ``unigram_bits`` and ``bigram_bits``. Add-one smoothing; a pair is smoothed with the single bytes (Jelinek and Mercer 1980).
    """
    single = (np.bincount(train, minlength=256) + 1.0) / (len(train) + 256)
    pairs = np.zeros((256, 256))
    np.add.at(pairs, (train[:-1], train[1:]), 1)
    after = (pairs + 5 * single) / (pairs.sum(axis=1, keepdims=True) + 5)
    return {
        "unigram_bits": float(-np.log2(single[test]).mean()) if len(test) else math.log2(256),
        "bigram_bits": float(-np.log2(after[test[:-1], test[1:]]).mean()) if len(test) > 1 else math.log2(256),
    }
