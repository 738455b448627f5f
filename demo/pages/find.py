"""Find: draw, upload or photograph several digits; a box around each, and the number that they are."""

from __future__ import annotations

import time

import numpy as np
import streamlit as st

from onnxferry.demo.images.strokes import painted, read_strokes
from onnxferry.demo.images.uploads import read_upload
from onnxferry.demo.shipped import models
from onnxferry.demo.widgets import components, html, pad
from onnxferry.demo.widgets.choices import choose, whole_from_address
from onnxferry.demo.widgets.page import heading, show_errors
from onnxferry.demo.words.language import say
from onnxferry.runtime import Detections, Detector
from onnxferry.runtime.formats import human_bytes
from onnxferry.runtime.images.boxes import draw_boxes
from onnxferry.runtime.images.photo import without_background

MODEL = "digit-scenes"


SOURCES = ("Draw", "Upload", "Camera", "Examples")


PAINTED = 160
"""Pixels of the side of a drawing: digits that fill a third of the pad are as large as those that the network has learnt."""


def page() -> None:
    """The page."""
    with show_errors():
        there = models.shipped([MODEL])
        size = human_bytes(models.card(MODEL).path.stat().st_size) if there else ""
        heading(say("find.title"), say("find.lead", size=size))
        if not there:
            st.info(models.not_shipped(MODEL))
            return
        with st.container(key="choices"):
            source = choose(say("input"), SOURCES, "source find", default="Draw", names={each: say(f"input.{each}") for each in SOURCES})
        with st.container(key="live"):
            _live(source)


@st.fragment
def _live(source: str) -> None:
    """All that changes while one draws: Streamlit runs this part alone."""
    with show_errors():
        model = models.opened(MODEL, Detector)
        left, right = st.columns([1, 1], gap="medium")
        with left:
            image = _given(source)
        with right:
            answer = st.container(key="answer")  # above the pad where the screen is narrow
            if image is None:
                with answer:
                    components.patched("said", html.answer("?", say(f"find.invite.{source}"), sure=False, reading=say("recognise.reading")))
                return
            _say(answer, model, image)


def _given(source: str) -> np.ndarray | None:
    """What the chosen source gives, uint8 (height, width, channels)."""
    if source == "Draw":
        with st.container(key="pad"):
            text, _ = pad.drawing_pad("pad_find", st.query_params.get("drawing", ""))
            strokes = read_strokes(text)
            components.share_button("share", {"drawing": text if strokes else ""})
        return painted(strokes, PAINTED) if strokes else None
    if source == "Examples":
        images = models.examples(MODEL).images
        if not len(images):
            return None
        names = [say("find.example", number=number + 1) for number in range(len(images))]
        chosen = components.gallery("found", say("find.examples"), list(images), names, whole_from_address("scene", len(images) - 1))
        if str(chosen) != st.query_params.get("scene", "") and (chosen or "scene" in st.query_params):
            st.query_params["scene"] = str(chosen)
        components.share_button("share", {"drawing": ""})
        example: np.ndarray = images[chosen]
        return example
    if source == "Upload":
        file = st.file_uploader(
            say("input.an image"), type=["png", "jpg", "jpeg", "gif", "bmp", "webp", "tif", "tiff"], max_upload_size=32, key="image"
        )
    else:
        file = st.camera_input(say("input.a photo"), key="photo")
    components.share_without_file("share")
    if file is None:
        return None
    return without_background(read_upload(file.getvalue(), file.name if source == "Upload" else say("input.a photo")))


def _say(answer: st.delta_generator.DeltaGenerator, model: Detector, image: np.ndarray) -> None:
    started = time.perf_counter()
    found = model.detect(image)
    took = 1000 * (time.perf_counter() - started)
    number = " / ".join(found.text.splitlines())
    words = say("find.count", count=len(found)) if found else say("find.nothing")
    with answer:
        components.patched("said", html.answer(number or "–", words, sure=bool(found), reading=say("recognise.reading")))
    drawn = draw_boxes(image, [each.box for each in found], [each.label for each in found], [each.index for each in found])
    shown = html.image(drawn, say("find.alt", number=number or "–")) + (_scores(found) if found else "")
    components.patched("boxes", shown + html.caption(say("find.took", took=f"{took:.1f}")))


def _scores(found: Detections) -> str:
    """From left to right, how sure the network is of each."""
    rows = [(each.label, each.score, html.percent(each.score)) for line in found.lines() for each in line]
    return html.scale_bars(rows, title=say("find.scores"))
