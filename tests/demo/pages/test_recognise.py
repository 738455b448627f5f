"""Recognise, by AppTest: each source of images, and bad ones."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from onnxferry.demo.pages.recognise import verdict
from onnxferry.demo.shipped import models
from onnxferry.demo.widgets import components
from onnxferry.runtime import Prediction

Show = Callable[..., AppTest]


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
    monkeypatch.setattr(components, "drawing_pad", lambda key: 255 - seven)
    page = show("recognise")
    well(page)
    assert "<strong>7</strong>" in html(page)
    assert html(page).count("<li") == 10
    assert "spoke for 7 in orange" in html(page)
    page.toggle[0].set_value(False).run()
    well(page)
    assert "orange" not in html(page)


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
    assert ": right." in html(page)
    page = show("recognise", source="Mistakes", mistake="2")
    well(page)
    assert ": wrong." in html(page)
    wrong = models.examples("digits")
    assert f"It is {wrong.labels[wrong.mistakes[2]]}" in html(page)


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
    assert verdict(sure, "7") == "> 99.99 % sure. It is 7: right."
    assert verdict(unsure, "1") == "40.0 % sure. It is 1: wrong."
