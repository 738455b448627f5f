"""Ten digits against the clock: draw each so that the network reads it."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field

import numpy as np
import streamlit as st
from PIL import Image, ImageDraw, ImageFont

from onnxferry.demo.images.strokes import PAINTED, painted, read_strokes
from onnxferry.demo.shipped import models
from onnxferry.demo.widgets import components, html, pad
from onnxferry.demo.widgets.page import heading, show_errors
from onnxferry.demo.words.language import say
from onnxferry.runtime import Classifier

MODEL = "digits"


_SURE = 0.6


@dataclass
class Game:
    """One game, from its first digit to its last."""

    order: str  # ten digits
    begun: float  # of time.monotonic
    first: int = 0  # number of its first sheet of paper
    drawn: list[np.ndarray] = field(default_factory=list)  # uint8 (side, side, 1): what was on the pad when a digit was done or passed over
    read: list[str] = field(default_factory=list)  # as what
    seconds: list[float] = field(default_factory=list)  # since the beginning

    @property
    def at(self) -> int:
        """The digit that is to be drawn, 10 after the last."""
        return len(self.drawn)

    @property
    def sheet(self) -> int:
        """The sheet of paper on the pad: one a digit, over all games of a visitor."""
        return self.first + self.at

    def done(self, image: np.ndarray, label: str) -> None:
        """On to the next one."""
        self.drawn.append(image)
        self.read.append(label)
        self.seconds.append(time.monotonic() - self.begun)

    @property
    def right(self) -> int:
        """How many were read as what they were meant to be."""
        return sum(label == digit for label, digit in zip(self.read, self.order, strict=False))


def page() -> None:
    """The page."""
    heading(say("game.title"), say("game.lead"))
    with show_errors():
        if MODEL not in models.shipped([MODEL]):
            st.info(models.not_shipped(MODEL))
            return
        with st.container(key="live"):
            _live()


@st.fragment
def _live() -> None:
    with show_errors():
        game: Game | None = st.session_state.get("game")
        if game is None:
            st.markdown(say("game.rules"))
            with st.container(horizontal=True):
                st.button(say("game.start"), type="primary", key="start game", on_click=_begin)
                components.share_button("share")
        elif game.at < len(game.order):
            _play(game)
        else:
            _end(game)


def _begin() -> None:
    asked = st.query_params.get("order", "")
    order = asked if re.fullmatch(r"\d{10}", asked, re.ASCII) else "".join(map(str, np.random.default_rng().permutation(10)))
    before: Game | None = st.session_state.get("game")
    st.session_state["game"] = Game(order, time.monotonic(), before.sheet + 1 if before else 1)


def _again() -> None:
    st.query_params.pop("order", None)
    _begin()


def _play(game: Game) -> None:
    wanted = game.order[game.at]
    left, right = st.columns([2, 3], gap="medium")
    with left, st.container(key="pad"):
        text, rests = pad.drawing_pad("pad_game", sheet=game.sheet)
        strokes = read_strokes(text)
    image = painted(strokes) if strokes else np.full((PAINTED, PAINTED, 1), 255, np.uint8)
    with right:
        answer = st.container(key="answer")
        clock = components.renderer("clock", "<output></output>", "clock.js")
        clock(key="clock", data={"seconds": time.monotonic() - game.begun, "label": say("game.time")})
        st.caption(say("game.done", count=game.at, of=len(game.order)))
        note, label = say("game.draw", digit=wanted), ""
        if strokes:
            prediction = models.opened(MODEL, Classifier).predict_one(image)
            label = prediction.label if prediction.known else ""
            if rests and label == wanted and prediction.probability >= _SURE:
                game.done(image, label)
                st.rerun()
            if rests:
                note = say("game.reads", digit=wanted, said=prediction.label) if label else say("game.reads nothing", digit=wanted)
        with answer:
            components.patched("said", html.answer(wanted, note, reading=say("recognise.reading")))
        if st.button(say("game.pass"), key=f"pass {game.at}"):
            game.done(image, label if label != wanted else "")
            st.rerun()


def _end(game: Game) -> None:
    total = f"{game.seconds[-1]:.1f}"
    key = "game.result" if game.right == len(game.order) else "game.result.some"
    st.html(html.answer(f"{total} s", say(key, right=game.right, of=len(game.order))))
    figures = []
    before = 0.0
    for digit, image, label, seconds in zip(game.order, game.drawn, game.read, game.seconds, strict=True):
        words = (
            say("game.took", seconds=f"{seconds - before:.1f}") if label == digit else say("game.missed", digit=digit, said=label or "–")
        )
        figures.append(html.image(image, say("compress.digit.alt", label=digit), words, badge="right" if label == digit else "wrong"))
        before = seconds
    st.html(html.grid(figures, 110, name=say("game.title")))
    with st.container(horizontal=True):
        st.button(say("game.again"), type="primary", key="game again", on_click=_again)
        st.download_button(say("game.card"), html.png(card(game)), "onnxferry-game.png", "image/png", on_click="ignore", key="game card")
        components.share_button("share", {"order": game.order})
    st.caption(say("game.share"))


def card(game: Game) -> np.ndarray:
    """A finished game as one picture to show around, uint8 (height, width, 3): its drawings, what was read, and its time."""
    side, gap, head = PAINTED, 12, 64
    made = Image.new("RGB", (5 * side + 6 * gap, head + 2 * (side + 34) + 2 * gap), "#fbfaf7")
    draw = ImageDraw.Draw(made)
    draw.text(
        (gap, 14), f"onnxferry    {game.right} / {len(game.order)}    {game.seconds[-1]:.1f} s", "#1c2430", ImageFont.load_default(30)
    )
    small = ImageFont.load_default(20)
    for position, (digit, image, label) in enumerate(zip(game.order, game.drawn, game.read, strict=True)):
        left, top = gap + position % 5 * (side + gap), head + position // 5 * (side + 34 + gap)
        made.paste(Image.fromarray(image[..., 0]), (left, top))
        draw.rectangle((left - 1, top - 1, left + side, top + side), outline="#8b95a1")
        right = label == digit
        draw.text((left + 2, top + side + 4), digit if right else f"{digit}: {label or '-'}", "#17693a" if right else "#a8330f", small)
    return np.asarray(made)
