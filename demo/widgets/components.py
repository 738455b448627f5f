"""Components of the demo's own, for what Streamlit's widgets do too slowly or not at all: a gallery, a bank of sliders, a share button.

Each is a file or two of plain JavaScript in ``assets/``. They send one value at a time and wait for the answer, work by mouse, touch
and keyboard, and carry labels. What comes from the browser is untrusted and checked here.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st

from onnxferry.demo.widgets.html import png
from onnxferry.demo.words.language import say

ASSETS = Path(__file__).parents[1] / "assets"


@cache
def renderer(name: str, html: str, *scripts: str, isolated: bool = True) -> Callable[..., Any]:
    """What puts the component ``name`` on a page: its style is ``assets/<name>.css``; not ``isolated``: the page's too."""
    script = "\n".join((ASSETS / each).read_text(encoding="utf-8") for each in scripts)
    css = (ASSETS / f"{name}.css").read_text(encoding="utf-8")
    return st.components.v2.component(f"onnxferry_{name}", html=html, css=css, js=script, isolate_styles=isolated)


def patched(key: str, html: str) -> None:
    """HTML that changes with every stroke, such as that of ``widgets/html.py``: the browser changes only what differs from what it shows.

    Streamlit's own ``st.html`` makes everything anew, which takes a browser several times as long as the server takes to answer.
    It is not filtered: what is not ours has to be escaped in it.
    """
    renderer("patched", '<div class="of-patched"></div>', "match.js", "patched.js", isolated=False)(key=key, data={"html": html})


def crossed(key: str, html: str, browser: Mapping[str, Any] | None) -> None:
    """As :func:`patched`, with one card that the visitor's browser fills in, see ``crossed.js``; ``browser``: what it needs for that."""
    renderer("crossed", '<div class="of-patched"></div>', "match.js", "crossed.js", isolated=False)(
        key=key, data={"html": html, "browser": dict(browser) if browser is not None else None}
    )


def gallery(key: str, label: str, images: Sequence[np.ndarray], names: Sequence[str], chosen: int) -> int:
    """Images as buttons; the position of the one that was chosen, ``chosen`` at first. ``names`` are read out for them."""
    mount = renderer("gallery", '<div class="gallery" role="group"></div>', "gallery.js")
    sent = sent_value(key, "chosen")
    shown = chosen if sent is None else min(whole(sent), len(images) - 1)
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
    return min(whole(result.chosen), len(images) - 1)


def mark_current(at: int) -> None:
    """Marks link ``at`` of the bar as that of the page that is shown, for screen readers too, and brings it in sight."""
    renderer("current", "<i></i>", "current.js")(key="current", data={"at": at}, width="content")


def share_button(key: str, carries: Mapping[str, str] | None = None) -> None:
    """A button that copies the page's address with ``carries`` in it: what the page shows and its address does not say."""
    _copies(key, {"carries": dict(carries or {}), "words": {"share": say("menu.share"), "shared": say("menu.shared")}})


def share_without_file(key: str) -> None:
    """As :func:`share_button`, where the page shows a file or a photo: no address can carry it, and the page says so."""
    share_button(key, {"drawing": ""})
    st.caption(say("menu.share.file"))


def copy_button(key: str, text: str) -> None:
    """A button that copies ``text``."""
    _copies(key, {"text": text, "carries": {}, "words": {"share": say("write.copy"), "shared": say("write.copied")}})


def _copies(key: str, data: dict[str, Any]) -> None:
    renderer("share", '<button type="button"><span></span></button>', "share.js")(key=key, data=data, width="content")


def latent_bank(
    key: str, image: str, encoded: np.ndarray, reach: float, order: Sequence[int], average: np.ndarray, given: str = ""
) -> np.ndarray:
    """A slider for each latent number, float32 (n,): where they stand. They start at ``encoded`` whenever ``image`` changes.

    ``reach``: sliders go from minus to plus this. ``image``: any text that names the image that was encoded. ``order``: which slider
    stands first. ``average``: float32 (n,), where a button puts them all. ``given``: what :func:`moves` said of the first image.
    """
    html = (
        '<div class="bank"><button type="button" data-do="back"></button><button type="button" data-do="average"></button>'
        '<div class="sliders" role="group"></div></div>'
    )
    mount = renderer("latents", html, "pace.js", "latents.js")
    state = sent_value(key, "moved")
    start = encoded if state is not None else with_moves(given, encoded, reach)
    values = moved_latents(state, image, start, reach)
    data = {
        "answered": whole(state.get("number")) if isinstance(state, dict) else 0,
        "image": image,
        "encoded": _rounded(encoded),
        "values": _rounded(values),
        "average": _rounded(average),
        "order": list(map(int, order)),
        "reach": round(float(reach), 2),
        "words": {
            "group": say("compress.numbers", count=len(encoded)),
            "back": say("compress.back"),
            "average": say("compress.average"),
            "slider": say("compress.slider", number="{}"),
        },
    }
    result = mount(key=key, data=data, default={"moved": None}, on_moved_change=lambda: None)
    return moved_latents(result.moved, image, start, reach)


def moves(values: np.ndarray, encoded: np.ndarray) -> str:
    """What was moved, for a link: ``3:1.25,7:-2``."""
    moved = np.flatnonzero(np.abs(values - encoded) > 1e-6)
    return ",".join(f"{i}:{float(values[i]):.4g}" for i in moved)


def with_moves(text: str, encoded: np.ndarray, reach: float) -> np.ndarray:
    """``encoded`` with what :func:`moves` wrote; as it is where the text is something else."""
    made = encoded.copy()
    try:
        for part in text.split(",") if 0 < len(text) < 2000 else ():
            index, _, value = part.partition(":")
            if not 0 <= int(index) < len(encoded) or not np.isfinite(float(value)):
                return encoded
            made[int(index)] = np.clip(float(value), -reach, reach)
    except ValueError:
        return encoded
    return made


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 4) for value in values]


def moved_latents(state: object, image: str, encoded: np.ndarray, reach: float) -> np.ndarray:
    """What the bank sent, read: float32 (n,). ``encoded`` where nothing was moved, or what was sent belongs to another image."""
    values = state.get("values") if isinstance(state, dict) and state.get("image") == image else None
    if not isinstance(values, list) or len(values) != len(encoded) or not all(isinstance(v, int | float) for v in values):
        return encoded
    sent = np.array(values, np.float64)
    # A slider has a hundred steps: one that was not moved keeps the number it had.
    sent = np.where(np.abs(sent - np.clip(encoded, -reach, reach)) <= 1.01 * reach / 100, encoded, sent)
    return np.clip(np.nan_to_num(sent), -1e6, 1e6).astype(np.float32)


def sent_value(key: str, name: str) -> Any:
    """What a component sent last under a name, before it is shown again; None where nothing was sent."""
    state = st.session_state.get(key)
    return state.get(name) if isinstance(state, Mapping) else None


def whole(value: object) -> int:
    """A number from a browser as a whole one, 0 where it is none."""
    return int(value) if isinstance(value, int | float) and 0 <= value < 2**53 else 0
