"""The plane between three images: of a generator's seeds, or of digits that the visitor draws. A view of Imagine."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import streamlit as st

from onnxferry.demo.images.animation import animation
from onnxferry.demo.images.planes import mixed, outline, triangle
from onnxferry.demo.images.strokes import painted, read_strokes
from onnxferry.demo.images.uploads import framed_like_mnist
from onnxferry.demo.shipped import models
from onnxferry.demo.widgets import components, html, pad
from onnxferry.demo.widgets.choices import pick
from onnxferry.demo.widgets.motion import plane
from onnxferry.demo.words.language import say
from onnxferry.runtime import Autoencoder, Classifier, ImageGenerator
from onnxferry.runtime.images.grid import image_grid

STEPS = 20
"""Points on each side of the triangle: 231 images, made in one batch."""


CORNERS = ("a", "b", "c")
"""Names of the corners in the address."""


def of_seeds(name: str, model: ImageGenerator, reader: str) -> None:
    """Between three seeds' images of one class."""
    columns = st.columns([2, 2, 2, 3])
    seeds = [
        int(column.number_input(say("plane.seed", number=i + 1), 0, 2**31 - 1, i + 1, key=f"seed_{corner}", bind="query-params",
                                persist_state="session"))
        for i, (column, corner) in enumerate(zip(columns, CORNERS, strict=False))
    ]  # fmt: skip
    with columns[3]:
        label = pick(say("imagine.walk class"), model.labels, "walk_class", default=model.labels[0])
    noise = np.stack([np.random.Generator(np.random.PCG64(seed)).standard_normal(model.noise, dtype=np.float32) for seed in seeds])
    asked = model.class_indices(label)

    def make(shares: np.ndarray) -> np.ndarray:
        return model.make(mixed(noise, shares, noise=True), asked.repeat(len(shares)))

    _plane(f"{name} {label} {seeds}", make, reader, f"{name}-plane-{'-'.join(map(str, seeds))}", {})
    st.caption(say("plane.words"))


def of_drawings(name: str, model: Autoencoder, reader: str) -> None:
    """Between three digits that the visitor draws; examples stand where nothing is drawn yet."""
    st.markdown(say("plane.draw"))
    examples = models.examples(name)
    usual = _different(examples)
    columns = st.columns(3, gap="medium")
    images, carries, rests = [], {}, True
    for i, (column, corner) in enumerate(zip(columns, CORNERS, strict=True)):
        with column:
            text, still = pad.drawing_pad(f"corner_{corner}", st.query_params.get(corner, ""))
        strokes = read_strokes(text)
        rests = rests and (still or not strokes)
        carries[corner] = text if strokes else ""
        images.append(framed_like_mnist(painted(strokes), model.size) if strokes or not len(usual) else usual[i % len(usual)])
    latents = model.encode(images)
    drawn = hashlib.sha256(b"".join(each.tobytes() for each in images)).hexdigest()[:16]
    if not rests:  # a plane takes as long as some hundred answers
        drawn = st.session_state.get("drawn", drawn)
    st.session_state["drawn"] = drawn

    def make(shares: np.ndarray) -> np.ndarray:
        made = model.decode(mixed(latents, shares, noise=False))
        return made if made.ndim == 4 else made[..., None]

    _plane(f"{name} {drawn}", make, reader, f"{name}-plane", carries)
    st.caption(say("plane.latents", count=model.latent))


def _different(examples: models.Examples) -> list[np.ndarray]:
    """An example of each of up to three classes."""
    if len(examples.labels) != len(examples.images):
        return []
    first = [int(np.flatnonzero(examples.labels == label)[0]) for label in np.unique(examples.labels)]
    wanted = [first[i] for i in (2, 3, 8) if i < len(first)] or first
    return [examples.images[position] for position in wanted]


def _plane(key: str, make, reader: str, file: str, carries: dict[str, str]) -> None:  # type: ignore[no-untyped-def]
    """The plane and what can be taken home. It is made once for each ``key``, which names all that decides it."""
    kept = st.session_state.get("plane_kept")
    if kept is None or kept[0] != key:
        made = make(triangle(STEPS))  # uint8 (n, size, size, channels)
        kept = (key, made, _captions(made, reader))
        st.session_state["plane_kept"] = kept
    _, made, captions = kept
    at = plane("plane", made, captions, STEPS, _asked(), file)
    with st.container(horizontal=True):
        way = made[outline(STEPS)]
        way = way[..., 0] if way.shape[-1] == 1 else way
        st.download_button(say("imagine.gif"), animation(way, back=False), f"{file}.gif", "image/gif", on_click="ignore", key="gif")
        sheet = html.png(_sheet(made))
        st.download_button(say("plane.sheet"), sheet, f"{file}.png", "image/png", on_click="ignore", key="sheet")
        components.share_button("share", {"at": str(at), **carries})


def _asked() -> int:
    asked = st.query_params.get("at", "")
    most = (STEPS + 1) * (STEPS + 2) // 2 - 1
    return min(int(asked), most) if asked.isascii() and asked.isdigit() and len(asked) < 6 else most // 2


def _captions(made: np.ndarray, reader: str) -> Sequence[str]:
    """What the shipped recogniser reads in each image; empty where it is not there."""
    if reader not in models.shipped([reader]):
        return [""] * len(made)
    read = models.opened(reader, Classifier).predict(made)
    return [say("imagine.read", said=each.label, share=html.percent(each.probability)) for each in read]


def _sheet(made: np.ndarray) -> np.ndarray:
    """Every second image of the triangle, as rows under one another."""
    size = made.shape[1]
    white = np.full((size, size, *made.shape[3:]), 255, np.uint8)
    tiles = []
    for row in range(0, STEPS + 1, 2):
        line = [made[row * (row + 1) // 2 + place] for place in range(0, row + 1, 2)]
        tiles += line + [white] * (STEPS // 2 + 1 - len(line))
    stacked = np.stack(tiles)
    return image_grid(stacked[..., 0] if stacked.shape[-1] == 1 else stacked, columns=STEPS // 2 + 1, gap=2, scale=3)
