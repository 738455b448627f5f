"""Quality of generated images, offline: distances between the features of real and generated images in one of our recognisers.

Features of an ImageNet network, which are usual, say little about figures on a plain background, and need a download. Results
can be compared only where the recogniser is the same, and beside the floor: the same measure between real images and other
real ones. (torchmetrics and torch-fidelity have the Fréchet distance around a downloaded network, and no coverage.)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch

from onnxferry.runtime.errors import InputError
from onnxferry.runtime.tasks.classifier import Classifier
from onnxferry.runtime.tasks.loading import load_as
from onnxferry.train.families.cnn import Cnn, Recogniser

Judge: TypeAlias = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Images uint8 (n, height, width, channels) → features float32 (n, width), class indices int64 (n,)."""


NEIGHBOURS = 5
"""k of the neighbourhoods, as in Naeem et al. 2020."""


BATCH_SIZE = 500


def quality(real: np.ndarray, made: np.ndarray, k: int = NEIGHBOURS) -> dict[str, float]:
    """Features float (n, width) and (m, width) → frechet, precision, recall, coverage.

    ``frechet``: Heusel et al. 2017 (arXiv 1706.08500), squared distance of two normal distributions. ``precision``, ``recall``:
    Kynkäänniemi et al. 2019 (arXiv 1904.06991), shares of generated (real) images within the k-neighbourhood of a real
    (generated) one. ``coverage``: Naeem et al. 2020 (arXiv 2002.09797), share of real images with a generated one in their k-neighbourhood.
    Raises InputError for fewer than k + 1 images.
    """
    if min(len(real), len(made)) <= k:
        raise InputError(f"quality needs more than {k} images of each kind, got {len(real)} real and {len(made)} made")
    real_radius, made_radius = _radii(real, k), _radii(made, k)
    precise, recalled, nearest = np.zeros(len(made), bool), np.zeros(len(real), bool), np.full(len(real), np.inf)
    for start in range(0, len(made), BATCH_SIZE):
        part = slice(start, start + BATCH_SIZE)
        distance = _distances(made[part], real)  # (some, n)
        precise[part] = (distance <= real_radius[None, :]).any(axis=1)
        recalled |= (distance <= made_radius[part, None]).any(axis=0)
        nearest = np.minimum(nearest, distance.min(axis=0))
    return {
        "frechet": frechet(real, made),
        "precision": float(precise.mean()),
        "recall": float(recalled.mean()),
        "coverage": float((nearest <= real_radius).mean()),
    }


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """|μa - μb|² + tr(Σa + Σb - 2 (Σa Σb)^½), of features (n, width) and (m, width)."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    ours, theirs = np.atleast_2d(np.cov(a, rowvar=False)), np.atleast_2d(np.cov(b, rowvar=False))
    values, vectors = np.linalg.eigh(ours)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    # Σa Σb has the eigenvalues of the symmetric √Σa Σb √Σa.
    cross = np.sqrt(np.linalg.eigvalsh(root @ theirs @ root).clip(0)).sum()
    return max(0.0, float(((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum() + np.trace(ours) + np.trace(theirs) - 2 * cross))


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Euclidean, (n, m)."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    squared = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None] - 2 * a @ b.T
    return np.asarray(np.sqrt(squared.clip(0)))


def _radii(features: np.ndarray, k: int) -> np.ndarray:
    """Distance of each to its k-th nearest neighbour, (n,)."""
    radii = np.empty(len(features))
    for start in range(0, len(features), BATCH_SIZE):
        # The nearest one is the image itself.
        radii[start : start + BATCH_SIZE] = np.partition(_distances(features[start : start + BATCH_SIZE], features), k, axis=1)[:, k]
    return radii


def judge_from_model(name_or_path: str | Path) -> Judge:
    """The features of a recogniser's .onnx file, or of a shipped one by name."""
    model = load_as(Classifier, name_or_path, device="cpu")

    def judge(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        features, indices = [], []
        for start in range(0, len(images), BATCH_SIZE):
            batch = images[start : start + BATCH_SIZE]
            if batch.shape[3] < model.channels:
                batch = batch.repeat(3, axis=3)
            outputs = model.run({"image": np.ascontiguousarray(batch)})
            features.append(outputs["features"])
            indices.append(outputs["class_index"])
        return np.concatenate(features), np.concatenate(indices)

    return judge


def judge_from_network(network: Cnn) -> Judge:
    """The features of a recogniser that was just trained."""
    recogniser = Recogniser(network).eval()

    def judge(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        features, indices = [], []
        with torch.inference_mode():
            for start in range(0, len(images), BATCH_SIZE):
                _, index, feature = recogniser(torch.from_numpy(np.ascontiguousarray(images[start : start + BATCH_SIZE])))
                features.append(feature.numpy())
                indices.append(index.numpy())
        return np.concatenate(features), np.concatenate(indices)

    return judge
