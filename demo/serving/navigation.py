"""The bar and the pages: the script that Streamlit runs for every visitor.

It does not lie beside ``pages/``: Streamlit takes a folder of that name beside its script for pages of its own.
"""

from __future__ import annotations

import base64

import streamlit as st

from onnxferry.demo.pages import (
    compress,
    crossing,
    find,
    game,
    imagine,
    recognise,
    review,
    train,
    translate,
    under_the_hood,
    write,
    your_model,
)
from onnxferry.demo.widgets import components
from onnxferry.demo.widgets.components import ASSETS
from onnxferry.demo.widgets.page import footer, language_switch
from onnxferry.demo.words.language import say
from onnxferry.runtime.kinds import AUTOENCODER, CNN, DETECTOR_FAMILY, GAN, RNN, SEQ2SEQ, TEXT_FAMILY

PAGES = (
    ("crossing", crossing.page, "crossing"),
    ("recognise", recognise.page, CNN.page),
    ("find", find.page, DETECTOR_FAMILY.page),
    ("write", write.page, RNN.page),
    ("review", review.page, TEXT_FAMILY.page),
    ("translate", translate.page, SEQ2SEQ.page),
    ("imagine", imagine.page, GAN.page),
    ("compress", compress.page, AUTOENCODER.page),
    ("train", train.page, "train"),
    ("game", game.page, "game"),
    ("your-model", your_model.page, "your-model"),
    ("under-the-hood", under_the_hood.page, "under-the-hood"),
)


LOGO = base64.b64encode((ASSETS / "logo.svg").read_bytes()).decode("ascii")
BRAND = f'<span class="of-brand"><img alt="" src="data:image/svg+xml;base64,{LOGO}">onnxferry</span>'


st.set_page_config(page_icon="⛴️", layout="wide")


pages = [st.Page(page, title=say(f"menu.{name}"), url_path=path, default=name == "crossing") for name, page, path in PAGES]
chosen = st.navigation(pages, position="hidden")


# Not chosen.title: a page has none where this is imported and not run by Streamlit.
titles = [say(f"menu.{name}") for page, (name, _, _) in zip(pages, PAGES, strict=True) if page is chosen]
st.set_page_config(page_title=" · ".join([*titles, "onnxferry"]))


st.html(ASSETS / "style.css")  # again, after Streamlit's own, which are as strong


with st.container(horizontal=True, key="menu", vertical_alignment="center", gap="small"):
    st.html(BRAND, width="content")
    for page in pages:
        st.page_link(page, width="content")
    components.mark_current(next((at for at, page in enumerate(pages) if page is chosen), -1))
    language_switch()


chosen.run()


footer()
