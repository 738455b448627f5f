"""Imagine: images out of noise, by class and seed; a walk between two seeds; real ones beside them."""

from __future__ import annotations

import numpy as np
import streamlit as st

from onnxferry.demo.shipped import models
from onnxferry.demo.widgets import html
from onnxferry.demo.widgets.page import heading, show_errors
from onnxferry.runtime import ImageGenerator
from onnxferry.runtime.images.grid import image_grid

MODELS = ("digits-gan", "fashion-gan")


ALL = "all in turn"


WALK_STEPS = 25


_STRIP = 9  # images of the walk that are shown at once


def page() -> None:
    """The page."""
    heading("Imagine", "None of these images existed before: the generator makes each out of random numbers and the class you ask for.")
    with show_errors():
        name = st.segmented_control(
            "Model", MODELS, default=MODELS[0], required=True, key="maker", bind="query-params", persist_state="session"
        )
        if name not in models.shipped(MODELS):
            st.info(models.not_shipped(str(name)))
            return
        model = models.opened(str(name), ImageGenerator)
        grid, walk = st.tabs(["A grid", "A walk between two seeds"])
        with grid:
            _grid(str(name), model)
        with walk:
            _walk(model)


@st.fragment
def _grid(name: str, model: ImageGenerator) -> None:
    with show_errors():
        columns = st.columns([3, 2, 2, 2], vertical_alignment="bottom")
        label = columns[0].selectbox("Class", [ALL, *model.labels], key="class", bind="query-params", persist_state="session")
        count = columns[1].number_input("Images", 1, 100, 16, key="count", bind="query-params", persist_state="session")
        seed = columns[2].number_input("Seed", 0, 2**31 - 1, 0, key="from_seed", bind="query-params", persist_state="session")
        columns[3].button("Next seed", icon=":material/casino:", on_click=_next_seed, width="stretch")
        asked = None if label == ALL else str(label)
        indices = model.class_indices(asked)
        names = [model.labels[indices[i % len(indices)]] for i in range(int(count))]
        made = model.sample(int(count), labels=indices[: int(count)], seed=int(seed))  # uint8 (count, size, size[, 3])
        generated, real = st.columns([3, 2], gap="large")
        with generated:
            st.markdown("**Generated**")
            st.html(
                html.grid([html.image(each, f"Generated image of {n}") for each, n in zip(made, names, strict=True)], 120, name="Generated")
            )
            file = html.png(image_grid(made, columns=max(1, round(len(made) ** 0.5)), gap=2, scale=4))
            slug = "all" if asked is None else "".join(c if c.isalnum() else "-" for c in asked)
            st.download_button(
                "Download as one PNG", file, f"{name}-{slug}-seed-{seed}.png", "image/png", icon=":material/download:", on_click="ignore"
            )
        with real:
            st.markdown("**Real, held out from training**")
            images = real_images(models.examples(name), indices, int(count))
            if not images:
                st.caption("This model ships no real images to put beside them.")
            truths = [(each, model.labels[index]) for each, index in images]
            st.html(html.grid([html.image(each, f"Real image of {n}") for each, n in truths], name="Real"))


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
def _walk(model: ImageGenerator) -> None:
    with show_errors():
        columns = st.columns(3)
        first = columns[0].number_input("From seed", 0, 2**31 - 1, 1, key="walk_from", bind="query-params", persist_state="session")
        last = columns[1].number_input("To seed", 0, 2**31 - 1, 2, key="walk_to", bind="query-params", persist_state="session")
        label = columns[2].selectbox("Class of the walk", model.labels, key="walk_class", bind="query-params", persist_state="session")
        step = st.slider("Along the way", 0, WALK_STEPS - 1, 0, key="step", bind="query-params", persist_state="session")
        made = model.walk(int(first), int(last), WALK_STEPS, label)  # uint8 (steps, size, size[, 3])
        here, way = st.columns([1, 3], vertical_alignment="center")
        with here:
            st.html(html.image(made[step], f"{label} at step {step} of {WALK_STEPS - 1}", f"step {step} of {WALK_STEPS - 1}"))
        with way:
            stops = np.linspace(0, WALK_STEPS - 1, _STRIP).round().astype(int)
            st.html(html.strip([html.image(made[i], f"{label} at step {i}") for i in stops], name="The whole way"))
            st.caption(
                "On the great circle between the two seeds' noise: a straight line would pass where noise hardly ever falls "
                "([White 2016](https://arxiv.org/abs/1609.04468))."
            )
