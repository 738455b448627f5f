"""Images of one size, together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np

from onnxferry.runtime.arguments import whole_number
from onnxferry.runtime.images.decode import with_channels

Key = TypeVar("Key")


BATCH = 64
"""Inputs that run together by default."""


_HELD_BYTES = 16 * 2**20
"""Decoded images wait for others of their size to fill a batch; beyond this many bytes, all that wait are run.
This also bounds a batch of large photos, of which the graph makes float32 copies."""


def image_batches(images: Iterable[tuple[Key, np.ndarray]], channels: int, batch_size: int) -> Iterator[list[tuple[Key, np.ndarray]]]:
    """Images of one shape, converted to ``channels``, up to ``batch_size`` together, in the order in which such batches fill up.

    ``images``: keys and uint8 (height, width, 1 | 3). Raises InputError, at the call, for a batch size that is not a number above 0.
    """
    return _batches(images, channels, whole_number("batch_size", batch_size, 1))


def _batches(images: Iterable[tuple[Key, np.ndarray]], channels: int, batch_size: int) -> Iterator[list[tuple[Key, np.ndarray]]]:
    waiting: dict[tuple[int, ...], list[tuple[Key, np.ndarray]]] = {}  # by shape
    held = 0
    for key, decoded in images:
        image = with_channels(decoded, channels)
        group = waiting.setdefault(image.shape, [])
        group.append((key, image))
        held += image.nbytes
        if held > _HELD_BYTES:
            yield from waiting.values()
            waiting.clear()
            held = 0
        elif len(group) == batch_size:
            yield waiting.pop(image.shape)
            held -= image.nbytes * batch_size
    yield from waiting.values()
