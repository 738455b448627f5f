"""Images of no class: made from a seed, of every kind, and none of a character that is written like a digit."""

from __future__ import annotations

import numpy as np
import pytest

from onnxferry.train.data.others import HELD_OUT_FONTS, HELD_OUT_SIGNS, SIDE, _fonts, made_others

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 28, 28, 1), np.uint8)
PHOTOS = np.random.default_rng(0).integers(0, 256, (5, 40, 40, 3), np.uint8)


def test_figures_are_a_function_of_the_seed() -> None:
    first, again, other = (made_others(IMAGES, 40, figures=True, seed=seed) for seed in (3, 3, 4))
    assert first.shape == (40, SIDE, SIDE, 1)
    assert first.dtype == np.uint8
    assert (first == again).all()
    assert (first != other).any()


def test_photographs_keep_their_size_and_colour() -> None:
    made = made_others(PHOTOS, 30, figures=False)
    assert made.shape == (30, 40, 40, 3)
    tiles = [image for image in made if (np.sort(image.reshape(-1, 3), axis=0) != 0).any()]
    assert len({image.tobytes() for image in tiles}) > 20


@pytest.mark.parametrize("character", ["0", "8", "²", "½", "①", "O", "l", "З", "ο", *HELD_OUT_SIGNS])
def test_no_digit_no_look_alike_and_nothing_that_is_measured_with_is_drawn(character: str) -> None:
    assert all(character not in characters for _, characters in _fonts())


def test_letters_are_drawn_in_fonts_that_are_not_measured_with() -> None:
    assert all("K" in characters for path, characters in _fonts() if "STIXGeneral" in path or "Serif.ttf" in path)
    assert not any(f"/{name}" in path for path, _ in _fonts() for name in HELD_OUT_FONTS if "Display" not in path)
