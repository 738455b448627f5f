"""Imagine, by AppTest."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from onnxferry.demo.images.animation import animation
from onnxferry.demo.images.strokes import Stroke, write_strokes
from onnxferry.demo.pages.imagine import WALK_STEPS, real_images
from onnxferry.demo.shipped.models import Examples
from onnxferry.runtime import ImageGenerator, load

Show = Callable[..., AppTest]


def images(html: str, alt: str) -> list[np.ndarray]:
    found = re.findall(rf'<img alt="{alt}[^"]*" src="data:image/png;base64,([^"]*)"', html)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(each)))) for each in found]


def test_a_grid_of_the_class_and_seed_asked_for(show: Show, well, html, tiny_zoo: Path) -> None:
    page = show("imagine", **{"class": "3", "from_seed": "5", "count": "9"})
    well(page)
    with load(tiny_zoo / "digits-gan" / "digits-gan.onnx") as model:
        assert isinstance(model, ImageGenerator)
        expected = model.sample(9, labels="3", seed=5)
    np.testing.assert_array_equal(images(html(page), "Generated image of 3"), expected)
    assert len(images(html(page), "Real image of 3")) == 3


def test_all_classes_in_turn_and_the_next_seed(show: Show, well, html) -> None:
    page = show("imagine")
    well(page)
    before = images(html(page), "Generated")
    assert len(before) == 16
    next(button for button in page.button if button.label == "Another set").click().run()
    well(page)
    assert page.session_state["from_seed"] == 1
    assert not np.array_equal(before, images(html(page), "Generated"))


def test_a_single_image(show: Show, well, html) -> None:
    page = show("imagine", count="1")
    well(page)
    assert len(images(html(page), "Generated")) == 1


def test_the_walk_begins_and_ends_at_its_seeds(show: Show, well, html, tiny_zoo: Path) -> None:
    with load(tiny_zoo / "digits-gan" / "digits-gan.onnx") as model:
        assert isinstance(model, ImageGenerator)
        ends = [model.sample(1, labels="8", seed=seed)[0] for seed in (11, 12)]
    page = show("imagine", view="walk", walk_from="11", walk_to="12", walk_class="8")
    well(page)
    for step, expected in ((0, ends[0]), (WALK_STEPS - 1, ends[1])):
        (here,) = images(html(page), f"8 at step {step}")
        assert np.abs(here.astype(int) - expected).max() <= 1


def test_a_walk_is_an_animation_there_and_back() -> None:
    made = np.stack([np.full((4, 4), 60 * i, np.uint8) for i in range(4)])
    with Image.open(io.BytesIO(animation(made, scale=2))) as gif:
        assert gif.size == (8, 8)
        assert gif.n_frames == 6  # type: ignore[attr-defined]
        assert gif.info["loop"] == 0


def test_an_animation_that_goes_round_does_not_come_back() -> None:
    made = np.stack([np.full((4, 4), 60 * i, np.uint8) for i in range(4)])
    with Image.open(io.BytesIO(animation(made, back=False))) as gif:
        assert gif.n_frames == 4  # type: ignore[attr-defined]


def test_the_corners_of_the_plane_are_the_seeds_images(show: Show, well, tiny_zoo: Path) -> None:
    page = show("imagine", view="plane", seed_a="11", seed_b="12", seed_c="13", walk_class="8")
    well(page)
    _, made, captions = page.session_state["plane_kept"]
    with load(tiny_zoo / "digits-gan" / "digits-gan.onnx") as model:
        assert isinstance(model, ImageGenerator)
        corners = [model.sample(1, labels="8", seed=seed)[0] for seed in (11, 12, 13)]
    assert len(made) == len(captions) == 231
    for position, corner in zip((0, 210, 230), corners, strict=True):
        assert np.abs(made[position][..., 0].astype(int) - corner).max() <= 1


def test_the_plane_between_drawings_has_what_was_drawn_at_its_corner(show: Show, well, tiny_zoo: Path) -> None:
    from onnxferry.demo.images.strokes import painted
    from onnxferry.demo.images.uploads import framed_like_mnist
    from onnxferry.runtime import Autoencoder

    strokes = [Stroke(24, np.array([[100.0, 60], [200, 60], [140, 280]]))]
    page = show("imagine", maker="digits-ae", b=write_strokes(strokes))
    well(page)
    made = page.session_state["plane_kept"][1]
    with load(tiny_zoo / "digits-ae" / "digits-ae.onnx") as model:
        assert isinstance(model, Autoencoder)
        expected = model.decode(model.encode(framed_like_mnist(painted(strokes), model.size)))[0]
    assert np.abs(made[210][..., 0].astype(int) - expected).max() <= 1


def test_what_another_reader_sees_stands_under_an_image(show: Show, well, html) -> None:
    """The tiny generator has learnt nothing: the shipped recogniser reads other digits than were asked for."""
    page = show("imagine", **{"class": "3"})
    well(page)
    assert re.search(r"3, read as \d", html(page))


def test_a_walk_between_one_and_the_same_seed(show: Show, well) -> None:
    well(show("imagine", view="walk", walk_from="3", walk_to="3"))


@pytest.mark.parametrize(
    "query",
    [
        {"class": "nobody"},
        {"count": "0"},
        {"from_seed": "x"},
        {"view": "nothing"},
        {"view": "plane", "at": "-1"},
        {"view": "plane", "at": "9999"},
        {"maker": "../../etc"},
    ],
)
def test_an_address_out_of_range_is_forgiven(show: Show, well, query: dict[str, str]) -> None:
    well(show("imagine", **query))


def test_a_model_that_is_not_there_is_one_line(show: Show, well) -> None:
    page = show("imagine", maker="fashion-gan")
    well(page)
    assert "does not ship" in page.info[0].value


def test_real_images_come_class_by_class_in_turn() -> None:
    images = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1)
    nothing = np.zeros(0, np.int64)
    examples = Examples(images, np.array([0, 0, 1, 1, 1, 2]), nothing, images[:0])
    chosen = real_images(examples, np.array([0, 1]), 4)
    assert [(int(image[0, 0, 0]), label) for image, label in chosen] == [(0, 0), (2, 1), (1, 0), (3, 1)]
    assert real_images(Examples(images, nothing, nothing, images[:0]), np.array([0]), 4) == []
