"""Inputs that are a few roundings off, for sources whose own operators cannot be made to round otherwise."""

from __future__ import annotations

import numpy as np

from onnxferry.export.source import Feeds, Noise


def moved_inputs(feeds: Feeds, seed: int, noise: Noise) -> dict[str, np.ndarray]:
    """The float inputs off by up to ``noise.roundings`` of themselves; all others as they are."""
    rng = np.random.default_rng(seed)
    moved = dict(feeds)
    for name, array in feeds.items():
        if array.dtype.kind == "f":
            step = noise.roundings * float(np.finfo(array.dtype).eps)
            with np.errstate(over="ignore"):
                moved[name] = (array * (1 + step * rng.uniform(-1, 1, array.shape))).astype(array.dtype)
    return moved
