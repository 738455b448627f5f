"""Find, by AppTest: a drawing, an example, an upload, and a zoo without the model."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from onnxferry.demo.images.strokes import Stroke, write_strokes
from onnxferry.demo.widgets import pad

Show = Callable[..., AppTest]

ONE_ONE = write_strokes([Stroke(9, np.array([[x, 100.0], [x, 220.0]])) for x in (110.0, 220.0)])


def test_an_empty_pad_invites(show: Show, well, html) -> None:
    page = show("find")
    well(page)
    assert "Write two or three digits" in html(page)


def test_a_drawing_is_read(show: Show, well, html, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pad, "drawing_pad", lambda key, given: (ONE_ONE, True))
    page = show("find")
    well(page)
    assert "11</strong>" in html(page)
    assert "found: 2" in html(page)
    assert "non-maximum suppression included" in html(page)


def test_an_example_and_an_upload(show: Show, well, html, monkeypatch: pytest.MonkeyPatch) -> None:
    page = show("find", **{"source find": "Examples"})
    well(page)
    assert "a box around each digit" in html(page)
    page = show("find", **{"source find": "Upload"})
    well(page)
    stream = io.BytesIO()
    Image.new("L", (90, 60), 240).save(stream, format="PNG")
    page.file_uploader[0].upload("blank.png", stream.getvalue(), "image/png").run()
    well(page)
    assert "I find no digit here" in html(page)
    page.file_uploader[0].upload("bad.png", b"no image", "image/png").run()
    assert "is not an image that can be read" in page.error[0].value


def test_it_is_not_shipped(show: Show, well, tmp_path: Path) -> None:
    page = show("find", zoo=tmp_path)
    well(page)
    assert "does not ship" in page.info[0].value
