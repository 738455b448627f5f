"""Mean average precision of detections, as COCO defines it.

Per class and per threshold of the intersection over union (IoU), the detections of all images are taken in the order of their scores. Each
is matched with the box of its image that it overlaps most, among those that are not matched yet and that it overlaps at least as much as
the threshold says. Precision over recall is made to fall, read at 101 recalls from 0 to 1, and averaged: the average precision. The mean
is over ten thresholds, 0.50 to 0.95, and over the classes that occur.

Source: Lin et al. 2014, "Microsoft COCO: Common Objects in Context", arXiv 1405.0312; and its evaluation code, cocoeval.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

IOU_THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))


MAX_DETECTIONS = 100
"""Per image and class, the best ones, as COCO has it."""


_RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class AveragePrecision:
    """What detections are worth: all values are shares, 0 to 1."""

    mean: float  # mAP 50-95
    at_50: float  # mean over the classes at an IoU of 0.5
    at_75: float
    classes: dict[int, float]  # class index to its average precision, mean over the ten thresholds; only classes that occur
    images: int
    boxes: int  # true ones

    def to_dict(self, labels: Sequence[str] = ()) -> dict[str, Any]:
        """For JSON. ``labels``: names of the classes, in the order of their indices."""
        named = {labels[index] if index < len(labels) else str(index): value for index, value in self.classes.items()}
        return {"map": self.mean, "map50": self.at_50, "map75": self.at_75, "classes": named, "images": self.images, "boxes": self.boxes}


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of every box in ``a`` (n, 4) with every one in ``b`` (m, 4), left, top, right, bottom: (n, m).

    0 for two boxes without an area.

        >>> box_iou(np.array([[0, 0, 2, 2]]), np.array([[1, 0, 3, 2], [5, 5, 6, 6]]))
        array([[0.33333333, 0.        ]])
    """
    a, b = np.asarray(a, np.float64).reshape(-1, 4), np.asarray(b, np.float64).reshape(-1, 4)
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(each[:, 2] - each[:, 0]) * (each[:, 3] - each[:, 1]) for each in (a, b)]
    whole = areas[0][:, None] + areas[1][None] - shared
    found: np.ndarray = np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)
    return found


def average_precision(
    found: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], true: Sequence[tuple[np.ndarray, np.ndarray]]
) -> AveragePrecision:
    """``found``: per image boxes (n, 4), scores (n,), class indices (n,). ``true``: per image boxes (m, 4), class indices (m,).

        boxes, classes = np.array([[0, 0, 10, 10]]), np.array([3])
        average_precision([(boxes, np.array([0.9]), classes)], [(boxes, classes)]).mean  # 1.0

    Raises ValueError where the two are not equally many. Without any true box all means are 0.
    """
    present = sorted({int(index) for _, classes in true for index in classes})
    tables = {index: _of_class(index, found, true) for index in present}
    table = np.array(list(tables.values())).reshape(-1, len(IOU_THRESHOLDS))
    means = table.mean(axis=0) if len(table) else np.zeros(len(IOU_THRESHOLDS))
    return AveragePrecision(
        mean=float(means.mean()),
        at_50=float(means[0]),
        at_75=float(means[5]),
        classes={index: float(values.mean()) for index, values in tables.items()},
        images=len(true),
        boxes=sum(len(classes) for _, classes in true),
    )


def _of_class(
    index: int, found: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], true: Sequence[tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
    """The average precision at each threshold, float64 (10,)."""
    scores, hits, count = [], [], 0
    for (boxes, certainty, classes), (true_boxes, true_classes) in zip(found, true, strict=True):
        mine = np.flatnonzero(classes == index)
        best = mine[np.argsort(-certainty[mine], kind="stable")][:MAX_DETECTIONS]
        wanted = true_boxes[true_classes == index]
        count += len(wanted)
        scores.append(certainty[best])
        hits.append(_matches(box_iou(boxes[best], wanted)))
    order = np.argsort(-np.concatenate(scores), kind="stable")
    right = np.concatenate(hits, axis=1)[:, order]  # bool (thresholds, detections)
    return np.array([_area(row, count) for row in right])


def _matches(iou: np.ndarray) -> np.ndarray:
    """Which detections, best first, are matched with a box: ``iou`` (detections, boxes) → bool (thresholds, detections)."""
    matched = np.zeros((len(IOU_THRESHOLDS), len(iou)), bool)
    if not iou.size:
        return matched
    for row, threshold in enumerate(IOU_THRESHOLDS):
        free = np.ones(iou.shape[1], bool)
        for position, overlaps in enumerate(iou):
            best = int(np.argmax(np.where(free, overlaps, -1.0)))
            if free[best] and overlaps[best] >= threshold:
                free[best], matched[row, position] = False, True
    return matched


def _area(right: np.ndarray, count: int) -> float:
    """The mean of 101 precisions: bool (detections,), best first, and how many boxes there are."""
    hits = np.cumsum(right)
    recall = hits / count
    precision = hits / np.arange(1, len(right) + 1)
    falling = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, _RECALLS, side="left")
    return float(np.where(places < len(falling), np.append(falling, 0.0)[np.minimum(places, len(falling))], 0.0).mean())
