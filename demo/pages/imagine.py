"""Imagine: images out of noise, by class and seed; those between two or three of them; real ones beside them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import streamlit as st

from onnxferry.demo.images.animation import animation
from onnxferry.demo.pages import plane
from onnxferry.demo.shipped import models
from onnxferry.demo.widgets import components, html
from onnxferry.demo.widgets.choices import choose, pick
from onnxferry.demo.widgets.motion import player
from onnxferry.demo.widgets.page import heading, show_errors
from onnxferry.demo.words.language import say
from onnxferry.runtime import Autoencoder, Classifier, ImageGenerator, Prediction
from onnxferry.runtime.images.grid import image_grid

MODELS = ("digits-gan", "fashion-gan", "digits-ae")
"""The last one draws between digits that the visitor draws."""


READERS = {"digits-gan": "digits", "fashion-gan": "fashion", "digits-ae": "digits"}
"""The recognisers that read what each generator made."""


ALL = "all in turn"


WALK_STEPS = 25


_STRIP = 9  # images of the walk that are shown at once


def page() -> None:
    """The page."""
    heading(say("imagine.title"), say("imagine.lead"))
    with show_errors():
        left, right = st.columns(2, vertical_alignment="bottom")
        with left:
            name = choose(say("model"), MODELS, "maker", default=MODELS[0], names=_names())
        if name not in models.shipped(MODELS):
            st.info(models.not_shipped(name))
            return
        if name == MODELS[-1]:
            _drawn(name)
            return
        model = models.opened(name, ImageGenerator)
        with right:
            views = ("grid", "walk", "plane")
            view = choose(say("imagine.view"), views, "view", default="grid", names={each: say(f"imagine.view.{each}") for each in views})
        {"grid": _grid, "walk": _walk, "plane": _plane}[view](name, model)


def _names() -> dict[str, str]:
    return {each: say(f"model.{each}") for each in MODELS[:-1]} | {MODELS[-1]: say("imagine.own")}


def _read(name: str, made: np.ndarray) -> list[Prediction]:
    """What the shipped recogniser reads in what was made; an empty list where it is not there."""
    reader = READERS[name]
    if reader not in models.shipped([reader]):
        return []
    return models.opened(reader, Classifier).predict(made[..., None] if made.ndim == 3 else made)


@st.fragment
def _grid(name: str, model: ImageGenerator) -> None:
    with show_errors():
        columns = st.columns([3, 2, 2, 2], vertical_alignment="bottom")
        with columns[0]:
            label = pick(say("imagine.class"), (ALL, *model.labels), "class", default=ALL, names={ALL: say("imagine.every")})
        count = columns[1].number_input(say("imagine.count"), 1, 100, 16, key="count", bind="query-params", persist_state="session")
        if not isinstance(st.session_state.setdefault("from_seed", _asked_seed()), int):
            st.session_state["from_seed"] = 0
        seed = columns[2].number_input(say("imagine.seed"), 0, 2**31 - 1, key="from_seed", bind="query-params", persist_state="session")
        columns[3].button(say("imagine.another"), icon=":material/casino:", on_click=_next_seed, width="stretch", key="another set")
        asked = None if label == ALL else label
        indices = model.class_indices(asked)
        names = [model.labels[indices[i % len(indices)]] for i in range(int(count))]
        made = model.sample(int(count), labels=indices[: int(count)], seed=int(seed))  # uint8 (count, size, size[, 3])
        generated, real = st.columns([3, 2], gap="large")
        with generated:
            st.markdown(f"**{say('imagine.made')}**")
            st.html(html.grid(_captioned(made, names, _read(name, made)), 96, name=say("imagine.made")))
            file = html.png(image_grid(made, columns=max(1, round(len(made) ** 0.5)), gap=2, scale=4))
            slug = "all" if asked is None else "".join(c if c.isalnum() else "-" for c in asked)
            with st.container(horizontal=True):
                st.download_button(
                    say("imagine.download"), file, f"{name}-{slug}-seed-{seed}.png", "image/png", icon=":material/download:",
                    on_click="ignore", key="png",
                )  # fmt: skip
                components.share_button("share")
        with real:
            st.markdown(f"**{say('imagine.real')}**")
            images = real_images(models.examples(name), indices, int(count))
            if not images:
                st.caption(say("imagine.no real"))
            truths = [(each, model.labels[index]) for each, index in images]
            figures = [html.image(each, say("imagine.real.alt", label=n), n) for each, n in truths]
            st.html(html.grid(figures, name=say("imagine.real.short")))


def _captioned(made: np.ndarray, names: Sequence[str], read: Sequence[Prediction]) -> list[str]:
    """Figures with the class that was asked for, and what a recogniser reads where that is another."""
    figures = []
    for position, (each, name) in enumerate(zip(made, names, strict=True)):
        said = read[position].label if read else name
        words = name if said == name else say("imagine.read as", label=name, said=said)
        figures.append(html.image(each, say("imagine.made.alt", label=name), words, badge="" if said == name else "wrong"))
    return figures


def _asked_seed() -> int:
    asked = st.query_params.get("from_seed", "")
    return int(asked) if asked.isascii() and asked.isdigit() and len(asked) < 10 else 0


def _next_seed() -> None:
    st.session_state["from_seed"] = (int(st.session_state.get("from_seed", 0)) + 1) % 2**31


def real_images(examples: models.Examples, indices: np.ndarray, count: int) -> list[tuple[np.ndarray, int]]:
    """Up to ``count`` held-out images, uint8 (height, width, channels), with their class, the classes of ``indices`` in turn."""
    if len(examples.labels) != len(examples.images):
        return []
    by_class = [np.flatnonzero(examples.labels == index) for index in indices]
    rounds = max((len(positions) for positions in by_class), default=0)
    chosen = [positions[turn] for turn in range(rounds) for positions in by_class if turn < len(positions)]
    return [(examples.images[position], int(examples.labels[position])) for position in chosen[:count]]


@st.fragment
def _walk(name: str, model: ImageGenerator) -> None:
    with show_errors():
        columns = st.columns(3)
        first = columns[0].number_input(say("imagine.from"), 0, 2**31 - 1, 1, key="walk_from", bind="query-params", persist_state="session")
        last = columns[1].number_input(say("imagine.to"), 0, 2**31 - 1, 2, key="walk_to", bind="query-params", persist_state="session")
        with columns[2]:
            label = pick(say("imagine.walk class"), model.labels, "walk_class", default=model.labels[0])
        made = model.walk(int(first), int(last), WALK_STEPS, label)  # uint8 (steps, size, size[, 3])
        read = _read(name, made)
        alts = [say("imagine.step.alt", label=label, step=i, last=WALK_STEPS - 1) for i in range(WALK_STEPS)]
        captions = [say("imagine.read", said=each.label, share=html.percent(each.probability)) for each in read] or alts
        here, way = st.columns([1, 2], gap="large")
        with here:
            file = f"{name}-{''.join(c if c.isalnum() else '-' for c in label)}-{first}-{last}"
            player("player", made, alts, captions, file)
        with way:
            stops = np.linspace(0, WALK_STEPS - 1, _STRIP).round().astype(int)
            st.html(html.strip([html.image(made[i], say("imagine.way.alt", label=label, step=i)) for i in stops], name=say("imagine.way")))
            st.caption(say("imagine.walk.words"))
            with st.container(horizontal=True):
                st.download_button(say("imagine.gif"), animation(made), f"{file}.gif", "image/gif", on_click="ignore", key="gif")
                row = html.png(image_grid(made, columns=WALK_STEPS, gap=2, scale=4))
                st.download_button(say("imagine.frames"), row, f"{file}.png", "image/png", on_click="ignore", key="frames")
                components.share_button("share")


@st.fragment
def _plane(name: str, model: ImageGenerator) -> None:
    with show_errors():
        plane.of_seeds(name, model, READERS[name])


@st.fragment
def _drawn(name: str) -> None:
    with show_errors():
        plane.of_drawings(name, models.opened(name, Autoencoder), READERS[name])
