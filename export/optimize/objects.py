"""What a detector finds, in another order: the likeliest comes first, and of two that are about as likely rounding decides which."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxferry.runtime.evaluation.average_precision import box_iou

SAME_PLACE = 0.7
"""Least overlap (intersection over union) of two boxes for the same object: the one that mean average precision at 75 nearly asks for."""

OBJECTS = ("boxes", "scores", "class_index", "image_index")
"""Outputs with an object a row."""


def in_order_of(expected: Mapping[str, np.ndarray], actual: Mapping[str, np.ndarray]) -> dict[str, np.ndarray] | None:
    """``expected`` with its objects in the order of ``actual``; None where they are not the same objects.

    Both: outputs of a detector by name, of :data:`OBJECTS` float32 (objects, 4) and (objects,), int64 (objects,). Objects are the same if
    each has just one of the same image and class in its place.

        >>> two = {"boxes": np.array([[0, 0, 9, 9], [20, 0, 29, 9]]), "class_index": np.array([4, 7]), "image_index": np.array([0, 0])}
        >>> in_order_of(two, {name: rows[::-1] for name, rows in two.items()})["class_index"]
        array([7, 4])
    """
    if any(len(expected[name]) != len(actual[name]) for name in OBJECTS if name in expected):
        return None
    same = np.ones((len(actual["boxes"]), len(expected["boxes"])), bool)
    for name in ("class_index", "image_index"):
        same &= actual[name][:, None] == expected[name][None, :]
    overlap = np.where(same, box_iou(actual["boxes"], expected["boxes"]), 0.0)
    order = overlap.argmax(axis=1) if len(overlap) else np.zeros(0, np.int64)
    if len(set(order.tolist())) < len(order) or (overlap[np.arange(len(order)), order] < SAME_PLACE).any():
        return None
    return {name: rows[order] if name in OBJECTS else rows for name, rows in expected.items()}
