"""Elements that all pages share: the heading, and errors in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

from onnxferry.demo.widgets import html
from onnxferry.runtime.errors import OnnxFerryError


def heading(title: str, lead: str) -> None:
    """A page's head."""
    st.html(html.heading(title, lead))


@contextmanager
def show_errors() -> Iterator[None]:
    """Shows an error that the user can fix in one line, where it happened; the rest of the page continues. Other exceptions are bugs."""
    try:
        yield
    except OnnxFerryError as error:
        st.error(html.plain_markdown(str(error)), icon=":material/error:")
