"""Points on a triangle: how much of each corner is at a point, and mixtures of the corners.

A latent space of Gaussian noise is mixed so that every mixture is as long as its corners are (T. White, "Sampling Generative Networks",
2016, arXiv 1609.04468, for two of them); the latents of an autoencoder are mixed along straight lines.
"""

from __future__ import annotations

import numpy as np


def triangle(steps: int) -> np.ndarray:
    """Shares of the three corners at the points of a triangular grid, ``steps`` a side: float64 ((steps + 1)(steps + 2) / 2, 3).

    Row by row from the first corner to the side opposite: row i has i + 1 points, from the second corner's side to the third's.
    """
    return np.array([(steps - row, row - place, place) for row in range(steps + 1) for place in range(row + 1)], np.float64) / steps


def outline(steps: int) -> np.ndarray:
    """Positions in :func:`triangle` along its three sides and back to the first corner, int64 (3 steps,)."""

    def at(row: int, place: int) -> int:
        return row * (row + 1) // 2 + place

    down = [at(row, 0) for row in range(steps)]
    across = [at(steps, place) for place in range(steps)]
    back = [at(row, row) for row in range(steps, 0, -1)]
    return np.array(down + across + back)


def mixed(corners: np.ndarray, shares: np.ndarray, *, noise: bool) -> np.ndarray:
    """Mixtures, float32 (m, n), of ``corners`` (3, n) by ``shares`` (m, 3). ``noise``: the corners are Gaussian noise.

    The variance of a sum of independent noise is the sum of the squared shares, which is divided out.
    """
    made = shares @ corners.astype(np.float64)
    if noise:
        made /= np.sqrt((shares**2).sum(axis=1, keepdims=True))
    return made.astype(np.float32)
