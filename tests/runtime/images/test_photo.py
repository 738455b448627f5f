"""Photographs of writing: shadows, falling light, a table under the paper; and what is no photograph stays as it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxferry.runtime import Classifier, load
from onnxferry.runtime.images.photo import components, is_evenly_lit, without_background

ZOO = Path(__file__).parents[3] / "runtime" / "zoo"
HEIGHT, WIDTH = 192, 256
DOWN, ACROSS = np.mgrid[0:HEIGHT, 0:WIDTH]


@pytest.fixture(scope="module")
def digits() -> tuple[Classifier, np.ndarray, np.ndarray]:
    """The model, and one digit of each class, uint8 (10, 28, 28)."""
    model = load("digits")
    assert isinstance(model, Classifier)
    with np.load(ZOO / "digits" / "examples.npz") as arrays:
        right = np.flatnonzero(arrays["predicted"] == arrays["labels"])
        chosen = [right[arrays["labels"][right] == digit][0] for digit in range(10)]
        return model, arrays["images"][chosen][..., 0], arrays["labels"][chosen]


def on_paper(digit: np.ndarray, side: int = 120, top: int = 40, left: int = 70) -> np.ndarray:
    """Blue ink on light paper, float64 (HEIGHT, WIDTH, 3)."""
    ink = np.asarray(Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC)).astype(float) / 255
    share = np.zeros((HEIGHT, WIDTH, 1))
    share[top : top + side, left : left + side, 0] = np.clip((ink - 0.35) * 4, 0, 1)
    return np.array([235.0, 232, 222]) * (1 - share) + np.array([40.0, 60, 140]) * share


def shadow(depth: float) -> np.ndarray:
    return (1 - depth / (1 + np.exp((np.hypot(ACROSS - WIDTH, DOWN) - 120) / 12)))[..., None]


LIGHTS = {
    "shadow 10 %": lambda: shadow(0.1),
    "shadow 30 %": lambda: shadow(0.3),
    "falloff 40 %": lambda: (1 - 0.4 * ACROSS / WIDTH)[..., None],
    "vignette 20 %": lambda: (1 - 0.2 * (((ACROSS - WIDTH / 2) / WIDTH * 2) ** 2 + ((DOWN - HEIGHT / 2) / HEIGHT * 2) ** 2) / 2)[..., None],
}


@pytest.mark.parametrize("light", LIGHTS)
def test_digits_in_uneven_light_are_read(digits: tuple[Classifier, np.ndarray, np.ndarray], light: str) -> None:
    model, images, labels = digits
    lit = LIGHTS[light]()
    photos = [(on_paper(each) * lit).round().astype(np.uint8) for each in images]
    assert sum(p.index == label for p, label in zip(model.predict(photos), labels, strict=True)) <= 7, "as they are they are misread"
    cleaned = [without_background(each) for each in photos]
    assert [p.index for p in model.predict(cleaned)] == labels.tolist()


def test_paper_on_a_table_is_found(digits: tuple[Classifier, np.ndarray, np.ndarray]) -> None:
    model, images, labels = digits
    photos = []
    for each in images:
        photo = np.empty((HEIGHT, WIDTH, 3))
        photo[:] = np.array([120.0, 84, 52]) * (1 + 0.12 * np.sin(DOWN / 5))[..., None]
        photo[30:160, 60:220] = on_paper(each, side=80, top=50, left=100)[30:160, 60:220]
        photos.append(photo.round().clip(0, 255).astype(np.uint8))
    assert [p.index for p in model.predict([without_background(each) for each in photos])] == labels.tolist()


def test_ruled_paper_and_chalk(digits: tuple[Classifier, np.ndarray, np.ndarray]) -> None:
    model, images, labels = digits
    ruled = [on_paper(each) * shadow(0.15) for each in images]
    for each in ruled:
        each[::16] *= 0.75
    chalk = [(40 + (235 - on_paper(each)) * 0.8) * LIGHTS["falloff 40 %"]() for each in images]
    for photos in (ruled, chalk):
        cleaned = [without_background(each.round().clip(0, 255).astype(np.uint8)) for each in photos]
        assert [p.index for p in model.predict(cleaned)] == labels.tolist()


def test_drawings_scans_and_small_images_stay_as_they_are(digits: tuple[Classifier, np.ndarray, np.ndarray]) -> None:
    _, images, _ = digits
    for image in (images[0][..., None], on_paper(images[3]).round().astype(np.uint8), np.zeros((400, 10, 1), np.uint8)):
        assert without_background(image) is image
    assert is_evenly_lit(np.full((9, 9, 3), 200, np.uint8))


def test_blank_paper_in_a_shadow_stays_blank() -> None:
    paper = (np.full((HEIGHT, WIDTH, 3), 230.0) * shadow(0.3)).round().astype(np.uint8)
    assert without_background(paper).min() > 200


@pytest.mark.parametrize("shape", [(64, 1, 1), (1, 64, 3), (100, 65, 1), (97, 300, 3)])
def test_any_shape(shape: tuple[int, ...]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    made = without_background(noise)
    assert made.shape[:2] == shape[:2]
    assert made.dtype == np.uint8


def test_connected_parts_are_numbered_in_order() -> None:
    mask = np.array([[1, 0, 1], [1, 0, 1], [0, 0, 0], [0, 1, 0]], bool)
    labels = components(mask)
    assert sorted(np.unique(labels)) == [0, 1, 2, 3]
    assert labels[0, 0] == labels[1, 0] != labels[0, 2]
    assert components(np.ones((2, 2), bool)).tolist() == [[1, 1], [1, 1]]
    spiral = np.zeros((41, 41), bool)
    for i in range(0, 20, 2):
        spiral[i, i : 41 - i] = spiral[i : 41 - i, 40 - i] = spiral[40 - i, i : 41 - i] = True
        spiral[i + 2 : 41 - i, i] = True
        spiral[i + 2, i : i + 3] = True
    assert components(spiral).max() == 1
