"""Compress: an image to a few numbers and back; move a number and watch; how strange is it?"""

from __future__ import annotations

import hashlib

import numpy as np
import streamlit as st

from onnxferry.demo.images.strokes import painted, read_strokes
from onnxferry.demo.images.uploads import framed_like_mnist, read_upload
from onnxferry.demo.shipped import models
from onnxferry.demo.widgets import components, html, pad
from onnxferry.demo.widgets.choices import choose, whole_from_address
from onnxferry.demo.widgets.page import heading, show_errors
from onnxferry.demo.words.language import say
from onnxferry.runtime import Autoencoder, Classifier
from onnxferry.runtime.images.photo import without_background

MODEL = "digits-ae"


READER = "digits"
"""The recogniser that reads what was made."""


SOURCES = ("Examples", "Strange things", "Draw", "Upload")


def page() -> None:
    """The page."""
    with show_errors():
        if not models.shipped([MODEL]):
            heading(say("compress.title"), "")
            st.info(models.not_shipped(MODEL))
            return
        model = models.opened(MODEL, Autoencoder)
        heading(say("compress.title"), say("compress.lead", count=model.latent))
        source = choose(say("input"), SOURCES, "from", default="Examples", names={each: say(f"input.{each}") for each in SOURCES})
        _live(source)


@st.fragment
def _live(source: str) -> None:
    with show_errors():
        model = models.opened(MODEL, Autoencoder)
        left, right = st.columns([4, 7], gap="large")
        with left:
            image, drawing = _image(model, source)
        with right:
            if image is None:
                st.info(say("compress.wait"))
                components.share_button("share", {"z": "", "drawing": ""})
                return
            _compress(model, image, drawing)


def _image(model: Autoencoder, source: str) -> tuple[np.ndarray | None, str]:
    """The image, uint8 (height, width, channels), and its strokes where it was drawn."""
    if source == "Draw":
        text = pad.drawing_pad("pad_ae", st.query_params.get("drawing", ""))[0]
        strokes = read_strokes(text)
        return (framed_like_mnist(painted(strokes)), text) if strokes else (None, "")
    if source == "Upload":
        file = st.file_uploader(
            say("input.an image"), type=["png", "jpg", "jpeg", "gif", "bmp", "webp", "tif", "tiff"], max_upload_size=32, key="image"
        )
        st.caption(say("menu.share.file"))
        if file is None:
            return None, ""
        image = read_upload(file.getvalue(), file.name)
        frame = st.toggle(say("compress.frame"), value=True, help=say("compress.frame.help"))
        return (framed_like_mnist(without_background(image), model.size) if frame else image), ""
    examples = models.examples(MODEL)
    images = examples.strange if source == "Strange things" else examples.images
    if not len(images):
        return None, ""
    names = [say("compress.strange.alt", number=i + 1) for i in range(len(images))]
    if source == "Examples":
        names = [say("compress.digit.alt", label=label) for label in examples.labels]
    st.markdown(f"**{say('compress.digits' if source == 'Examples' else 'compress.clothes')}**")
    key = "strange" if source == "Strange things" else "digit"
    chosen = components.gallery(f"ae_{key}", say("compress.gallery"), list(images), names, whole_from_address(key, len(images) - 1))
    if str(chosen) != st.query_params.get(key, "") and (chosen or key in st.query_params):
        st.query_params[key] = str(chosen)
    example: np.ndarray = images[chosen]
    return example, ""


def _compress(model: Autoencoder, image: np.ndarray, drawing: str) -> None:
    outputs = dict(model.run_each([(0, image)], ["reconstruction", "latent", "anomaly_score"]))[0]
    latent, score = outputs["latent"], float(outputs["anomaly_score"])
    reach = max(3.0, 1.2 * float(np.abs(latent).max(initial=0.0)))
    order, average = _shape(model)
    shown, sliders = st.container(key="strip"), st.container()
    with sliders:
        st.markdown(f"**{say('compress.numbers', count=model.latent)}.** {say('compress.numbers.help')}")
        digest = hashlib.sha256(image.tobytes()).hexdigest()[:16]
        moved = components.latent_bank("bank", digest, latent, reach, order.tolist(), average, st.query_params.get("z", ""))
        components.share_button("share", {"z": components.moves(moved, latent), "drawing": drawing})
    touched = not np.array_equal(moved, latent)
    with shown:
        figures = [
            html.image(image, say("compress.image"), say("compress.image")),
            html.image(outputs["reconstruction"], say("compress.rebuilt", count=model.latent), say("compress.rebuilt", count=model.latent)),
        ]
        made = model.decode(moved[None])[0] if touched else None
        if made is not None:
            figures.append(html.image(made, say("compress.yours"), say("compress.yours")))
        elif image.shape == outputs["reconstruction"].shape:
            apart = difference(image, outputs["reconstruction"])
            figures.append(html.image(apart, say("compress.apart"), say("compress.apart")))
        st.html(html.strip(figures))
        if made is None:
            words = score_words(score, model.threshold)
            st.html(html.meter(score, model.threshold, name=say("compress.score"), words=words))
        else:
            _yours(model, made)
    st.caption(say("compress.ratio", pixels=image.size, count=model.latent, ratio=f"{image.size / (4 * model.latent):.3g}"))


def _yours(model: Autoencoder, made: np.ndarray) -> None:
    """The image from the visitor's own numbers: how strange it is, and what a recogniser reads in it."""
    made = made if made.ndim == 3 else made[..., None]
    score = float(dict(model.run_each([(0, made)], ["anomaly_score"]))[0]["anomaly_score"])
    words = say("compress.yours.odd" if score > model.threshold else "compress.yours.ordinary", score=f"{score:.4f}")
    if models.shipped([READER]):
        (read,) = models.opened(READER, Classifier).predict(made)
        words += " " + say("compress.yours.read", said=read.label, share=html.percent(read.probability))
    st.html(html.meter(score, model.threshold, name=say("compress.score"), words=words))


def _shape(model: Autoencoder) -> tuple[np.ndarray, np.ndarray]:
    """Which numbers change an image most, best first, int64 (n,); and those of the average example, float32 (n,)."""
    return _measured(str(model.engine.path), model)


@st.cache_resource(show_spinner=False)
def _measured(path: str, _model: Autoencoder) -> tuple[np.ndarray, np.ndarray]:
    images = models.examples(MODEL).images
    latents = _model.encode(list(images)) if len(images) else np.zeros((1, _model.latent), np.float32)
    average = latents.mean(axis=0)
    step = np.diag(latents.std(axis=0) + 1e-3).astype(np.float32)
    both = _model.decode(np.concatenate([average + step, average - step])).astype(np.float64)
    change = np.abs(both[: len(step)] - both[len(step) :]).reshape(len(step), -1).mean(axis=1)
    return np.argsort(-change, kind="stable"), average


def difference(image: np.ndarray, made: np.ndarray) -> np.ndarray:
    """How far two uint8 images of one shape are apart, as a uint8 image (height, width), white for not at all."""
    apart: np.ndarray = np.abs(image.astype(int) - made.astype(int)).max(axis=2)
    return (255 - apart).astype(np.uint8)


def score_words(score: float, threshold: float) -> str:
    """The score against its threshold, in words."""
    key = "compress.odd" if score > threshold else "compress.ordinary"
    return say(key, score=f"{score:.4f}", threshold=f"{threshold:.4f}")
