"""Write: a prompt goes in, and text streams out as it is made."""

from __future__ import annotations

import time
from dataclasses import dataclass

import streamlit as st

from onnxferry.demo.shipped import models
from onnxferry.demo.widgets import html
from onnxferry.demo.widgets.page import heading, show_errors
from onnxferry.runtime import TextGenerator

MODEL = "shakespeare"


LONGEST = 100_000  # bytes: a text that takes some tens of seconds, which is what Stop is for


_SHOWN_EVERY = 0.06  # seconds between two looks at the text: more often is not visible


_SHOWN_EVERY_BYTE = 4e-6  # seconds more for each byte that stands there already, as each look sends and lays out all (0.15 s at LONGEST)


_TO_SEND = 0.01  # seconds for the thread that sends what is shown: where the model computes on all CPUs it came to none for half a minute


@dataclass(frozen=True)
class Settings:
    """What decides a text; the same settings write the same text."""

    prompt: str = "ROMEO:\n"
    temperature: float = 0.8  # 0: always the likeliest byte
    top_k: int = 0  # only the k likeliest bytes; 0: all
    top_p: float = 1.0  # only the likeliest that hold this share; 1: all
    length: int = 500  # bytes at most
    seed: int = 0


@dataclass
class Written:
    """A text as far as it has come."""

    settings: Settings
    text: str = ""
    seconds: float = 0.0
    finished: bool = False

    @property
    def bytes(self) -> int:
        return len(self.text.encode())

    def note(self) -> str:
        """One line on how it went."""
        rate = f" at {self.bytes / self.seconds:,.0f} bytes per second" if self.seconds else ""
        return f"{self.bytes:,} bytes{rate}{'' if self.finished else ', stopped'}"


def page() -> None:
    """The page."""
    heading("Write", "It learnt from Shakespeare's plays, one byte at a time, and goes on from whatever you begin.")
    with show_errors():
        if not models.shipped([MODEL]):
            st.info(models.not_shipped(MODEL))
            return
        model = models.opened(MODEL, TextGenerator)
        controls, paper = st.columns([4, 7], gap="large")
        with controls:
            settings = _settings()
            buttons = st.columns(3)
            pressed = buttons[0].button("Write", type="primary", width="stretch")
            again = buttons[1].button("Next seed", on_click=_next_seed, width="stretch")
            # A page that is opened writes at once, so that a link shows what its sender saw.
            start = pressed or again or "written" not in st.session_state
            stop = buttons[2].empty()
            stop.button("Stop", disabled=not start, width="stretch", key=f"stop_{start}")
        with paper:
            if start:
                _write(model, settings)
                stop.button("Stop", disabled=True, width="stretch", key="stopped")
            else:
                _show(st.session_state["written"], settings)


def _settings() -> Settings:
    usual = Settings()
    prompt = st.text_area(
        "Prompt", usual.prompt, max_chars=4000, height=110, key="prompt", bind="query-params", persist_state="session",
        help="How the text begins. A name in capitals with a colon makes that person speak.",
    )  # fmt: skip
    temperature = st.slider(
        "Temperature", 0.0, 2.0, usual.temperature, 0.05, key="temperature", bind="query-params", persist_state="session",
        help="1 chooses as the model believes; lower is safer, 0 always takes the likeliest byte; higher is bolder.",
    )  # fmt: skip
    length = st.number_input(
        "Length in bytes", 1, LONGEST, usual.length, 100, key="length", bind="query-params", persist_state="session",
        help=f"At most {LONGEST:,}. A long text can be stopped: what stands there by then stays.",
    )  # fmt: skip
    left, right = st.columns(2)
    top_k = left.number_input(
        "Top-k", 0, 256, usual.top_k, key="top_k", bind="query-params", persist_state="session",
        help="Only the k likeliest bytes may come next; 0 for all.",
    )  # fmt: skip
    top_p = right.number_input(
        "Top-p", 0.05, 1.0, usual.top_p, 0.05, key="top_p", bind="query-params", persist_state="session",
        help="Only the likeliest bytes that together hold this share; 1 for all.",
    )  # fmt: skip
    seed = st.number_input(
        "Seed", 0, 2**31 - 1, usual.seed, key="seed", bind="query-params", persist_state="session",
        help="The same seed and settings write the same text.",
    )  # fmt: skip
    return Settings(str(prompt or ""), float(temperature), int(top_k), float(top_p), int(length), int(seed))


def _next_seed() -> None:
    st.session_state["seed"] = (int(st.session_state.get("seed") or 0) + 1) % 2**31


def _write(model: TextGenerator, settings: Settings) -> None:
    """Streams onto the sheet. Stop, or any other change, ends this run at its next look; what is written by then stays."""
    written = Written(settings)
    st.session_state["written"] = written
    sheet, note = st.empty(), st.empty()
    sheet.html(html.sheet(settings.prompt, "", writing=True))
    pieces = model.stream(
        settings.prompt,
        settings.length,
        settings.temperature,
        settings.top_k or None,
        settings.top_p if settings.top_p < 1 else None,
        settings.seed,
    )
    started = time.perf_counter()
    shown = 0.0
    for piece in pieces:
        written.text += piece
        written.seconds = time.perf_counter() - started
        if written.seconds - shown >= _SHOWN_EVERY + _SHOWN_EVERY_BYTE * len(written.text):
            shown = written.seconds
            sheet.html(html.sheet(settings.prompt, written.text, writing=True))
            note.caption(written.note().removesuffix(", stopped"))
            time.sleep(_TO_SEND)
    written.finished = True
    sheet.html(html.sheet(settings.prompt, written.text))
    note.caption(written.note())


def _show(written: Written, settings: Settings) -> None:
    st.html(html.sheet(written.settings.prompt, written.text))
    changed = "" if written.settings == settings else ". The settings have changed since: press Write"
    st.caption(written.note() + changed)
