"""The pages, and nothing else: the script that Streamlit runs for every visitor."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from onnxferry.demo.pages import compress, imagine, recognise, under_the_hood, write, your_model
from onnxferry.runtime.kinds import AUTOENCODER, CNN, GAN, RNN

st.set_page_config(page_icon="⛴️", layout="wide")


chosen = st.navigation(
    [
        st.Page(recognise.page, title="Recognise", icon=":material/draw:", url_path=CNN.page, default=True),
        st.Page(write.page, title="Write", icon=":material/edit_note:", url_path=RNN.page),
        st.Page(imagine.page, title="Imagine", icon=":material/casino:", url_path=GAN.page),
        st.Page(compress.page, title="Compress", icon=":material/compress:", url_path=AUTOENCODER.page),
        st.Page(your_model.page, title="Your model", icon=":material/deployed_code:", url_path="your-model"),
        st.Page(under_the_hood.page, title="Under the hood", icon=":material/settings:", url_path="under-the-hood"),
    ],
    position="top",
)


st.set_page_config(page_title=f"{chosen.title} · onnxferry")


st.html(Path(__file__).parent / "assets" / "style.css")


chosen.run()
