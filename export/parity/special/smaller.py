"""Smaller inputs of a probe that failed, and how a message prints them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxferry.export.parity.probes import given_case
from onnxferry.export.source import Feeds, InputSpec

SHOWN = 8
"""Elements of an input that a message prints."""


def smaller(inputs: Sequence[InputSpec], feeds: Feeds) -> list[Feeds]:
    """Each half of every dynamic axis, and each half of the elements that are not zero set to zero."""
    found: list[Feeds] = []
    sizes = given_case("", feeds, inputs).sizes
    for axis, size in sizes.items():
        half = size // 2
        for keep in (slice(0, half), slice(half, size)) if half else ():
            cut = {}
            for spec in inputs:
                places = tuple(keep if name == axis else slice(None) for name in spec.shape)
                cut[spec.name] = np.array(feeds[spec.name][places])
            found.append(cut)
    for name, array in feeds.items():
        if array.dtype.kind in "iufb" and array.size > 1 and np.count_nonzero(array) > 1:
            flat = np.flatnonzero(array)
            for part in (flat[: len(flat) // 2], flat[len(flat) // 2 :]):
                zeroed = array.copy()
                zeroed.reshape(-1)[part] = 0
                found.append({**feeds, name: zeroed})
    return found


def shown(array: np.ndarray) -> str:
    """The elements that are not zero, or all of few."""
    if array.size <= SHOWN:
        return repr(array.tolist())
    places = np.argwhere(array) if array.dtype.kind in "iufb" else np.zeros((0, array.ndim), np.int64)
    words = f"{array.dtype}{list(array.shape)}, {len(places)} of them not zero"
    if not 0 < len(places) <= SHOWN:
        return words
    return f"{words}: " + ", ".join(f"{array[tuple(place)].item()!r} at {place.tolist()}" for place in places)
