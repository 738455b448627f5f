"""What a browser sends to the components is a stranger's: read, or taken for nothing."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from onnxferry.demo.widgets.components import moved_latents, pad_image


def test_a_drawing_is_read() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (56, 56, 1), np.uint8)
    sent = {"number": 3, "pixels": base64.b64encode(pixels.tobytes()).decode(), "strokes": []}
    np.testing.assert_array_equal(pad_image(sent), pixels)


@pytest.mark.parametrize(
    "state", [None, [], "x", {}, {"pixels": ""}, {"pixels": 7}, {"pixels": "%%%"}, {"pixels": "AAAA"}, {"pixels": "é"}]
)
def test_what_is_no_drawing_is_an_empty_pad(state: object) -> None:
    assert pad_image(state) is None


ENCODED = np.array([0.123456, -1.5, 9.0], np.float32)


def test_what_was_moved_moves_and_the_rest_stays_exactly() -> None:
    moved = moved_latents({"image": "a", "values": [0.12, 2.0, 3.0]}, "a", ENCODED, 3.0)
    np.testing.assert_array_equal(moved, np.array([0.123456, 2.0, 9.0], np.float32))


@pytest.mark.parametrize(
    "state",
    [
        None,
        {"image": "b", "values": [0, 0, 0]},
        {"image": "a", "values": [0, 0]},
        {"image": "a", "values": ["0", 0, 0]},
        {"image": "a", "values": "000"},
        7,
    ],
)
def test_what_belongs_to_another_image_or_to_none_moves_nothing(state: object) -> None:
    np.testing.assert_array_equal(moved_latents(state, "a", ENCODED, 3.0), ENCODED)


def test_numbers_that_are_none_are_kept_finite() -> None:
    assert np.isfinite(moved_latents({"image": "a", "values": [float("nan"), float("inf"), 0]}, "a", ENCODED, 3.0)).all()
