"""Under the hood: what each shipped model is, how it learns, how it was verified, what it measures, and how to use it in an app."""

from __future__ import annotations

import json

import streamlit as st

from onnxferry.demo.shipped import models
from onnxferry.demo.shipped.explanations import FAMILIES, Family, snippet
from onnxferry.demo.shipped.figures import error_rows, parity_rows, parity_sentence, read_figures
from onnxferry.demo.widgets import html
from onnxferry.demo.widgets.page import heading, show_errors
from onnxferry.runtime.artifact.zoo import ZooModel, zoo_names
from onnxferry.runtime.formats import human_bytes
from onnxferry.runtime.onnx_file.reader import read_model

MODELS = ("digits", "fashion", "shakespeare", "digits-gan", "fashion-gan", "digits-ae")


def page() -> None:
    """The page."""
    heading("Under the hood", "What each model is, how it learns, how the file was compared with PyTorch, and the lines that embed it.")
    with show_errors():
        names = [*MODELS, *(name for name in zoo_names() if name not in MODELS)]
        name = str(
            st.segmented_control("Model", names, default=names[0], required=True, key="about", bind="query-params", persist_state="session")
        )
        if name not in zoo_names():
            st.info(models.not_shipped(name))
            return
        _model(models.card(name))


def _model(model: ZooModel) -> None:
    card = model.card
    family = FAMILIES.get(str(card.get("family", "")))
    if family is not None:
        _words(family)
    left, right = st.columns(2, gap="large")
    with left:
        _proof(model)
    with right:
        _figures(model)
    st.header("In your app")
    label = _labels(model)
    code = snippet(str(card.get("family", "")), model.name, label)
    if code:
        st.code(code, language="python")
    st.caption("`pip install 'onnxferry[cpu]'` is all that it needs: no PyTorch. Or load the file with any ONNX Runtime, in any language.")
    st.header("The command that made it")
    st.code(str(card.get("command", "")), language="bash", wrap_lines=True)
    facts = {name.capitalize(): card.get(name, "") for name in ("description", "data", "examples", "license")}
    st.html(html.facts(facts | {"Size": human_bytes(model.size), "Data's SHA-256": card.get("data_sha256", "")}, name="About"))


def _words(family: Family) -> None:
    st.header(family.title)
    st.markdown(family.what)
    st.markdown(f"**How it learns.** {family.learns}")
    st.latex(family.formula)
    st.caption(family.symbols)
    st.caption("Read on: " + " · ".join(f"[{name}]({address})" for name, address in family.papers))


def _proof(model: ZooModel) -> None:
    st.header("Parity")
    sentence = parity_sentence(model.card)
    if not sentence:
        st.caption("Its card has no parity summary.")
        return
    st.markdown(sentence)
    st.html(html.scale_bars(parity_rows(model.card), title="Largest difference from PyTorch by output"))
    st.caption("Largest difference from PyTorch of each output, on a logarithmic scale from 0.00000001 to 1.")


def _figures(model: ZooModel) -> None:
    st.header("The figures")
    figures = read_figures(model.card)
    if figures.shares:
        st.html(html.scale_bars(error_rows(figures.shares), title="Shares, and what is missing from 100 %"))
        st.caption("The bars show what is missing from 100 %: shorter is better.")
    st.html(html.facts(figures.others, name="Figures"))
    command = model.card.get("figures_command")
    if command:
        st.caption(f"Measured by `{command}`.")


def _labels(model: ZooModel) -> str:
    """The last class's name, for the example; "" where there are no classes."""
    names = json.loads(read_model(model.path).metadata.get("names", "{}"))
    return str(names[max(names, key=int)]) if names else ""
