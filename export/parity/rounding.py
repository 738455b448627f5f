"""The source's own rounding on one input: how far its answers move when its operators round otherwise.

    wobble = Wobble(source, feeds, outputs)
    wobble.spread("y")      # per element: how far a right file may be off

A fixed tolerance is too tight where a model magnifies rounding (a large sum that cancels out) and too wide where it does not. The
source itself shows which is the case.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from onnxferry.export.parity.tolerances import NOISE, NOISE_FACTOR, NOISE_RUNS, ROUNDINGS
from onnxferry.export.source import Feeds, RoundedSource, Source, TableSource
from onnxferry.runtime.artifact.comparison import absolute_difference

Rounded = Callable[[Feeds, int], Mapping[str, np.ndarray] | None]
"""The source's outputs with other roundings, by a seed; None where it cannot be run so."""


def rounded(source: Source) -> Rounded:
    """With errors in every operator that rounds, where the source can be run so."""
    if isinstance(source, RoundedSource):
        return lambda feeds, seed: source.run_rounded(feeds, seed, NOISE)
    return lambda feeds, seed: None


def rounded_rows(source: TableSource) -> Rounded:
    """With rounded inputs and parameters. Near a threshold that says too much: rows that are there on purpose are not measured by it."""
    return lambda feeds, seed: source.run_moved(feeds, seed, ROUNDINGS)


class Wobble:
    """The source run again with other roundings, and in float64. Nothing is run before it is asked for."""

    def __init__(self, source: Source, feeds: Feeds, outputs: Mapping[str, np.ndarray], other: Rounded | None = None) -> None:
        self._source = source
        self._rounded = other or rounded(source)
        self._feeds = feeds
        self._outputs = outputs
        self._runs: list[Mapping[str, np.ndarray] | None] = []

    def _other(self, number: int) -> Mapping[str, np.ndarray] | None:
        """Run 0 is in float64, the others have errors injected. None where the source cannot be run so."""
        while len(self._runs) <= number:
            if not self._runs:
                self._runs.append(self._source.run_float64(self._feeds))
            else:
                self._runs.append(self._rounded(self._feeds, len(self._runs)))
        return self._runs[number]

    def unexplained(self, name: str, beyond: np.ndarray, difference: np.ndarray, allowed: np.ndarray) -> np.ndarray:
        """Of the elements of a float output in ``beyond``, those that are off by more than ``allowed`` and the rounding together.

        A number that is not finite in the file alone must be explained by rounding itself: what a kernel is known to lose (the small
        answers of a sigmoid) is corrected in the graph where it becomes an infinity.
        """
        endless = beyond & ~np.isfinite(difference)
        if endless.any() and isinstance(self._source, RoundedSource):
            plain = dataclasses.replace(NOISE, kernels={})
            runs = (self._source.run_rounded(self._feeds, seed, plain) for seed in range(1, NOISE_RUNS + 1))
            endless = endless & np.all([np.isfinite(self._deviation(name, run)) for run in runs], axis=0)
        else:
            endless = np.zeros(beyond.shape, dtype=bool)
        return np.asarray(endless | self._beyond_spread(name, beyond & ~endless, difference, allowed))

    def _beyond_spread(self, name: str, beyond: np.ndarray, difference: np.ndarray, allowed: np.ndarray) -> np.ndarray:
        left = beyond
        spread = np.zeros(beyond.shape)
        for number in range(NOISE_RUNS + 1):
            if not left.any():
                break
            spread = np.maximum(spread, self._deviation(name, self._other(number)))
            left = beyond & (difference > allowed + NOISE_FACTOR * spread) & np.isfinite(spread)
        return left

    def spread(self, name: str) -> np.ndarray:
        """Largest deviation of each element of a float output; infinite where it may become not finite, or have another shape."""
        found = np.zeros(self._outputs[name].shape)
        for number in range(NOISE_RUNS + 1):
            found = np.maximum(found, self._deviation(name, self._other(number)))
        return found

    def _deviation(self, name: str, other: Mapping[str, np.ndarray] | None) -> np.ndarray:
        want = self._outputs[name]
        if other is None:
            return np.zeros(want.shape)
        if other[name].shape != want.shape:
            return np.full(want.shape, np.inf)
        return absolute_difference(other[name], want, equal_nan=True)

    def untied(self, name: str, changed: np.ndarray) -> np.ndarray:
        """Of the elements of a whole-number output in ``changed``, those that no other rounding changes: they are no ties."""
        want = self._outputs[name]
        for number in range(NOISE_RUNS + 1):
            other = self._other(number) if changed.any() else None
            if other is not None:
                changed = changed & (other[name] == want) if other[name].shape == want.shape else np.zeros(want.shape, dtype=bool)
        return changed
