"""Accuracy, calibration and confusions of a classifier, counted one answer at a time in constant memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BINS = 15
"""Bins of equal width for the calibration error, as many as Guo et al. use."""


_Z95 = 1.959963984540054  # the normal distribution's 97.5 % quantile


@dataclass(frozen=True)
class ClassScore:
    """One class. A ratio whose denominator is 0 (no image or no answer of this class) is None."""

    label: str
    count: int  # images of this class
    correct: int
    recall: float | None  # share of its images that were recognised
    precision: float | None  # share of the answers of this class that were right
    f1: float | None  # harmonic mean of the two


@dataclass(frozen=True)
class Confusion:
    """One kind of mistake."""

    true: str
    predicted: str
    count: int


class Scores:
    """Counts of right and wrong answers, and their probabilities.

    ``confusion``: int64 (classes, classes), a row for each true class, a column for each predicted one.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = tuple(labels)
        self.confusion = np.zeros((len(self.labels), len(self.labels)), np.int64)
        self.bin_counts = np.zeros(BINS, np.int64)
        self.bin_correct = np.zeros(BINS, np.int64)
        self.bin_probability = np.zeros(BINS, np.float64)  # sums

    def add(self, true: int, predicted: int, probability: float) -> None:
        """One answer: indices of the true and the predicted class, and the probability given to the latter."""
        self.confusion[true, predicted] += 1
        place = min(max(math.ceil(probability * BINS) - 1, 0), BINS - 1)  # bin m holds ((m - 1) / BINS, m / BINS]
        self.bin_counts[place] += 1
        self.bin_correct[place] += true == predicted
        self.bin_probability[place] += probability

    @property
    def count(self) -> int:
        return int(self.confusion.sum())

    @property
    def correct(self) -> int:
        return int(self.confusion.trace())

    @property
    def accuracy(self) -> float:
        """Share of right answers; NaN where there are no answers."""
        return self.correct / self.count if self.count else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the accuracy: Wilson's score interval, which also holds near 0 and 1.

        E. B. Wilson, Probable Inference, the Law of Succession, and Statistical Inference, JASA 22 (1927).
        """
        return wilson_interval(self.correct, self.count)

    @property
    def mean_probability(self) -> float:
        """The mean probability of the answers; with perfect calibration, the accuracy."""
        return float(self.bin_probability.sum() / self.count) if self.count else math.nan

    @property
    def calibration_error(self) -> float:
        """Expected calibration error: |accuracy - mean probability| in each bin, weighted by the answers in it.

        C. Guo et al., On Calibration of Modern Neural Networks, ICML 2017, https://arxiv.org/abs/1706.04599, equation 3.
        """
        return float(np.abs(self.bin_correct - self.bin_probability).sum() / self.count) if self.count else math.nan

    @property
    def classes(self) -> tuple[ClassScore, ...]:
        """One score for each class, in the order of the labels."""
        correct = self.confusion.diagonal()
        scores = []
        for label, right, count, answers in zip(self.labels, correct, self.confusion.sum(axis=1), self.confusion.sum(axis=0), strict=True):
            recall = _ratio(right, count)
            precision = _ratio(right, answers)
            scores.append(ClassScore(label, int(count), int(right), recall, precision, _ratio(2 * right, count + answers)))
        return tuple(scores)

    def confusions(self, most: int) -> tuple[Confusion, ...]:
        """The most frequent mistakes, most frequent first."""
        wrong = self.confusion.copy()
        np.fill_diagonal(wrong, 0)
        order = np.argsort(-wrong, axis=None, kind="stable")[:most]
        pairs = [divmod(int(flat), len(self.labels)) for flat in order]
        return tuple(Confusion(self.labels[t], self.labels[p], int(wrong[t, p])) for t, p in pairs if wrong[t, p])


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """95 % score interval of a share, low and high; (0, 1) for no trials."""
    if trials == 0:
        return 0.0, 1.0
    share, z2 = successes / trials, _Z95**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z95 / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def _ratio(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None
