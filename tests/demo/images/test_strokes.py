"""Drawings as text: what a browser sends is untrusted, and what is written is read back."""

from __future__ import annotations

import numpy as np
import pytest

from onnxferry.demo.images.strokes import DIGITS, LONGEST, PAINTED, SIDE, Stroke, painted, read_strokes, write_strokes

SEVEN = [Stroke(24, np.array([[100, 80], [230.25, 80.5], [150, 270]])), Stroke(9, np.array([[10.0, 10.0]]))]


def test_strokes_come_back_to_a_quarter_of_a_pixel() -> None:
    back = read_strokes(write_strokes(SEVEN))
    assert [each.width for each in back] == [24, 9]
    for one, other in zip(SEVEN, back, strict=True):
        np.testing.assert_array_equal(one.points, other.points)


@pytest.mark.parametrize("text", [None, 7, [], "", ".", "Y", "YAAA", "YAAAAé", "Y%%%%", "YAAAA..", DIGITS[0] * (LONGEST + 1)])
def test_what_is_no_drawing_is_none(text: object) -> None:
    assert read_strokes(text) == []


def test_points_stay_on_the_pad() -> None:
    (stroke,) = read_strokes("Y____")
    assert stroke.points.max() == SIDE


def test_strokes_are_painted_with_round_ends() -> None:
    image = painted(SEVEN)
    assert image.shape == (PAINTED, PAINTED, 1)
    assert image[27, 50, 0] < 40  # on the bar
    assert image[3, 3, 0] < 200  # a touch is a dot
    assert (image[60:, 90:] == 255).all()
    assert (painted([]) == 255).all()
