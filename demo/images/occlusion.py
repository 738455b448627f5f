"""Which pixels mattered: each patch of an image is covered in turn, and what that does to the answer is its weight.

Source: M. Zeiler, R. Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, arXiv 1311.2901, section 4.2.
It needs the model's answers only, no gradients, so it works through any runtime; all covered images go as batches.
"""

from __future__ import annotations

import numpy as np

from onnxferry.demo.images.uploads import shrink
from onnxferry.runtime import Classifier

SIDE = 42
"""Pixels of the longer side on which the patches lie: finer says no more, and takes longer."""


def covered(image: np.ndarray, patch: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (height, width, channels) → the covered images uint8 (n, height, width, channels), and corners int64 (n, 2) of patches.

    A patch takes the colour of the image's edge, its background.
    """
    height, width, channels = image.shape
    edge = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])  # (about 2 (height + width), channels)
    ground = np.median(edge, axis=0).astype(np.uint8)
    tops = range(0, max(1, height - patch + stride), stride)
    lefts = range(0, max(1, width - patch + stride), stride)
    corners = np.array([(top, left) for top in tops for left in lefts], np.int64)
    images = np.repeat(image[None], len(corners), axis=0)
    for made, (top, left) in zip(images, corners, strict=True):
        made[top : top + patch, left : left + patch] = ground
    return images.reshape(len(corners), height, width, channels), corners


def heat_map(classifier: Classifier, image: np.ndarray, index: int) -> tuple[np.ndarray, np.ndarray]:
    """The image as it was covered, uint8 (h, w, channels), and weights float32 (h, w), largest magnitude 1.

    ``image``: uint8 (height, width, channels). ``index``: the class whose evidence is looked for. A weight above 0 spoke for
    the class (covering it made it less likely, in log-odds), one below 0 against it. All 0 where nothing mattered.
    """
    small = shrink(image, SIDE)
    patch = max(2, max(small.shape[:2]) // 6)
    stride = max(1, patch - 1)
    images, corners = covered(small, patch, stride)
    answers = classifier.predict(np.concatenate([small[None], images]), batch_size=len(images) + 1)
    odds = np.array([_log_odds(float(answer.probabilities[index])) for answer in answers])
    weights = np.zeros(small.shape[:2])
    counts = np.zeros(small.shape[:2])
    for (top, left), difference in zip(corners, odds[0] - odds[1:], strict=True):
        weights[top : top + patch, left : left + patch] += difference
        counts[top : top + patch, left : left + patch] += 1
    weights /= np.maximum(counts, 1)
    largest = np.abs(weights).max()
    return small, (weights / largest if largest > 1e-6 else np.zeros_like(weights)).astype(np.float32)


def overlay(image: np.ndarray, weights: np.ndarray, scale: int = 6) -> np.ndarray:
    """The image in pale grey with warm colour where it spoke for the class and cold where against: uint8 (h scale, w scale, 3)."""
    grey = image.mean(axis=2)  # (h, w)
    dark_ground = np.median(np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])) < 128
    ink = grey if dark_ground else 255 - grey  # ink high, ground low, whichever way the image is
    base = 255 - 0.75 * ink[..., None].repeat(3, axis=2)  # ink on white
    warm, cold = np.array([226.0, 73.0, 28.0]), np.array([38.0, 102.0, 200.0])
    share = np.abs(weights)[..., None] * 0.85
    mixed = (1 - share) * base + share * np.where(weights[..., None] > 0, warm, cold)
    pixels: np.ndarray = mixed.round().astype(np.uint8)
    return pixels.repeat(scale, axis=0).repeat(scale, axis=1)


def _log_odds(probability: float) -> float:
    inside = min(max(probability, 1e-7), 1 - 1e-7)
    return float(np.log(inside / (1 - inside)))
