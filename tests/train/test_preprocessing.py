"""Preprocessing: an image that is already placed passes unchanged, and neither colours, size nor position of a figure matter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from onnxferry.train.data.images import read_embedded_digits
from onnxferry.train.preprocessing import Preprocessing, area_weights, center_square_uint8


@pytest.fixture(scope="module")
def digits() -> torch.Tensor:
    return torch.from_numpy(read_embedded_digits()[0][::50].copy())  # uint8 (100, 28, 28, 1)


def framed(images: torch.Tensor) -> torch.Tensor:
    return Preprocessing("ink", 28)(images)


def test_mnist_images_pass_nearly_unchanged(digits: torch.Tensor) -> None:
    difference = (framed(digits)[:, 0] - digits[..., 0] / 255).abs().amax(dim=(1, 2))
    # 2 % of MNIST has its centre of mass so close to a pixel's edge that the mass threshold moves it by a pixel,
    # and a few images have no pixel of full strength, so that they are amplified a little.
    assert (difference < 0.02).float().mean() >= 0.95


def test_inverted_and_coloured_images_frame_alike(digits: torch.Tensor) -> None:
    expected = framed(digits)
    torch.testing.assert_close(framed(255 - digits), expected, rtol=0, atol=1e-6)
    mix = digits.float() / 255
    ground, figure = torch.tensor([30.0, 60.0, 200.0]), torch.tensor([250.0, 200.0, 20.0])
    coloured = (ground + (figure - ground) * mix).round().to(torch.uint8)
    # Rounding to whole levels moves each pixel by at most half a level of 220.
    torch.testing.assert_close(framed(coloured), expected, rtol=0, atol=0.03)


@pytest.mark.parametrize(("size", "place"), [(56, (0, 0)), (100, (60, 5)), (200, (100, 150))])
def test_a_small_figure_anywhere_in_a_large_frame_is_found(digits: torch.Tensor, size: int, place: tuple[int, int]) -> None:
    canvas = torch.zeros(len(digits), size, size, 1, dtype=torch.uint8)
    canvas[:, place[0] : place[0] + 28, place[1] : place[1] + 28] = digits
    torch.testing.assert_close(framed(canvas), framed(digits), rtol=0, atol=1e-5)


def test_enlarged_figures_look_like_the_originals(digits: torch.Tensor) -> None:
    large = np.stack([np.asarray(Image.fromarray(d[..., 0].numpy()).resize((200, 200), Image.Resampling.BICUBIC)) for d in digits])
    difference = (framed(torch.from_numpy(large)[..., None]) - framed(digits)).abs().mean()
    assert difference < 0.05  # mean ink is 0.13: a blank or misplaced figure gives 0.1 and more


def test_blank_and_tiny_images_are_finite_and_blank() -> None:
    for shape in ((1, 1, 1, 1), (2, 3, 90, 1), (1, 28, 28, 3)):
        out = framed(torch.full(shape, 77, dtype=torch.uint8))
        assert out.shape == (shape[0], 1, 28, 28)
        assert torch.equal(out, torch.zeros_like(out))


def test_fit_takes_the_middle_square_and_averages_areas() -> None:
    image = torch.zeros(4, 8, 1, dtype=torch.uint8)
    image[:, 2:4] = 100
    image[:, 4:6] = 200
    small = center_square_uint8(image, 2)
    assert small[..., 0].tolist() == [[100, 200], [100, 200]]


def test_area_weights_are_linear_interpolation_when_enlarging() -> None:
    weights = area_weights(4, torch.arange(2.0), torch.tensor([1.0]), torch.tensor([0.5]))[0]
    # Output middles at 0.25, 0.75, 1.25, 1.75 source pixels; source middles at 0.5 and 1.5; half a pixel hangs over the edge.
    assert torch.allclose(weights, torch.tensor([[0.75, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 0.75]]))


def test_a_row_does_not_depend_on_its_neighbours(digits: torch.Tensor) -> None:
    torch.testing.assert_close(framed(digits[:1]), framed(digits)[:1], rtol=0, atol=1e-6)
