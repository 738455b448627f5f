"""What timed turns say of each candidate: how fast it is expected to be, and how sure that is.

Candidates are timed in rounds, one turn each. A round's times share what the machine was doing meanwhile, so the logarithm of a time is
taken as a sum, candidate plus round plus noise, fitted by least squares with weights that bound what an outlier counts (Huber, "Robust
Statistics", 1981, chapter 7): a burst, a drift or a clock that jumps moves a round, or one turn, and not a candidate. What was known
before anything was timed is a normal prior, and so is what earlier sessions found (:class:`Session`), each with a doubt of its own; the
posterior is that of all together, with the covariances that come of comparing everything with the same default. The candidate that is
*expected* to be fastest is chosen: waiting for proof at 99 % keeps the default where something else is probably much faster.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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


_CONTRADICTION, _CHANGE, _ENOUGH = 4.0, 0.08, 8
"""An earlier session is dropped where a candidate is now so many standard deviations, and at least that share, from what it was, after
so many turns."""


_FREE = 1e-5  # the weight that keeps what the rounds do not determine near 0


@dataclass(frozen=True)
class Effect:
    """What one thing, of which several candidates may have it, does to the logarithm of a time, and how uncertain that is."""

    mean: float
    deviation: float


@dataclass(frozen=True)
class Prior:
    """What is known of a candidate beforehand: the logarithm of its time beside the default's, and how uncertain that is.

    ``effects``, by name, add to both. What one candidate's turns say of an effect counts for all that have it.
    """

    mean: float = 0.0
    deviation: float = 0.3  # of what the candidate has to itself
    effects: Mapping[Hashable, Effect] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """What is expected, with all effects."""
        return self.mean + sum(effect.mean for effect in self.effects.values())


@dataclass(frozen=True)
class Belief:
    """The logarithm of a candidate's time beside the default's, after what was timed, and its standard deviation."""

    mean: float
    deviation: float
    measured: float = 0.0  # what the turns alone say


@dataclass(frozen=True)
class Session(Generic[Key]):
    """Rounds of an earlier search: seconds of a run, by candidate; and how far a candidate may be from what it was then, as a share."""

    rounds: Sequence[Mapping[Key, float]]
    doubt: float


class Beliefs(Mapping[Key, Belief]):
    """Of every candidate that has a prior; with what is known of the difference of two."""

    def __init__(self, beliefs: Mapping[Key, Belief], places: Mapping[Key, int], spread: np.ndarray) -> None:
        self._beliefs, self._places, self._spread = beliefs, places, spread

    def __getitem__(self, key: Key) -> Belief:
        return self._beliefs[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._beliefs)

    def __len__(self) -> int:
        return len(self._beliefs)

    def apart(self, one: Key, other: Key) -> float:
        """Standard deviation of the difference of their logarithms."""
        i, j = self._places[one], self._places[other]
        return math.sqrt(max(float(self._spread[i, i] + self._spread[j, j] - 2 * self._spread[i, j]), 0.0))

    def regret(self, chosen: Key, other: Key) -> float:
        """What the chosen one is expected to lose where the other one is faster, as a share of its time."""
        apart, ahead = self.apart(chosen, other), self[chosen].mean - self[other].mean
        if apart == 0:
            return max(ahead, 0.0)
        steps = ahead / apart
        return ahead * 0.5 * (1 + math.erf(steps / math.sqrt(2))) + apart * math.exp(-(steps**2) / 2) / math.sqrt(2 * math.pi)


class Evidence(Generic[Key]):
    """Rounds of turns, and what they say."""

    def __init__(self) -> None:
        self.rounds: list[Mapping[Key, float]] = []
        self.priors: dict[Key, Prior] = {}
        self.noise = 0.0  # standard deviation of a turn, as a share, when last looked at
        self._earlier: list[_Known[Key]] = []

    def add(self, times: Mapping[Key, float]) -> None:
        """One round: seconds of a run, by candidate. A round of one candidate compares nothing, and is left out."""
        if len(times) > 1:
            self.rounds.append({key: math.log(seconds) for key, seconds in times.items()})

    def add_session(self, session: Session[Key], default: Key) -> None:
        """What an earlier search measured. Without the default in it, it compares nothing with this one's, and is left out."""
        fit = _fit([{key: math.log(seconds) for key, seconds in times.items()} for times in session.rounds if len(times) > 1])
        known = (
            _Known.of(fit, default, session.doubt)
            if default in fit.places
            else _Known[Key]({}, {}, np.zeros((0, 0)), useless=True, dropped=True)
        )
        self._earlier.append(known)

    @property
    def dropped(self) -> list[bool]:
        """Of the earlier sessions in their order: whether it is left out, as what was timed since contradicts it."""
        return [each.dropped for each in self._earlier]

    def turns(self, key: Key) -> int:
        return sum(key in each for each in self.rounds)

    def beliefs(self, default: Key) -> Beliefs[Key]:
        """Of every candidate that has a prior."""
        keys = list(self.priors)
        places = {key: place for place, key in enumerate(keys)}
        fit = _fit(self.rounds)
        self.noise = fit.noise
        now = _Known.of(fit, default, 0.0) if default in fit.places else None
        if now is not None:
            enough = [key for key in now.means if self.turns(key) >= _ENOUGH]
            for earlier in self._earlier:
                earlier.dropped = earlier.useless or any(_contradict(earlier, now, key) for key in enough if key in earlier.means)
        # The default is 0 for certain: its row and column stay out.
        open_keys = [key for key in keys if key != default]
        at = {key: place for place, key in enumerate(open_keys)}
        precision, weighted = _joint([self.priors[key] for key in open_keys])
        for known in (*(each for each in self._earlier if not each.dropped), *([now] if now is not None else [])):
            shared = [key for key in known.means if key in at]
            if shared:
                own, here = [known.places[key] for key in shared], [at[key] for key in shared]
                inverse = np.linalg.inv(known.spread[np.ix_(own, own)])
                precision[np.ix_(here, here)] += inverse
                weighted[here] += inverse @ np.array([known.means[key] for key in shared])
        posterior = np.linalg.inv(precision) if open_keys else precision
        means = posterior @ weighted
        spread = np.zeros((len(keys), len(keys)))
        here = [places[key] for key in open_keys]
        spread[np.ix_(here, here)] = posterior
        found = {}
        for key in keys:
            if key == default:
                found[key] = Belief(0.0, 0.0)
                continue
            mean, deviation = float(means[at[key]]), math.sqrt(max(float(posterior[at[key], at[key]]), 0.0))
            found[key] = Belief(mean, deviation, now.means.get(key, mean) if now is not None else mean)
        return Beliefs(found, places, spread)


def _joint(priors: Sequence[Prior]) -> tuple[np.ndarray, np.ndarray]:
    """The precision of all together, float64 (n, n), and that times their means (n,)."""
    effects = {name: effect for prior in priors for name, effect in prior.effects.items()}
    has = np.array([[name in prior.effects for name in effects] for prior in priors], np.float64).reshape(len(priors), len(effects))
    means = np.array([prior.total for prior in priors])
    covariance = has @ np.diag([effect.deviation**2 for effect in effects.values()]) @ has.T
    precision = np.linalg.inv(covariance + np.diag([prior.deviation**2 for prior in priors])) if priors else covariance
    return precision, precision @ means


@dataclass
class _Known(Generic[Key]):
    """What one session's rounds say of its candidates but the default, which is 0."""

    means: Mapping[Key, float]
    places: Mapping[Key, int]
    spread: np.ndarray  # float64 (n, n), covariances
    useless: bool = False  # it compares nothing with the default
    dropped: bool = False

    @staticmethod
    def of(fit: _Fit[Key], default: Key, doubt: float) -> _Known[Key]:
        others = [key for key in fit.places if key != default]
        own, j = [fit.places[key] for key in others], fit.places[default]
        spread = fit.spread[np.ix_(own, own)] - fit.spread[np.ix_(own, [j])] - fit.spread[np.ix_([j], own)] + fit.spread[j, j]
        means = {key: float(fit.parts[fit.places[key]] - fit.parts[j]) for key in others}
        return _Known(means, {key: place for place, key in enumerate(others)}, spread + np.eye(len(others)) * (doubt**2 + 1e-10))


def _contradict(earlier: _Known[Key], now: _Known[Key], key: Key) -> bool:
    i, j = earlier.places[key], now.places[key]
    change = abs(earlier.means[key] - now.means[key])
    return change > max(_CHANGE, _CONTRADICTION * math.sqrt(float(earlier.spread[i, i] + now.spread[j, j])))


@dataclass(frozen=True)
class _Fit(Generic[Key]):
    """Each candidate's part of the logarithms and their covariances, float64 (n,) and (n, n), both up to a common constant."""

    places: Mapping[Key, int]
    parts: np.ndarray
    spread: np.ndarray
    noise: float  # standard deviation of a turn


def _fit(rounds: Sequence[Mapping[Key, float]]) -> _Fit[Key]:
    """``rounds``: logarithms of seconds, by candidate."""
    keys = list(dict.fromkeys(key for each in rounds for key in each))
    places = {key: place for place, key in enumerate(keys)}
    if not keys:
        return _Fit(places, np.zeros(0), np.zeros((0, 0)), _USUAL_NOISE)
    logs = np.array([[each.get(key, math.nan) for key in keys] for each in rounds])
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
        # The constant that all have in common is free, and so is that of a group that was never timed beside the others.
        inverse = np.linalg.inv(normal + _FREE * np.eye(len(keys)))
        parts = inverse @ (weights * (logs - means)).sum(axis=0)
        rests = logs - parts
        # The round's part: a median, which one outlier does not move.
        rests -= _medians(rests, timed)
        scaled = np.abs(rests) * np.sqrt(counts / (counts - 1))
        noise = max(1.4826 * float(np.median(scaled[timed])), _LEAST_NOISE)
        seen = int(timed.sum())
        usual = math.sqrt((seen * noise**2 + _USUAL_TURNS * _USUAL_NOISE**2) / (seen + _USUAL_TURNS))
        weights = np.where(timed & (scaled < _OUTLIER * noise), np.minimum(1.0, _HUBER * noise / np.maximum(scaled, 1e-12)), 0.0)
    return _Fit(places, parts, inverse * usual**2, usual)


def _medians(values: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Of each row's values where ``among`` is true: (rows, 1)."""
    ordered = np.sort(np.where(among, values, np.inf), axis=1)
    count = among.sum(axis=1)
    rows = np.arange(len(values))
    middle: np.ndarray = (ordered[rows, (count - 1) // 2] + ordered[rows, count // 2]) / 2
    return middle[:, None]


def may_be_best(beliefs: Beliefs[Key], among: Iterable[Key], doubt: float) -> Sequence[Key]:
    """Those of ``among`` that may be fastest, the likeliest first: within ``doubt`` standard deviations of the best."""
    ordered = sorted(among, key=lambda key: beliefs[key].mean)
    best = ordered[0]
    return [key for key in ordered if key == best or beliefs[key].mean - beliefs[best].mean <= doubt * beliefs.apart(key, best)]
