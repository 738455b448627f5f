"""The drawing pad: strokes by mouse, finger, pen and keyboard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from onnxferry.demo.widgets.components import ASSETS, renderer, sent_value, whole
from onnxferry.demo.words.language import say


def drawing_pad(key: str, given: str = "", sheet: int = 0) -> tuple[str, bool]:
    """A pad to draw on. What was drawn, as :func:`onnxferry.demo.images.strokes.read_strokes` reads it, and whether the pen rests.

    ``given``: a drawing to begin with, as a link carries it. ``sheet``: another number is another, empty sheet of paper.
    The text is from a browser and not checked here.
    """
    before: Mapping[str, Any] = st.session_state.get(f"{key}_kept") or {}
    html = (ASSETS / "canvas.html").read_text(encoding="utf-8")
    mount = renderer("canvas", html, "pace.js", "canvas.js")
    state = sent_value(key, "drawing") or before
    data = {
        "answered": whole(state.get("number")),
        "strokes": (state.get("strokes") if whole(state.get("sheet")) == sheet else "") or given,
        "given": given,
        "sheet": sheet,
        "words": {name: say(f"pad.{name}") for name in ("label", "help", "undo", "clear", "pen", "pens")},
    }
    result = mount(key=key, data=data, default={"drawing": before or None}, on_drawing_change=lambda: None)
    state = result.drawing if isinstance(result.drawing, dict) else before
    st.session_state[f"{key}_kept"] = state  # the component's own state goes when another source is shown
    strokes = state.get("strokes")
    if state and whole(state.get("sheet")) != sheet:  # what was drawn on the one before
        return "", False
    if not state:
        return given, bool(given)
    return strokes if isinstance(strokes, str) else "", state.get("rests") is True
