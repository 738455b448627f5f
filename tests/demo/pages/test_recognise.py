"""Recognise, by AppTest: each source of images, and bad ones."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from onnxferry.demo.images import occlusion
from onnxferry.demo.images.strokes import Stroke, write_strokes
from onnxferry.demo.pages.recognise import verdict
from onnxferry.demo.shipped import models
from onnxferry.demo.widgets import pad
from onnxferry.runtime import Prediction

Show = Callable[..., AppTest]

SEVEN = write_strokes([Stroke(24, np.array([[90.0, 90.0], [240.0, 86.0], [195.0, 170.0], [158.0, 270.0]]))])


def png(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, format="PNG")
    return stream.getvalue()


@pytest.fixture
def seven(tiny_zoo: Path) -> np.ndarray:
    with np.load(tiny_zoo / "digits" / "examples.npz") as arrays:
        return arrays["images"][arrays["labels"] == 7][0]  # (28, 28, 1)


def test_an_empty_pad_invites(show: Show, well, html) -> None:
    page = show("recognise")
    well(page)
    assert "the answer comes as you draw" in html(page)


def test_a_drawing_is_answered(show: Show, well, html, monkeypatch: pytest.MonkeyPatch, seven: np.ndarray) -> None:
    monkeypatch.setattr(pad, "drawing_pad", lambda key, given: (SEVEN, True))
    page = show("recognise")
    well(page)
    assert "<strong>7</strong>" in html(page)
    assert html(page).count("<li") == 10
    assert "spoke for 7 in orange" in html(page)
    assert html(page).count('class="of-tile"') == 24
    page.toggle[0].set_value(False).run()
    well(page)
    assert "orange" not in html(page)


def test_which_pixels_mattered_waits_until_the_pen_rests(show: Show, well, html, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pad, "drawing_pad", lambda key, given: (SEVEN, False))
    monkeypatch.setattr(occlusion, "heat_map", lambda *_: pytest.fail("the map was drawn"))
    page = show("recognise")
    well(page)
    assert "<strong>7</strong>" in html(page)
    assert "pen rests" in html(page)


def test_a_link_carries_the_drawing(show: Show, well, html) -> None:
    page = show("recognise", drawing=SEVEN)
    well(page)
    assert "<strong>7</strong>" in html(page)
    well(show("recognise", drawing="no drawing"))


@pytest.mark.parametrize(("boxes", "words"), [((), "I see nothing"), (((20, 40), (70, 90)), "I see 2 figures")])
def test_what_is_no_single_digit_gets_no_answer(show: Show, well, html, boxes: tuple, words: str) -> None:
    page = show("recognise", source="Upload")
    image = np.full((120, 120), 255, np.uint8)
    for left, right in boxes:
        image[20:100, left:right] = 0
    page.file_uploader[0].upload("image.png", png(image), "image/png").run()
    well(page)
    assert words in html(page)
    assert "of-bars" not in html(page)


def test_a_photograph_with_a_shadow_is_read_and_shown_as_it_was_read(show: Show, well, html, seven: np.ndarray) -> None:
    page = show("recognise", source="Upload")
    large = np.asarray(Image.fromarray(seven[..., 0]).resize((160, 160), Image.Resampling.BICUBIC)).astype(float) / 255
    paper = np.full((240, 320), 230.0)
    paper[40:200, 90:250] -= 170 * large
    paper *= 1 - 0.3 * np.linspace(0, 1, 320)  # the light falls off
    page.file_uploader[0].upload("photo.png", png(paper.round().astype(np.uint8)), "image/png").run()
    well(page)
    assert "<strong>7</strong>" in html(page)
    assert "background removed" in html(page)


def test_an_upload_is_answered(show: Show, well, html, seven: np.ndarray) -> None:
    page = show("recognise", source="Upload")
    well(page)
    assert "Upload an image" in html(page)
    page.file_uploader[0].upload("seven.png", png(seven[..., 0]), "image/png").run()
    well(page)
    assert "<strong>7</strong>" in html(page)


def test_a_photo_is_answered(show: Show, well, html, seven: np.ndarray) -> None:
    page = show("recognise", source="Camera")
    well(page)
    photo = io.BytesIO()
    Image.fromarray(255 - seven[..., 0]).resize((300, 300)).convert("RGB").save(photo, format="JPEG")
    page.camera_input[0].upload("photo.jpg", photo.getvalue(), "image/jpeg").run()
    well(page)
    assert "<strong>7</strong>" in html(page)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"this is text, whatever its name says", "not an image"),
        (b"", "not an image"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "not an image"),
    ],
)
def test_what_is_no_image_is_told_in_one_line(show: Show, content: bytes, told: str) -> None:
    page = show("recognise", source="Upload")
    page.file_uploader[0].upload("image.png", content, "image/png").run()
    assert not page.exception
    (error,) = page.error
    assert told in error.value
    assert "\n" not in error.value


def test_a_image_that_is_cut_is_told_in_one_line(show: Show) -> None:
    page = show("recognise", source="Upload")
    whole = png(np.random.default_rng(0).integers(0, 256, (90, 90), np.uint8))
    page.file_uploader[0].upload("cut.png", whole[: len(whole) // 2], "image/png").run()
    assert not page.exception
    assert "truncated" in page.error[0].value


def test_a_hundred_megapixels_are_refused(show: Show, huge_image: bytes) -> None:
    page = show("recognise", source="Upload")
    page.file_uploader[0].upload("huge.png", huge_image, "image/png").run()
    assert not page.exception
    assert "100 megapixels" in page.error[0].value


def test_examples_and_mistakes_say_the_truth(show: Show, well, html, tiny_zoo: Path) -> None:
    page = show("recognise", source="Examples", example="13")
    well(page)
    assert "Correct: it is" in html(page)
    page = show("recognise", source="Mistakes", mistake="2")
    well(page)
    assert "Wrong: it is" in html(page)
    wrong = models.examples("digits")
    assert f"it is {wrong.labels[wrong.mistakes[2]]}" in html(page)


@pytest.mark.parametrize("asked", ["-1", "x", "99999", "99999999999999999999", "²"])
def test_an_address_that_names_no_example_is_forgiven(show: Show, well, asked: str) -> None:
    page = show("recognise", source="Mistakes", mistake=asked)
    well(page)


def test_the_other_model(show: Show, well, html) -> None:
    page = show("recognise", model="fashion", source="Examples")
    well(page)
    assert "Ankle boot" in html(page)


def test_a_model_that_is_not_there_is_one_line(show: Show, well, tmp_path: Path) -> None:
    page = show("recognise", zoo=tmp_path)
    well(page)
    assert [each.value for each in page.info] == [models.not_shipped("digits")]


def test_verdicts() -> None:
    sure, unsure = (Prediction("7", 7, p, np.zeros(10, np.float32)) for p in (0.99999, 0.4))
    assert verdict(sure, "") == "> 99.99 % sure."
    assert verdict(unsure, "") == "only 40.0 % sure: a guess."
    assert verdict(sure, "7") == "> 99.99 % sure. Correct: it is 7."
    assert verdict(unsure, "1") == "40.0 % sure. Wrong: it is 1."


def test_what_is_no_digit_is_said_to_be_none(show: Show, well, html, monkeypatch: pytest.MonkeyPatch) -> None:
    zigzag = 336 * np.array([(0.2, 0.3), (0.3, 0.7), (0.4, 0.3), (0.5, 0.7), (0.6, 0.3), (0.7, 0.7), (0.8, 0.3)])
    monkeypatch.setattr(pad, "drawing_pad", lambda key, given: (write_strokes([Stroke(24, zigzag)]), True))
    page = show("recognise")
    well(page)
    assert "Probably none of the digits" in html(page)
