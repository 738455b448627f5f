"""What is on an image before a network is asked: nothing, one figure, or several side by side."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from onnxferry.demo.images.uploads import has_light_ground, shrink
from onnxferry.runtime.images.photo import components

LEAST_CONTRAST = 26
"""Levels that ink differs from its ground at least: a tenth of the range, below which the graph takes an image as blank."""


SIDE = 64


_INK = 0.4  # of the strongest ink


_TALL = 0.4  # a figure is at least so tall, as a share of the tallest


_OVERLAP = 0.2  # parts that stand above each other for so much of the narrower one's width belong to one figure


def figures(image: np.ndarray) -> int:
    """How many figures stand side by side on a uint8 image (height, width, 1 | 3): 0 for a blank one.

    Parts that lie above each other, as the bar of a 5 that the pen drew apart, are one figure.
    """
    small = shrink(image, SIDE)
    grey = small.astype(np.float64).mean(axis=2)
    if grey.max() - grey.min() < LEAST_CONTRAST:
        return 0
    ink = 255 - grey if has_light_ground(small) else grey
    ink = ink - np.median(ink)
    labels = components(ink > _INK * ink.max())
    parts = []
    for label in range(1, int(labels.max()) + 1):
        rows, columns = np.nonzero(labels == label)
        parts.append((int(columns.min()), int(columns.max()) + 1, int(rows.min()), int(rows.max()) + 1, len(rows)))
    largest = max((part[4] for part in parts), default=0)
    boxes = _joined([part[:4] for part in parts if part[4] >= max(3, 0.03 * largest)])
    tallest = max((bottom - top for _, _, top, bottom in boxes), default=0)
    return sum(bottom - top >= _TALL * tallest for _, _, top, bottom in boxes)


Box = tuple[int, int, int, int]  # left, right, top, bottom; right and bottom are outside


def _joined(boxes: list[Box]) -> list[Box]:
    """Boxes that stand above each other as one, until none does."""
    while pair := next(((one, other) for one, other in combinations(boxes, 2) if _stand_above(one, other)), None):
        one, other = pair
        boxes.remove(one)
        boxes.remove(other)
        boxes.append((min(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), max(one[3], other[3])))
    return boxes


def _stand_above(one: Box, other: Box) -> bool:
    shared = min(one[1], other[1]) - max(one[0], other[0])
    return shared > _OVERLAP * min(one[1] - one[0], other[1] - other[0])
