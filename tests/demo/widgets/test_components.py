"""What a browser sends to the components is a stranger's: read, or taken for nothing."""

from __future__ import annotations

import numpy as np
import pytest

from onnxferry.demo.widgets.components import moved_latents, moves, with_moves

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


def test_what_was_moved_travels_in_a_link() -> None:
    moved = ENCODED.copy()
    moved[1] = 2.25
    assert moves(moved, ENCODED) == "1:2.25"
    np.testing.assert_array_equal(with_moves(moves(moved, ENCODED), ENCODED, 12.0), moved)
    np.testing.assert_array_equal(with_moves("1:99", ENCODED, 3.0), [ENCODED[0], 3, ENCODED[2]])


@pytest.mark.parametrize("text", ["", "x", "1", "1:x", "7:1", "-1:1", "1:nan", "1:inf", ",", "1:2," * 900])
def test_a_link_that_says_nothing_moves_nothing(text: str) -> None:
    np.testing.assert_array_equal(with_moves(text, ENCODED, 3.0), ENCODED)
