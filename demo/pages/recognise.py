"""Recognise: draw, upload, photograph or pick an image; what the model says of it, which pixels made it say so, and what went on inside."""

from __future__ import annotations

import time
from dataclasses import dataclass
from html import escape

import numpy as np
import streamlit as st

from onnxferry.demo.images import content, occlusion
from onnxferry.demo.images.strokes import painted, read_strokes
from onnxferry.demo.images.uploads import read_upload
from onnxferry.demo.shipped import maps, models
from onnxferry.demo.widgets import components, html, network, pad
from onnxferry.demo.widgets.choices import choose, whole_from_address
from onnxferry.demo.widgets.page import heading, show_errors
from onnxferry.demo.words.language import say
from onnxferry.runtime import Classifier, Prediction
from onnxferry.runtime.formats import human_bytes
from onnxferry.runtime.images.photo import without_background

MODELS = ("digits", "fashion")


SOURCES = {
    "digits": ("Draw", "Upload", "Camera", "Examples", "Mistakes"),
    "fashion": ("Examples", "Upload", "Camera", "Mistakes"),  # it has learnt photographs: a drawn outline says nothing to it
}


_SURE = 0.6  # below it the answer is shown as a guess


@dataclass(frozen=True, eq=False)
class Given:
    """What is to be read."""

    image: np.ndarray  # uint8 (height, width, channels)
    truth: str = ""  # its label, where it is known
    rests: bool = True  # False while the pen moves
    before: np.ndarray | None = None  # the photograph, where its background was removed


def page() -> None:
    """The page."""
    with show_errors():
        top = st.container()
        with st.container(key="choices"):
            left, right = st.columns([2, 5], vertical_alignment="bottom")
        with left:
            name = choose(say("model"), MODELS, "model", default="digits", names={each: say(f"model.{each}") for each in MODELS})
        with top:
            lead = say("recognise.lead", size=_size(name)) if name == "digits" else say("recognise.lead.fashion")
            heading(say("recognise.title"), lead)
        if name not in models.shipped(MODELS):
            st.info(models.not_shipped(name))
            return
        sources = SOURCES[name]
        with right:
            source = choose(
                say("input"), sources, f"source{'' if name == 'digits' else ' ' + name}", default=sources[0], names=_names(sources)
            )
        with st.container(key="live"):
            _live(name, source)


def _names(sources: tuple[str, ...]) -> dict[str, str]:
    return {each: say(f"input.{each}") for each in sources}


def _size(name: str) -> str:
    return human_bytes(models.card(name).path.stat().st_size) if models.shipped([name]) else ""


@st.fragment
def _live(name: str, source: str) -> None:
    """All that changes while one draws: Streamlit runs this part alone."""
    with show_errors():
        model = models.opened(name, Classifier)
        left, middle, right = st.columns([9, 11, 7], gap="medium")
        with left:
            given = _given(name, source, model)
        reading = say("recognise.reading")
        with middle, st.container(key="answer"):
            refused = _invitation(name, source) if given is None else _refusal(name, given)
            if given is None or refused:
                components.patched("said", html.answer("?" if given is None else "–", refused, sure=False, reading=reading))
                return
            begun = time.perf_counter()
            inside = maps.inside(name, given.image)
            prediction = model.predict_one(given.image) if inside is None else inside.prediction
            took = 1000 * (time.perf_counter() - begun)
            components.patched("said", _said(prediction, given))
        with middle:
            bars = html.bars(model.labels, prediction.probabilities.tolist(), title=say("recognise.bars"))
            components.patched("bars", bars + html.caption(say("recognise.took", took=f"{took:.1f}")))
        # After the answer, which is on its way to the reader by now.
        if inside is not None:
            components.patched("inside", _inside(inside, model, given))
        with right:
            _explain(model, given, prediction)


def _invitation(name: str, source: str) -> str:
    return say(f"recognise.invite.{source}{'.fashion' if (name, source) == ('fashion', 'Camera') else ''}")


def _given(name: str, source: str, model: Classifier) -> Given | None:
    """What the chosen source gives."""
    if source == "Draw":
        with st.container(key="pad"):
            text, rests = pad.drawing_pad(f"pad_{name}", st.query_params.get("drawing", ""))
            strokes = read_strokes(text)
            components.share_button("share", {"drawing": text if strokes else ""})
        return Given(painted(strokes), rests=rests) if strokes else None
    if source in ("Upload", "Camera"):
        if source == "Upload":
            file = st.file_uploader(
                say("input.an image"), type=["png", "jpg", "jpeg", "gif", "bmp", "webp", "tif", "tiff"], max_upload_size=32, key="image"
            )
        else:
            file = st.camera_input(say("input.a photo"), key="photo")
        components.share_without_file("share")
        if file is None:
            return None
        image = read_upload(file.getvalue(), file.name if source == "Upload" else say("input.a photo"))
        cleaned = without_background(image) if name == "digits" else image
        return Given(cleaned, before=image)
    return _example(name, model, mistakes=source == "Mistakes")


def _example(name: str, model: Classifier, *, mistakes: bool) -> Given | None:
    examples = models.examples(name)
    positions = examples.mistakes if mistakes else examples.right
    if not len(positions):
        return None
    truths = [model.labels[index] for index in examples.labels[positions]]
    names = truths
    if mistakes:
        said = [model.labels[index] for index in examples.predicted[positions]]
        names = [say("recognise.read as", truth=truth, said=each) for truth, each in zip(truths, said, strict=True)]
    key = "mistake" if mistakes else "example"
    title = say("recognise.mistakes" if mistakes else "recognise.examples")
    st.markdown(f"**{title}**")
    images = [examples.images[position] for position in positions]
    chosen = components.gallery(f"{key}_{name}", title, images, names, whole_from_address(key, len(positions) - 1))
    if str(chosen) != st.query_params.get(key, "") and (chosen or key in st.query_params):
        st.query_params[key] = str(chosen)
    components.share_button("share", {"drawing": ""})
    return Given(images[chosen], truths[chosen])


def _refusal(name: str, given: Given) -> str:
    """Why there is nothing to read, "" where there is."""
    if name != "digits" or given.truth:
        return ""
    count = content.figures(given.image)
    if count == 0:
        return say("recognise.nothing")
    return say("recognise.several", count=count) if count > 1 else ""


def _said(prediction: Prediction, given: Given) -> str:
    words = verdict(prediction, given.truth)
    strange = not prediction.known and not given.truth and given.rests  # half a figure is of no class yet
    sure = prediction.probability >= _SURE and not strange
    if strange:
        words = say("recognise.none", label=prediction.label)
    return html.answer("?" if strange else prediction.label, words, sure=sure, reading=say("recognise.reading"))


def verdict(prediction: Prediction, truth: str) -> str:
    """One sentence for a prediction; ``truth`` is "" where it is not known."""
    share = html.percent(prediction.probability)
    if truth:
        return say("recognise.right" if truth == prediction.label else "recognise.wrong", share=share, truth=truth)
    return say("recognise.sure" if prediction.probability >= _SURE else "recognise.guess", share=share)


def _inside(found: maps.Inside, model: Classifier, given: Given) -> str:
    """The photograph as given and as it was read, and the maps of each stage."""
    pictures = []
    if given.before is not None:
        pictures.append(html.image(given.before, say("recognise.given.alt"), say("recognise.given")))
        if given.before is not given.image:
            pictures.append(html.image(given.image, say("recognise.cleaned.alt"), say("recognise.cleaned")))
    chosen = {stage: maps.chosen_maps(stage_maps) for stage, stage_maps in enumerate(found.stages)}
    strip = network.strip(found, pictures, model.labels, chosen)
    return f'<h2 class="of-h2">{escape(say("recognise.live"))}</h2>{strip}{html.caption(say("recognise.live.words"))}'


def _explain(model: Classifier, given: Given, prediction: Prediction) -> None:
    if not st.toggle(say("recognise.why"), value=True, key="why", bind="query-params", persist_state="session"):
        return
    if not given.rests:  # each map takes as long as fifty answers
        before = st.session_state.get("why_kept", "")
        components.patched("mattered", f'<div class="of-old">{before}</div>{html.caption(say("recognise.why.rests"))}')
        return
    small, weights = occlusion.heat_map(model, given.image, prediction.index)
    made = html.image(occlusion.overlay(small, weights), say("recognise.why.alt", label=prediction.label))
    st.session_state["why_kept"] = made
    components.patched("mattered", f"<div>{made}</div>")
    st.caption(say("recognise.why.words"))
