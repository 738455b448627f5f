"""Compress, by AppTest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from onnxferry.demo.images.strokes import Stroke, write_strokes
from onnxferry.demo.pages.compress import difference, score_words
from onnxferry.demo.widgets import components, pad

Show = Callable[..., AppTest]


def test_an_example_is_drawn_again_and_scored(show: Show, well, html) -> None:
    page = show("compress", digit="4")
    well(page)
    assert "rebuilt from" in html(page)
    assert "Strangeness: " in html(page)
    assert "alarm above" in html(page)
    assert "784 bytes in 6 numbers of 4 bytes: 32.7 to 1." in [each.value for each in page.caption]


def test_strange_things(show: Show, well, html) -> None:
    page = show("compress", **{"from": "Strange things"})
    well(page)
    assert "never seen at all" in page.markdown[0].value


def test_a_moved_latent_draws_another_image(show: Show, well, html, monkeypatch: pytest.MonkeyPatch) -> None:
    before = html(show("compress"))
    assert "where they differ" in before
    monkeypatch.setattr(components, "latent_bank", lambda key, image, encoded, *_: encoded + np.float32(3))
    page = show("compress")
    well(page)
    assert "your version" in html(page)
    assert "reads your version as" in html(page)
    assert html(page) != before


def test_a_drawing_is_framed(show: Show, well, html, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = write_strokes([Stroke(24, np.array([[70.0, 30.0], [70.0, 300.0]]))])
    monkeypatch.setattr(pad, "drawing_pad", lambda key, given: (drawn, True))
    page = show("compress", **{"from": "Draw"})
    well(page)
    assert "rebuilt from" in html(page)


def test_an_empty_pad_invites(show: Show, well) -> None:
    page = show("compress", **{"from": "Draw"})
    well(page)
    assert "appears here" in page.info[0].value


@pytest.mark.parametrize("frame", [True, False])
def test_an_upload(show: Show, well, html, frame: bool) -> None:
    from onnxferry.demo.widgets.html import png

    page = show("compress", **{"from": "Upload"})
    image = np.full((90, 60, 3), 250, np.uint8)
    image[20:70, 25:32] = 10
    page.file_uploader[0].upload("one.png", png(image), "image/png").run()
    page.toggle[0].set_value(frame).run()
    well(page)
    assert "rebuilt from" in html(page)


def test_bad_uploads_are_told_in_one_line(show: Show, huge_image: bytes) -> None:
    page = show("compress", **{"from": "Upload"})
    page.file_uploader[0].upload("text.png", b"text", "image/png").run()
    assert not page.exception
    assert "not an image" in page.error[0].value
    other = show("compress", **{"from": "Upload"})
    other.file_uploader[0].upload("huge.png", huge_image, "image/png").run()
    assert not other.exception
    assert "100 megapixels" in other.error[0].value


def test_a_model_that_is_not_there_is_one_line(show: Show, well, tmp_path: Path) -> None:
    page = show("compress", zoo=tmp_path)
    well(page)
    assert "does not ship" in page.info[0].value


def test_difference_and_words() -> None:
    image = np.array([[[0], [200]]], np.uint8)
    np.testing.assert_array_equal(difference(image, np.array([[[0], [190]]], np.uint8)), [[255, 245]])
    assert score_words(0.3, 0.1).startswith("Not like")
    assert score_words(0.05, 0.1) == "Looks like a digit. Strangeness 0.0500 (alarm above 0.1000)."


def test_a_link_carries_moved_numbers_and_bad_ones_are_forgiven(show: Show, well, html) -> None:
    page = show("compress", z="1:2.5")
    well(page)
    assert "your version" in html(page)
    page = show("compress", z="9999:x")
    well(page)
    assert "your version" not in html(page)
