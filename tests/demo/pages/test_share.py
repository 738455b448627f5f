"""A link from every page, and a word where it cannot carry what one sees."""

from __future__ import annotations

import io
import json
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

# Not review, whose models the zoo of these tests has not: see test_review.py.
PAGES = (
    "crossing",
    "recognise",
    "find",
    "write",
    "translate",
    "imagine",
    "compress",
    "train",
    "game",
    "your_model",
    "under_the_hood",
)


def carried(page: AppTest) -> list[dict[str, str]]:
    """What each of a page's Share buttons adds to the address."""
    found = [each.proto.bidi_component if hasattr(each.proto, "bidi_component") else each.proto for each in page.get("bidi_component")]
    shares = [json.loads(each.json) for each in found if each.component_name.endswith("onnxferry_share")]
    return [each["carries"] for each in shares if each["words"]["share"] == "Copy link"]


@pytest.mark.parametrize("name", PAGES)
def test_every_page_has_one_share_button(show: Callable[..., AppTest], well, name: str) -> None:
    page = show(name)
    well(page)
    assert len(carried(page)) == 1


@pytest.mark.parametrize(("name", "query"), [("recognise", "source"), ("find", "source find"), ("compress", "from")])
def test_a_page_says_that_a_link_carries_no_file(show: Callable[..., AppTest], well, name: str, query: str) -> None:
    page = show(name, **{query: "Upload"})
    stream = io.BytesIO()
    image = np.full((90, 90), 255, np.uint8)
    image[15:75, 40:50] = 0
    Image.fromarray(image).save(stream, format="PNG")
    page.file_uploader[0].upload("one.png", stream.getvalue(), "image/png").run()
    well(page)
    assert len(carried(page)) == 1
    assert any("not a file or a photo" in each.value for each in page.caption)


def test_a_link_to_a_scene_shows_that_scene(show: Callable[..., AppTest], well, html) -> None:
    shown = []
    for scene in ("0", "3"):
        page = show("find", **{"source find": "Examples", "scene": scene})
        well(page)
        shown.append(html(page))
    assert shown[0] != shown[1]
