"""Digits are known; noise and a heart are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxferry.demo.images.strokes import Stroke, painted
from onnxferry.demo.shipped import maps
from onnxferry.demo.shipped.known import Known, known

ZOO = Path(__file__).parents[3] / "runtime" / "zoo"


@pytest.fixture
def distance(show_zoo):
    show_zoo(ZOO)
    measured = known("digits")
    assert measured is not None

    def of(image: np.ndarray) -> float:
        inside = maps.inside("digits", image, 1)
        assert inside is not None
        return measured.distance(inside.features) / measured.threshold

    return of


def test_held_out_digits_are_known(distance) -> None:
    with np.load(ZOO / "digits" / "examples.npz") as arrays:
        right = arrays["images"][arrays["predicted"] == arrays["labels"]]
    assert sum(distance(image) > 1 for image in right) <= 1


def test_noise_and_scribbles_are_not(distance) -> None:
    assert distance(np.random.default_rng(0).integers(0, 256, (112, 112, 1), np.uint8)) > 1
    zigzag = np.array([(0.2, 0.3), (0.3, 0.7), (0.4, 0.3), (0.5, 0.7), (0.6, 0.3), (0.7, 0.7), (0.8, 0.3)])
    assert distance(painted([Stroke(24, 336 * zigzag)])) > 1


def test_a_model_that_was_not_measured_refuses_nothing() -> None:
    assert known("fashion") is None


def test_the_distance_is_to_the_nearest_class() -> None:
    two = Known(np.array([[0, 0], [3, 0]], np.float32), np.diag([2, 1]).astype(np.float32), 1.0)
    assert two.distance(np.array([3, 1], np.float32)) == 1
    assert two.distance(np.array([1, 0], np.float32)) == 4
