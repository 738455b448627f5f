"""Recognise: draw, upload, photograph or pick an image; what the model says of it, and which pixels made it say so."""

from __future__ import annotations

import time

import numpy as np
import streamlit as st

from onnxferry.demo.images import occlusion
from onnxferry.demo.images.uploads import read_upload
from onnxferry.demo.shipped import models
from onnxferry.demo.widgets import components, html
from onnxferry.demo.widgets.page import heading, show_errors
from onnxferry.runtime import Classifier, Prediction

MODELS = ("digits", "fashion")


SOURCES = ("Draw", "Upload", "Camera", "Examples", "Mistakes")


_SURE = 0.6  # below it the answer is shown as a guess


def page() -> None:
    """The page."""
    heading("Recognise", "Show the model an image and watch its answer. Everything runs on this machine, through the ONNX file alone.")
    with show_errors():
        left, right = st.columns([2, 5], vertical_alignment="bottom")
        name = left.segmented_control(
            "Model", MODELS, default="digits", required=True, key="model", bind="query-params", persist_state="session"
        )
        source = right.segmented_control(
            "Image from", SOURCES, wrap=True, default="Draw", required=True, key="source", bind="query-params", persist_state="session"
        )
        if name not in models.shipped(MODELS):
            st.info(models.not_shipped(str(name)))
            return
        _live(str(name), str(source))


@st.fragment
def _live(name: str, source: str) -> None:
    """All that changes while one draws: Streamlit runs this part alone."""
    with show_errors():
        model = models.opened(name, Classifier)
        given, said, why = st.columns([9, 11, 7], gap="medium")
        with given:
            image, truth = _image(name, source, model)
        if image is None:
            said.html(html.answer("?", _INVITATIONS[source], sure=False))
            return
        with said:
            prediction = _say(model, image, truth)
        # After the answer, which is on its way to the reader by now.
        with why:
            _explain(model, image, prediction)


_INVITATIONS = {
    "Draw": "Draw on the pad: the answer comes as you draw.",
    "Upload": "Upload an image: any size, dark on light or light on dark.",
    "Camera": "Take a photo of something written on paper.",
    "Examples": "This model ships no examples.",
    "Mistakes": "No mistakes among the examples that ship with this model.",
}


def _image(name: str, source: str, model: Classifier) -> tuple[np.ndarray | None, str]:
    """The image from the source that was chosen, uint8 (height, width, channels), and its true label, "" where it is not known."""
    if source == "Draw":
        return components.drawing_pad(f"pad_{name}"), ""
    if source == "Upload":
        file = st.file_uploader("An image", type=["png", "jpg", "jpeg", "gif", "bmp", "webp", "tif", "tiff"], max_upload_size=32)
        return (None if file is None else read_upload(file.getvalue(), file.name)), ""
    if source == "Camera":
        photo = st.camera_input("A photo")
        return (None if photo is None else read_upload(photo.getvalue(), "the photo")), ""
    return _example(name, model, mistakes=source == "Mistakes")


def _example(name: str, model: Classifier, *, mistakes: bool) -> tuple[np.ndarray | None, str]:
    examples = models.examples(name)
    positions = examples.mistakes if mistakes else examples.right
    if not len(positions):
        return None, ""
    truths = [model.labels[index] for index in examples.labels[positions]]
    names = truths
    if mistakes:
        names = [f"{truth}, read as {model.labels[said]}" for truth, said in zip(truths, examples.predicted[positions], strict=True)]
    key = "mistake" if mistakes else "example"
    asked = st.query_params.get(key, "")
    first = min(int(asked), len(positions) - 1) if asked.isascii() and asked.isdigit() and len(asked) < 6 else 0
    title = "Test images that the model gets wrong" if mistakes else "Test images that the model never learnt from"
    st.markdown(f"**{title}**")
    images = [examples.images[position] for position in positions]
    chosen = components.gallery(f"{key}_{name}", title, images, names, first)
    if str(chosen) != asked and (chosen or asked):
        st.query_params[key] = str(chosen)
    return images[chosen], truths[chosen]


def _say(model: Classifier, image: np.ndarray, truth: str) -> Prediction:
    started = time.perf_counter()
    (prediction,) = model.predict(image)
    took = 1000 * (time.perf_counter() - started)
    st.html(html.answer(prediction.label, verdict(prediction, truth), sure=prediction.probability >= _SURE))
    st.html(html.bars(model.labels, prediction.probabilities.tolist(), title="Probability of each class"))
    st.caption(f"The model took {took:.1f} ms on this machine.")
    return prediction


def verdict(prediction: Prediction, truth: str) -> str:
    """One sentence for a prediction; ``truth`` is "" where it is not known."""
    sure = f"{html.percent(prediction.probability)} sure"
    if truth:
        return f"{sure}. It is {truth}: {'right' if truth == prediction.label else 'wrong'}."
    return f"{sure}." if prediction.probability >= _SURE else f"only {sure}: a guess."


def _explain(model: Classifier, image: np.ndarray, prediction: Prediction) -> None:
    if not st.toggle("Which pixels mattered", value=True, key="why", bind="query-params", persist_state="session"):
        return
    small, weights = occlusion.heat_map(model, image, prediction.index)
    alt = f"The image with the pixels that spoke for {prediction.label} in orange and those against in blue"
    st.html(html.image(occlusion.overlay(small, weights), alt))
    st.caption(
        "Orange spoke for this answer, blue against it: each patch is covered in turn and the model asked again, "
        "all in one batch ([Zeiler & Fergus 2014](https://arxiv.org/abs/1311.2901))."
    )
