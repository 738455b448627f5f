"""Under the hood: what each shipped model is, how it learns, how it was verified, what it measures, and how to use it in an app."""

from __future__ import annotations

import json

import streamlit as st

from onnxferry.demo.shipped import models
from onnxferry.demo.shipped.explanations import Family, family_words, snippet
from onnxferry.demo.shipped.figures import error_rows, parity_rows, parity_sentence, read_figures
from onnxferry.demo.widgets import components, html
from onnxferry.demo.widgets.choices import choose
from onnxferry.demo.widgets.page import heading, show_errors
from onnxferry.demo.words.language import say
from onnxferry.runtime.artifact.zoo import ZooModel, zoo_names
from onnxferry.runtime.formats import human_bytes
from onnxferry.runtime.onnx_file.reader import read_model

MODELS = (
    "digits",
    "fashion",
    "digit-scenes",
    "shakespeare",
    "sentiment-en",
    "sentiment-zh",
    "dates",
    "digits-gan",
    "fashion-gan",
    "digits-ae",
)


def page() -> None:
    """The page."""
    heading(say("hood.title"), say("hood.lead"))
    with show_errors():
        names = [*MODELS, *(name for name in zoo_names() if name not in MODELS)]
        name = choose(say("model"), names, "about", default=names[0])
        if name not in zoo_names():
            st.info(models.not_shipped(name))
            return
        _model(models.card(name))
        components.share_button("share")


def _model(model: ZooModel) -> None:
    card = model.card
    family = family_words(str(card.get("family", "")))
    if family is not None:
        _words(family)
    left, right = st.columns(2, gap="large")
    with left:
        _proof(model)
    with right:
        _figures(model)
    st.header(say("hood.app"))
    code = snippet(str(card.get("family", "")), model.name, _labels(model))
    if code:
        st.code(code, language="python", wrap_lines=True)
    st.caption(say("hood.app.words"))
    st.header(say("hood.command"))
    st.code(str(card.get("command", "")), language="bash", wrap_lines=True)
    facts = {say(f"hood.about.{name}"): card.get(name, "") for name in ("description", "data", "examples", "license")}
    others = [file for file in sorted(model.path.parent.glob("*.onnx")) if file != model.path]
    variants = ", ".join(f"{file.name} {human_bytes(file.stat().st_size)}" for file in others)
    size = human_bytes(model.path.stat().st_size)
    facts |= {
        say("hood.about.file"): model.path.name,
        say("hood.about.size"): say("hood.about.size.words", size=size, variants=variants) if variants else size,
        say("hood.about.sha256"): card.get("data_sha256", ""),
    }
    st.html(html.facts(facts, name=say("hood.about")))


def _words(family: Family) -> None:
    st.header(family.title)
    st.markdown(family.what)
    st.markdown(say("hood.learns", words=family.learns))
    st.latex(family.formula)
    st.caption(family.symbols)
    st.caption(say("hood.read on", links=" · ".join(f"[{name}]({address})" for name, address in family.papers)))


def _proof(model: ZooModel) -> None:
    st.header(say("hood.proof"))
    sentence = parity_sentence(model.card)
    if not sentence:
        st.caption(say("hood.no proof"))
        return
    st.markdown(sentence)
    st.html(html.scale_bars(parity_rows(model.card), title=say("hood.proof.bars")))
    st.caption(say("hood.proof.scale"))


def _figures(model: ZooModel) -> None:
    st.header(say("hood.figures"))
    figures = read_figures(model.card)
    if figures.shares:
        st.html(html.scale_bars(error_rows(figures.shares), title=say("hood.shares")))
        st.caption(say("hood.shares.words"))
    st.html(html.facts(figures.others, name=say("hood.others")))
    command = model.card.get("figures_command")
    if command:
        st.caption(say("hood.measured", command=command))


def _labels(model: ZooModel) -> str:
    """The last class's name, for the example; "" where there are no classes."""
    names = json.loads(read_model(model.path).metadata.get("names", "{}"))
    return str(names[max(names, key=int)]) if names else ""
