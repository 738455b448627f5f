"""Triangular grids, and mixtures on them."""

from __future__ import annotations

import numpy as np
import pytest

from onnxferry.demo.images.planes import mixed, outline, triangle


def test_shares_sum_to_one_and_the_corners_are_pure() -> None:
    shares = triangle(4)
    assert shares.shape == (15, 3)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    np.testing.assert_array_equal(shares[[0, 10, 14]], np.eye(3))


def test_the_outline_goes_round_in_single_steps() -> None:
    way = triangle(5)[outline(5)]
    assert len(way) == 15
    assert (way.min(axis=1) == 0).all()  # each is on a side
    np.testing.assert_allclose(np.abs(way - np.roll(way, -1, axis=0)).sum(axis=1), 0.4)


@pytest.mark.parametrize("noise", [True, False])
def test_a_corner_is_what_stands_there(noise: bool) -> None:
    corners = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    np.testing.assert_allclose(mixed(corners, triangle(3), noise=noise)[[0, 6, 9]], corners, rtol=1e-6)


def test_mixtures_of_noise_are_as_long_as_noise() -> None:
    corners = np.random.default_rng(0).standard_normal((3, 20_000))
    lengths = mixed(corners, triangle(6), noise=True).std(axis=1)
    np.testing.assert_allclose(lengths, 1, atol=0.03)
