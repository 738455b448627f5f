"""What all pages say in the same way: their heading, errors in one line, and a model's line under the title."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

from onnxferry.demo.widgets import html as markup
from onnxferry.runtime.errors import OnnxFerryError


def heading(title: str, lead: str) -> None:
    """A page's head."""
    st.html(markup.heading(title, lead))


@contextmanager
def told() -> Iterator[None]:
    """What the user can mend is told in one line, where it happened; the rest of the page goes on. Anything else is a bug of ours."""
    try:
        yield
    except OnnxFerryError as error:
        st.error(markup.plain_markdown(str(error)), icon=":material/error:")
