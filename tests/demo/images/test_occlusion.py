"""Which pixels mattered: found for a classifier whose reasons are known."""

from __future__ import annotations

from typing import cast

import numpy as np

from onnxferry.demo.images.occlusion import covered, heat_map, overlay
from onnxferry.runtime import Classifier, Prediction


class LooksAtACorner:
    """Believes in class 1 as much as the upper left corner is bright."""

    calls = 0

    def predict(self, x: np.ndarray, batch_size: int = 64) -> list[Prediction]:
        self.calls += 1
        shares = np.clip(x[:, :8, :8].mean(axis=(1, 2, 3)) / 255, 0.01, 0.99)
        return [Prediction("1", 1, float(p), np.array([1 - p, p], np.float32)) for p in shares]


def test_the_corner_that_decides_is_found_in_one_batch() -> None:
    image = np.zeros((28, 28, 1), np.uint8)
    image[2:8, 2:8] = 255
    image[18:24, 18:24] = 255
    model = LooksAtACorner()
    small, weights = heat_map(cast(Classifier, model), image, 1)
    assert model.calls == 1
    assert small.shape == (28, 28, 1)
    assert weights.max() == 1
    assert weights[3:7, 3:7].min() > 0.2
    assert np.abs(weights[14:, 14:]).max() < 1e-6
    against = heat_map(cast(Classifier, model), image, 0)[1]
    np.testing.assert_allclose(against, -weights, atol=1e-4)


def test_nothing_matters_to_one_who_never_looks() -> None:
    class Blind(LooksAtACorner):
        def predict(self, x: np.ndarray, batch_size: int = 64) -> list[Prediction]:
            return [Prediction("0", 0, 0.5, np.array([0.5, 0.5], np.float32)) for _ in x]

    assert heat_map(cast(Classifier, Blind()), np.zeros((9, 30, 3), np.uint8), 0)[1].any() == np.False_


def test_patches_cover_every_pixel_with_the_grounds_colour() -> None:
    image = np.full((11, 17, 3), (9, 8, 7), np.uint8)
    image[5, 5] = 255
    images, corners = covered(image, patch=4, stride=2)
    seen = np.zeros((11, 17), bool)
    for made, (top, left) in zip(images, corners, strict=True):
        seen[top : top + 4, left : left + 4] = True
        assert (made[top : top + 4, left : left + 4] == (9, 8, 7)).all()
    assert seen.all()


def test_a_large_image_is_brought_down_first() -> None:
    small, weights = heat_map(cast(Classifier, LooksAtACorner()), np.zeros((400, 300, 3), np.uint8), 1)
    assert max(small.shape) == 42
    assert weights.shape == small.shape[:2]
    assert overlay(small, weights, scale=2).shape == (84, 2 * small.shape[1], 3)


def test_overlay_has_warm_and_cold() -> None:
    weights = np.array([[1.0, -1.0, 0.0]], np.float32)
    made = overlay(np.zeros((1, 3, 1), np.uint8), weights, scale=1)[0].astype(int)
    assert made[0, 0] > made[0, 2]
    assert made[1, 2] > made[1, 0]
    assert (made[2] == 255).all()
