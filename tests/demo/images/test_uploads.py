"""Images from strangers."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from onnxferry.demo.images.uploads import ImageLimits, framed_like_mnist, has_light_ground, read_upload, shrink
from onnxferry.runtime.errors import InputError


def encoded(array: np.ndarray, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, format=kind)
    return stream.getvalue()


def test_a_small_image_is_as_it_was() -> None:
    array = np.random.default_rng(0).integers(0, 256, (30, 20, 3), np.uint8)
    np.testing.assert_array_equal(read_upload(encoded(array), "x.png"), array)


def test_a_large_one_is_shrunk() -> None:
    assert read_upload(encoded(np.zeros((100, 2000), np.uint8)), "x.png", ImageLimits(side=500)).shape == (25, 500, 1)
    assert shrink(np.zeros((1, 9000, 3), np.uint8), 100).shape == (1, 100, 3)


def test_too_many_pixels_are_refused_before_they_are_decoded() -> None:
    # The head claims 100 megapixels, and there is no pixel behind it: decoding would fail with other words.
    whole = encoded(np.zeros((10, 10), np.uint8))
    head = whole[:16] + (10_000).to_bytes(4, "big") * 2 + whole[24:29]
    import zlib

    claims = head + zlib.crc32(head[12:29]).to_bytes(4, "big") + whole[33:]
    with pytest.raises(InputError, match=r"100 megapixels \(10000 × 10000\)"):
        read_upload(claims, "x.png")


def test_more_than_pillow_ever_opens_is_refused_too() -> None:
    whole = encoded(np.zeros((10, 10), np.uint8))
    head = whole[:16] + (1_000_000).to_bytes(4, "big") * 2 + whole[24:29]
    import zlib

    with pytest.raises(InputError, match="too many pixels"):
        read_upload(head + zlib.crc32(head[12:29]).to_bytes(4, "big") + whole[33:], "x.png")


@pytest.mark.parametrize("data", [b"", b"text", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0", b"GIF89a"])
def test_what_is_no_image(data: bytes) -> None:
    with pytest.raises(InputError, match="x"):
        read_upload(data, "x")


def test_a_figure_is_framed_as_mnist_is() -> None:
    image = np.full((100, 60, 1), 255, np.uint8)  # dark on light, in a corner
    image[5:45, 4:12] = 0
    framed = framed_like_mnist(image)
    assert framed.shape == (28, 28, 1)
    rows, columns = np.nonzero(framed[..., 0] > 128)
    assert rows.max() - rows.min() + 1 == 20
    assert abs(rows.mean() - 13.5) <= 1
    assert abs(columns.mean() - 13.5) <= 1
    np.testing.assert_array_equal(framed_like_mnist(255 - image), framed)


def test_an_empty_image_stays_empty() -> None:
    assert framed_like_mnist(np.full((40, 40, 1), 255, np.uint8)).max() == 0


def test_the_ground_is_judged_by_the_edge() -> None:
    assert has_light_ground(np.full((4, 4, 1), 200, np.uint8))
    assert not has_light_ground(np.zeros((4, 4, 3), np.uint8))
