"""Compress: an image to a few numbers and back; move a number and watch; how strange is it?"""

from __future__ import annotations

import hashlib

import numpy as np
import streamlit as st

from onnxferry.demo.images.uploads import framed_like_mnist, read_upload
from onnxferry.demo.shipped import models
from onnxferry.demo.widgets import components, html
from onnxferry.demo.widgets.page import heading, show_errors
from onnxferry.runtime import Autoencoder

MODEL = "digits-ae"


SOURCES = ("Examples", "Strange things", "Draw", "Upload")


def page() -> None:
    """The page."""
    heading("Compress", "The encoder boils an image down to a few numbers; the decoder draws it again from those alone.")
    with show_errors():
        if not models.shipped([MODEL]):
            st.info(models.not_shipped(MODEL))
            return
        source = st.segmented_control(
            "Image from", SOURCES, wrap=True, default="Examples", required=True, key="from", bind="query-params", persist_state="session"
        )
        _live(str(source))


@st.fragment
def _live(source: str) -> None:
    with show_errors():
        model = models.opened(MODEL, Autoencoder)
        left, right = st.columns([4, 7], gap="large")
        with left:
            image = _image(model, source)
        with right:
            if image is None:
                st.info("Choose, draw or upload an image, and it appears here.")
                return
            _compress(model, image)


def _image(model: Autoencoder, source: str) -> np.ndarray | None:
    if source == "Draw":
        drawn = components.drawing_pad("pad_ae")
        return None if drawn is None else framed_like_mnist(drawn)
    if source == "Upload":
        file = st.file_uploader("An image", type=["png", "jpg", "jpeg", "gif", "bmp", "webp", "tif", "tiff"], max_upload_size=32)
        if file is None:
            return None
        image = read_upload(file.getvalue(), file.name)
        frame = st.toggle("Frame it as the training digits are", value=True, help="Light on dark, centred, 20 pixels long.")
        return framed_like_mnist(image, model.size) if frame else image
    examples = models.examples(MODEL)
    images = examples.strange if source == "Strange things" else examples.images
    if not len(images):
        return None
    names = [f"strange image {i + 1}" for i in range(len(images))]
    if source == "Examples":
        names = [f"a handwritten {label}" for label in examples.labels]
        st.markdown("**Digits that it never learnt from**")
    else:
        st.markdown("**Clothes, which it has never seen at all**")
    key = "strange" if source == "Strange things" else "digit"
    asked = st.query_params.get(key, "")
    first = min(int(asked), len(images) - 1) if asked.isascii() and asked.isdigit() and len(asked) < 6 else 0
    chosen = components.gallery(f"ae_{key}", "Images to compress", list(images), names, first)
    if str(chosen) != asked and (chosen or asked):
        st.query_params[key] = str(chosen)
    example: np.ndarray = images[chosen]
    return example


def _compress(model: Autoencoder, image: np.ndarray) -> None:
    outputs = dict(model.run_each([(0, image)], ["reconstruction", "latent", "anomaly_score"]))[0]
    latent, score = outputs["latent"], float(outputs["anomaly_score"])
    reach = max(3.0, 1.2 * float(np.abs(latent).max(initial=0.0)))
    shown, sliders = st.container(), st.container()
    with sliders:
        st.markdown(f"**Its {model.latent} numbers.** Move one and watch.")
        digest = hashlib.sha256(image.tobytes()).hexdigest()[:16]
        moved = components.latent_bank("bank", digest, latent, reach)
    touched = not np.array_equal(moved, latent)
    decoded = model.decode(moved[None])[0] if touched else outputs["reconstruction"]
    with shown:
        figures = [
            html.image(image, "The image", "the image"),
            html.image(outputs["reconstruction"], "Its reconstruction", "drawn again"),
        ]
        small = image.shape[:2] == outputs["reconstruction"].shape[:2] and image.shape[2] == outputs["reconstruction"].shape[2]
        if small:
            figures.append(html.image(difference(image, outputs["reconstruction"]), "Where the two differ", "where they differ"))
        caption = "your numbers" if touched else "move a number below"
        figures.append(html.image(decoded, "Drawn from the numbers below", caption))
        st.html(html.strip(figures))
        st.html(html.meter(score, model.threshold, name="Anomaly score", words=score_words(score, model.threshold)))
        st.caption(f"{image.size:,} pixels in {model.latent} numbers: {image.size / model.latent:.0f} to 1.")


def difference(image: np.ndarray, made: np.ndarray) -> np.ndarray:
    """How far two uint8 images of one shape are apart, as a uint8 image (height, width), white for not at all."""
    apart: np.ndarray = np.abs(image.astype(int) - made.astype(int)).max(axis=2)
    return (255 - apart).astype(np.uint8)


def score_words(score: float, threshold: float) -> str:
    """The score against its threshold, in words."""
    if score > threshold:
        return f"Anomaly score {score:.4f}, above the threshold {threshold:.4f}: this is not like what it has learnt."
    return f"Anomaly score {score:.4f}, below the threshold {threshold:.4f}: an ordinary one. The score is the mean squared error."
