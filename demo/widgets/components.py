"""Components of the demo's own, for what Streamlit's widgets do too slowly or not at all: a drawing pad, a gallery, a bank of sliders.

Each is a file or two of plain JavaScript in ``assets/``. They send one value at a time and wait for the answer, work by mouse, touch
and keyboard, and carry labels. What comes from the browser is untrusted and checked here.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st

from onnxferry.demo.widgets.html import png

_ASSETS = Path(__file__).parents[1] / "assets"


_SIDE = 56  # pixels of the drawing that is sent; the pad itself is six times as wide


@cache
def _renderer(name: str, html: str, *scripts: str) -> Callable[..., Any]:
    script = "\n".join((_ASSETS / each).read_text(encoding="utf-8") for each in scripts)
    css = (_ASSETS / f"{name}.css").read_text(encoding="utf-8")
    return st.components.v2.component(f"onnxferry_{name}", html=html, css=css, js=script)


def drawing_pad(key: str) -> np.ndarray | None:
    """A pad to draw on. What was drawn, uint8 (56, 56, 1), dark on white; None while it is empty."""
    before = st.session_state.get(f"{key}_kept") or {}
    html = (_ASSETS / "canvas.html").read_text(encoding="utf-8")
    mount = _renderer("canvas", html, "pace.js", "canvas.js")
    state = _value(key, "drawing") or before
    result = mount(
        key=key,
        data={"answered": _whole(state.get("number")), "strokes": state.get("strokes") or []},
        default={"drawing": before or None},
        on_drawing_change=lambda: None,
    )
    state = result.drawing if isinstance(result.drawing, dict) else before
    st.session_state[f"{key}_kept"] = state  # the component's own state goes when another source is shown
    return pad_image(state)


def pad_image(state: object) -> np.ndarray | None:
    """What the pad sent, read: uint8 (56, 56, 1), or None for an empty pad and for what is no drawing."""
    if not isinstance(state, dict) or not isinstance(state.get("pixels"), str) or not state["pixels"]:
        return None
    try:
        data = base64.b64decode(state["pixels"], validate=True)
    except (binascii.Error, ValueError):
        return None
    return np.frombuffer(data, np.uint8).reshape(_SIDE, _SIDE, 1) if len(data) == _SIDE * _SIDE else None


def gallery(key: str, label: str, images: Sequence[np.ndarray], names: Sequence[str], chosen: int) -> int:
    """Images as buttons; the position of the one that was chosen, ``chosen`` at first. ``names`` are read out for them."""
    mount = _renderer("gallery", '<div class="gallery" role="group"></div>', "gallery.js")
    sent = _value(key, "chosen")
    shown = chosen if sent is None else min(_whole(sent), len(images) - 1)
    sources = [
        {"source": f"data:image/png;base64,{base64.b64encode(png(each)).decode('ascii')}", "name": name}
        for each, name in zip(images, names, strict=True)
    ]
    result = mount(
        key=key,
        data={"label": label, "key": f"{key} {len(images)}", "chosen": shown, "images": sources},
        default={"chosen": chosen},
        on_chosen_change=lambda: None,
    )
    return min(_whole(result.chosen), len(images) - 1)


def latent_bank(key: str, image: str, encoded: np.ndarray, reach: float) -> np.ndarray:
    """A slider for each latent number, float32 (n,): where they stand. They start at ``encoded`` whenever ``image`` changes.

    ``reach``: sliders go from minus to plus this. ``image``: any text that names the image that was encoded.
    """
    html = (
        '<div class="bank"><div class="sliders" role="group" aria-label="Latent numbers"></div>'
        '<button type="button" data-do="back">Back to the image</button><button type="button" data-do="zero">All to zero</button></div>'
    )
    mount = _renderer("latents", html, "pace.js", "latents.js")
    values = moved_latents(_value(key, "moved"), image, encoded, reach)
    state = _value(key, "moved")
    number = _whole(state.get("number")) if isinstance(state, dict) else 0
    data = {
        "answered": number,
        "image": image,
        "encoded": [round(float(v), 4) for v in encoded],
        "values": [round(float(v), 4) for v in values],
        "reach": round(float(reach), 2),
    }
    result = mount(key=key, data=data, default={"moved": None}, on_moved_change=lambda: None)
    return moved_latents(result.moved, image, encoded, reach)


def moved_latents(state: object, image: str, encoded: np.ndarray, reach: float) -> np.ndarray:
    """What the bank sent, read: float32 (n,). ``encoded`` where nothing was moved, or what was sent belongs to another image."""
    values = state.get("values") if isinstance(state, dict) and state.get("image") == image else None
    if not isinstance(values, list) or len(values) != len(encoded) or not all(isinstance(v, int | float) for v in values):
        return encoded
    sent = np.array(values, np.float64)
    # A slider has steps of 0.01: one that was not moved keeps the number it had.
    sent = np.where(np.abs(sent - np.clip(encoded, -reach, reach)) <= 0.006, encoded, sent)
    return np.clip(np.nan_to_num(sent), -1e6, 1e6).astype(np.float32)


def _value(key: str, name: str) -> Any:
    state = st.session_state.get(key)
    return state.get(name) if isinstance(state, Mapping) else None


def _whole(value: object) -> int:
    return int(value) if isinstance(value, int | float) and 0 <= value < 2**53 else 0
