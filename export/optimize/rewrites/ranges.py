"""Ranges of inner numbers for 8 bits: what lies far out is cut off where finer steps for the rest are worth more.

Between the smallest and the largest number that were seen, a few that lie far out make the steps of all others coarse. The square error of
a range is the sum of what cutting off costs and of what rounding costs, a twelfth of the square of a step for each number inside; it is
computed from a histogram for many ranges, and the best is taken.

Source: Banner, Nahshan and Soudry 2019, "Post training 4-bit quantization of convolutional networks for rapid-deployment",
arXiv 1810.05723, section 3, with the histogram in place of a distribution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from onnxferry.export.optimize.rewrites.calibration import InnerValues

LEVELS = 255
"""Steps of an unsigned 8-bit number."""


BINS = 4096
"""Of a histogram, half of them on each side of zero."""


STEP = 8  # bins between two ends that are tried


SEEN = 16_384
"""Numbers of a tensor that are counted in each run, drawn at random: its smallest and its largest one always are."""


AT_ONCE = 4  # samples that are run together at most


class Histogram:
    """How often numbers between -``width`` and ``width`` were seen; the width doubles as larger ones come."""

    def __init__(self) -> None:
        self.width = 0.0
        self.low = self.high = 0.0  # zero is always inside: padding adds it
        self.counts = np.zeros(BINS)

    def add(self, values: np.ndarray, rng: np.random.Generator) -> None:
        """One tensor of one run; one with numbers that are not finite is left out."""
        flat = values.reshape(-1)
        if not flat.size or not np.isfinite(low := float(flat.min())) or not np.isfinite(high := float(flat.max())):
            return
        self.low, self.high = min(self.low, low), max(self.high, high)
        reach = max(-self.low, self.high)
        if self.width == 0.0:
            self.width = reach
        while self.width < reach:
            self.width *= 2
            merged = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.concatenate([np.zeros(BINS // 4), merged, np.zeros(BINS // 4)])
        if self.width > 0:
            some = flat if flat.size <= SEEN else flat[rng.integers(0, flat.size, SEEN)]
            not_zero = some[some != 0]  # zero is a step of every range: it costs nothing
            self.counts += np.histogram(not_zero, BINS, (-self.width, self.width))[0] * (flat.size / some.size)

    def best(self) -> tuple[float, float] | None:
        """The range of the least square error; None where nothing but zero was seen."""
        if self.width == 0.0:
            return None
        edges = np.linspace(-self.width, self.width, BINS + 1)
        middles = (edges[1:] + edges[:-1]) / 2
        zeroth, first, second = (np.concatenate([[0.0], np.cumsum(self.counts * middles**power)]) for power in range(3))
        half = BINS // 2
        start = max(0, int(np.searchsorted(edges, self.low, "right")) - 1)
        end = min(BINS, int(np.searchsorted(edges, self.high, "left")))
        lower = np.unique([*range(start, half, STEP), half if self.low == 0 else start])[:, None]
        upper = np.unique([*range(end, half, -STEP), half if self.high == 0 else end])[None, :]
        low, high = edges[lower], edges[upper]
        below = second[lower] - 2 * low * first[lower] + low**2 * zeroth[lower]
        above = (second[-1] - second[upper]) - 2 * high * (first[-1] - first[upper]) + high**2 * (zeroth[-1] - zeroth[upper])
        rounding = (zeroth[upper] - zeroth[lower]) * ((high - low) / LEVELS) ** 2 / 12
        row, column = np.unravel_index(int(np.argmin(below + above + rounding)), (lower.size, upper.size))
        return max(float(low[row, 0]), self.low), min(float(high[0, column]), self.high)


Ranges = dict[str, tuple[float, float]]


def seen_values(model: onnx.ModelProto, names: Sequence[str], feeds: Mapping[str, np.ndarray]) -> dict[str, Histogram]:
    """Of each of these inner float32 tensors on ``feeds`` (rows by input name)."""
    rng = np.random.default_rng(0)
    found = {name: Histogram() for name in names}
    for values in InnerValues(model, names, feeds, AT_ONCE):
        for name, histogram in found.items():
            histogram.add(values[name], rng)
    return found


def whole_ranges(seen: Mapping[str, Histogram]) -> Ranges:
    """From the smallest to the largest number of each tensor; without those that are always zero."""
    return {name: (histogram.low, histogram.high) for name, histogram in seen.items() if histogram.width}


def clipped_ranges(seen: Mapping[str, Histogram]) -> Ranges:
    """The best range of each tensor; without those that are always zero."""
    return {name: best for name, histogram in seen.items() if (best := histogram.best()) is not None}
