"""What timed turns say of each candidate: how fast it is expected to be, and how sure that is.

Candidates are timed in rounds, one turn each. A round's times share what the machine was doing meanwhile, so the logarithm of a time is
taken as a sum, candidate plus round plus noise, fitted by least squares with weights that bound what an outlier counts (Huber, "Robust
Statistics", 1981, chapter 7): a burst, a drift or a clock that jumps moves a round, or one turn, and not a candidate. What was known
before anything was timed is a normal prior on the candidate's part; the two are weighed by their precision. The candidate that is
*expected* to be fastest is chosen: waiting for proof at 99 % keeps the default where something else is probably much faster.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

Key = TypeVar("Key", bound=Hashable)

_SWEEPS = 8  # of weights and least squares; the changes after a few are far below the noise


_HUBER, _OUTLIER = 1.5, 8.0
"""Standard deviations from which on a turn counts less, and from which on it does not count."""


_LEAST_NOISE = 0.005
"""Standard deviation of a turn, as a share, that is assumed at least: a few equal times are no proof of none."""


_USUAL_NOISE, _USUAL_TURNS = 0.1, 4
"""Standard deviation of a turn before any was seen, and how many turns that counts for: two times that agree may do so by chance."""


@dataclass(frozen=True)
class Prior:
    """What is known of a candidate beforehand: the logarithm of its time beside the default's, and how uncertain that is."""

    mean: float = 0.0
    deviation: float = 0.3


@dataclass(frozen=True)
class Belief:
    """The logarithm of a candidate's time beside the default's, after what was timed, and its standard deviation."""

    mean: float
    deviation: float
    measured: float = 0.0  # what the turns alone say


class Evidence(Generic[Key]):
    """Rounds of turns, and what they say."""

    def __init__(self) -> None:
        self.rounds: list[Mapping[Key, float]] = []
        self.priors: dict[Key, Prior] = {}

    def add(self, times: Mapping[Key, float]) -> None:
        """One round: seconds of a run, by candidate. A round of one candidate compares nothing, and is left out."""
        if len(times) > 1:
            self.rounds.append({key: math.log(seconds) for key, seconds in times.items()})

    def turns(self, key: Key) -> int:
        return sum(key in each for each in self.rounds)

    def beliefs(self, default: Key) -> dict[Key, Belief]:
        """Of every candidate that has a prior."""
        keys = list(dict.fromkeys(key for each in self.rounds for key in each))
        places = {key: place for place, key in enumerate(keys)}
        parts, spread = self._fitted(keys)
        found = {}
        for key, prior in self.priors.items():
            if key == default:
                found[key] = Belief(0.0, 0.0)
            elif key not in places or default not in places:
                found[key] = Belief(prior.mean, prior.deviation, prior.mean)
            else:
                i, j = places[key], places[default]
                variance = float(spread[i, i] + spread[j, j] - 2 * spread[i, j])
                weight = variance / (variance + prior.deviation**2)
                measured = float(parts[i] - parts[j])
                mean = weight * prior.mean + (1 - weight) * measured
                found[key] = Belief(mean, math.sqrt(max(variance * (1 - weight), 0.0)), measured)
        return found

    def _fitted(self, keys: Sequence[Key]) -> tuple[np.ndarray, np.ndarray]:
        """Each candidate's part of the logarithms, and their covariances: float64 (n,) and (n, n), both up to a common constant."""
        if not keys:
            return np.zeros(0), np.zeros((0, 0))
        logs = np.array([[each.get(key, math.nan) for key in keys] for each in self.rounds])
        timed = ~np.isnan(logs)
        counts = timed.sum(axis=1, keepdims=True)
        logs = np.where(timed, logs, 0.0)
        weights = timed.astype(np.float64)
        parts, usual = np.zeros(len(keys)), _USUAL_NOISE
        inverse = np.zeros((len(keys), len(keys)))
        for _ in range(_SWEEPS):
            of_rounds = weights.sum(axis=1, keepdims=True)
            of_rounds[of_rounds == 0] = 1.0  # a round of outliers
            means = (weights * logs).sum(axis=1, keepdims=True) / of_rounds
            normal = np.diag(weights.sum(axis=0)) - weights.T @ (weights / of_rounds)
            inverse = np.linalg.pinv(normal, hermitian=True)
            parts = inverse @ (weights * (logs - means)).sum(axis=0)
            rests = logs - parts
            # The round's part: a median, which one outlier does not move.
            rests -= _medians(rests, timed)
            scaled = np.abs(rests) * np.sqrt(counts / (counts - 1))
            noise = max(1.4826 * float(np.median(scaled[timed])), _LEAST_NOISE)
            seen = int(timed.sum())
            usual = math.sqrt((seen * noise**2 + _USUAL_TURNS * _USUAL_NOISE**2) / (seen + _USUAL_TURNS))
            weights = np.where(timed & (scaled < _OUTLIER * noise), np.minimum(1.0, _HUBER * noise / np.maximum(scaled, 1e-12)), 0.0)
        return parts, inverse * usual**2


def _medians(values: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Of each row's values where ``among`` is true: (rows, 1)."""
    ordered = np.sort(np.where(among, values, np.inf), axis=1)
    count = among.sum(axis=1)
    rows = np.arange(len(values))
    middle: np.ndarray = (ordered[rows, (count - 1) // 2] + ordered[rows, count // 2]) / 2
    return middle[:, None]


def may_be_best(beliefs: Mapping[Key, Belief], among: Iterable[Key], doubt: float) -> Sequence[Key]:
    """Those of ``among`` that may be fastest, the likeliest first: within ``doubt`` standard deviations of the best."""
    ordered = sorted(among, key=lambda key: beliefs[key].mean)
    best = beliefs[ordered[0]]

    def near(key: Key) -> bool:
        return beliefs[key].mean - best.mean <= doubt * math.hypot(beliefs[key].deviation, best.deviation)

    return [key for key in ordered if key == ordered[0] or near(key)]
