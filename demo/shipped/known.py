"""Whether an image is anything like what a recogniser has learnt: how far its features lie from those of every class.

The score is the squared Mahalanobis distance to the nearest class, with one covariance for all (K. Lee et al., "A simple unified framework
for detecting out-of-distribution samples and adversarial attacks", 2018, arXiv 1807.03888). Means, the covariance's whitening and the
threshold are measured by ``tests/bench/figures_known.py`` on the training images: 99.25 % of them lie below it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

_ASSETS = Path(__file__).parents[1] / "assets"


@dataclass(frozen=True, eq=False)
class Known:
    """What a recogniser's features are like."""

    means: np.ndarray  # float32 (classes, n)
    whitening: np.ndarray  # float32 (n, n): the squared length of whitening @ difference is the distance
    threshold: float

    def distance(self, features: np.ndarray) -> float:
        """Of one image's features, float32 (n,): 0 upwards; above ``threshold`` it is probably of no class."""
        apart = (features[None] - self.means) @ self.whitening.T  # (classes, n)
        return float((apart * apart).sum(axis=1).min())


@cache
def known(name: str) -> Known | None:
    """Of a shipped recogniser; None where it was not measured."""
    path = _ASSETS / f"known-{name}.npz"
    if not path.is_file():
        return None
    with np.load(path) as arrays:
        return Known(arrays["means"].astype(np.float32), arrays["whitening"].astype(np.float32), float(arrays["threshold"]))
