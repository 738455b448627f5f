"""Nothing, one figure, or several."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxferry.demo.images.content import figures

ZOO = Path(__file__).parents[3] / "runtime" / "zoo"


def drawn(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    """Dark boxes (top, bottom, left, right) on white."""
    image = np.full((112, 112, 1), 255, np.uint8)
    for top, bottom, left, right in boxes:
        image[top:bottom, left:right] = 17
    return image


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_blank_image_has_nothing(level: int) -> None:
    assert figures(np.full((40, 30, 3), level, np.uint8)) == 0
    assert figures(np.full((1, 40, 1), level, np.uint8)) == 0


@pytest.mark.parametrize("invert", [False, True])
def test_figures_side_by_side_are_counted(invert: bool) -> None:
    cases = {
        1: drawn((20, 90, 50, 60)),
        2: drawn((20, 90, 20, 32), (22, 88, 70, 82)),
        3: drawn((20, 90, 10, 20), (20, 90, 45, 55), (20, 90, 80, 90)),
    }
    for count, image in cases.items():
        assert figures(255 - image if invert else image) == count


def test_parts_above_each_other_are_one_figure() -> None:
    """The bar of a five, drawn apart; and a speck of dust."""
    assert figures(drawn((20, 28, 40, 80), (36, 90, 40, 52))) == 1
    assert figures(drawn((20, 90, 50, 62), (10, 12, 100, 102))) == 1


def test_no_held_out_digit_is_taken_for_several() -> None:
    with np.load(ZOO / "digits" / "examples.npz") as arrays:
        assert [figures(image) for image in arrays["images"]] == [1] * len(arrays["images"])
