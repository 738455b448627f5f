"""Elements that all pages share: the heading, the language, the footer, and errors in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from html import escape

import streamlit as st

from onnxferry.demo.widgets import choices, html
from onnxferry.demo.words.language import KEY, LANGUAGES, NAMES, language, say
from onnxferry.demo.words.markdown import plain_markdown
from onnxferry.runtime.errors import OnnxFerryError


def heading(title: str, lead: str) -> None:
    """A page's head. Its height is kept free until it comes."""
    with st.container(key="heading"):
        st.html(html.heading(title, lead))


def language_switch() -> None:
    """English or Chinese: the choice is in the address where it is not the browser's language, and holds for all pages."""
    here = "zh" if str(st.context.locale or "").lower().startswith("zh") else "en"
    before = language()
    chosen = choices.choose(say("menu.language"), list(LANGUAGES), KEY, default=here, names=NAMES, label_visibility="collapsed")
    if chosen != before:
        st.rerun()


def footer() -> None:
    """What this is, and how to have it."""
    st.html(f"<footer class=\"of-footer\"><p>{escape(say('menu.footer'))}</p><code>pip install 'onnxferry[cpu,demo]'</code></footer>")


@contextmanager
def show_errors() -> Iterator[None]:
    """Shows an error that the user can fix in one line, where it happened; the rest of the page continues. Other exceptions are bugs."""
    try:
        yield
    except OnnxFerryError as error:
        st.error(plain_markdown(str(error)), icon=":material/error:")
