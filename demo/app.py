"""The demo's entry: the pages, and nothing else. ``streamlit run demo/app.py``, or ``onnxferry demo``."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from onnxferry.demo.views import compress, imagine, recognise, under_the_hood, write, your_model

st.set_page_config(page_title="onnxferry", page_icon="⛴️", layout="wide")
chosen = st.navigation(
    [
        st.Page(recognise.page, title="Recognise", icon="✏️", url_path="recognise", default=True),
        st.Page(write.page, title="Write", icon="🪶", url_path="write"),
        st.Page(imagine.page, title="Imagine", icon="🎲", url_path="imagine"),
        st.Page(compress.page, title="Compress", icon="🗜️", url_path="compress"),
        st.Page(your_model.page, title="Your model", icon="📦", url_path="your-model"),
        st.Page(under_the_hood.page, title="Under the hood", icon="⚙️", url_path="under-the-hood"),
    ],
    position="top",
)
st.html(Path(__file__).parent / "assets" / "style.css")
chosen.run()
