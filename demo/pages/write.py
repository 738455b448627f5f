"""Write: a prompt goes in, and text streams out as it is made; then each letter's surprise, and what else it weighed."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

import numpy as np
import streamlit as st

from onnxferry.demo.shipped import models, surprise
from onnxferry.demo.widgets import components, html
from onnxferry.demo.widgets.choices import choose
from onnxferry.demo.widgets.letters import coloured_letters
from onnxferry.demo.widgets.page import heading, show_errors
from onnxferry.demo.words.language import say
from onnxferry.demo.words.markdown import plain_markdown
from onnxferry.runtime import TextGenerator

MODEL = "shakespeare"


LONGEST = 100_000  # letters: a text that takes some tens of seconds, which is what Stop is for


LONGEST_PROMPT = 4000  # letters that are kept of a prompt, its last ones


COLOURED = 1500  # letters that are coloured: each is an element of the page


_SHOWN_EVERY = 0.06  # seconds between two looks at the text: more often is not visible


_SHOWN_EVERY_LETTER = (
    4e-6  # seconds more for each letter that stands there already, as each look sends and lays out all (0.15 s at LONGEST)
)


_TO_SEND = 0.01  # seconds for the thread that sends what is shown: where the model computes on all CPUs it came to none for half a minute


_LATIN = re.compile(r"[\x00-\u024f\u2010-\u2030]*")


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

    def note(self, *, ended: bool = True) -> str:
        """One line on how it went, as Markdown."""
        key = "write.note" if self.finished or not ended else "write.note.stopped"
        return say(key, count=len(self.text), seconds=f"{self.seconds:.1f}")


def page() -> None:
    """The page."""
    heading(say("write.title"), say("write.lead"))
    with show_errors():
        if not models.shipped([MODEL]):
            st.info(models.not_shipped(MODEL))
            return
        model = models.opened(MODEL, TextGenerator)
        paper, controls = st.columns([7, 4], gap="large")
        with controls:
            settings, start = _settings()
            branch = st.session_state.pop("branch", None)
            start = start or branch is not None or "written" not in st.session_state  # a page that is opened writes at once
            stop = st.empty()
        with paper:
            head = st.container(horizontal=True, vertical_alignment="center", key="paper")
            with head:
                view = choose(
                    say("write.view"), ("text", "surprise"), "show", default="text",
                    names={each: say(f"write.view.{each}") for each in ("text", "surprise")}, label_visibility="collapsed",
                )  # fmt: skip
            note = st.empty()
            if start:
                stop.button(say("write.stop"), width="stretch", key="stop")
                _write(model, settings, note)
                stop.empty()
            written: Written = st.session_state["written"]
            if not start or view == "surprise":
                _show(model, written, view, note)
            with head:
                components.share_button("share", _carried(written.settings))
                components.copy_button("copy", written.settings.prompt + written.text)
                st.download_button(
                    say("write.download"), written.settings.prompt + written.text, "onnxferry.txt", "text/plain", on_click="ignore"
                )


def _carried(settings: Settings) -> dict[str, str]:
    """What a link has to say so that it writes this text, by the names of the fields."""
    usual = Settings()
    return {name: str(getattr(settings, name)) if getattr(settings, name) != getattr(usual, name) else "" for name in vars(usual)}


def _settings() -> tuple[Settings, bool]:
    """What is set, and whether Write was pressed. In a form: nothing changes, in the address neither, before that."""
    usual = Settings()
    for name in ("prompt", "seed"):  # these two are set by the page as well
        st.session_state.setdefault(name, st.query_params.get(name, getattr(usual, name)))
    if not str(st.session_state["seed"]).isdigit() or int(st.session_state["seed"]) >= 2**31:
        st.session_state["seed"] = usual.seed
    st.session_state["seed"] = int(st.session_state["seed"])
    with st.form("write", border=False):
        prompt = str(
            st.text_area(
                say("write.prompt"), height=110, key="prompt", bind="query-params", persist_state="session", help=say("write.prompt.help")
            )
            or ""
        )
        temperature = st.slider(
            say("write.boldness"), 0.0, 2.0, usual.temperature, 0.05, key="temperature", bind="query-params", persist_state="session",
            help=say("write.boldness.help"),
        )  # fmt: skip
        length = st.number_input(
            say("write.length"), 1, LONGEST, usual.length, 100, key="length", bind="query-params", persist_state="session",
            help=say("write.length.help", most=LONGEST),
        )  # fmt: skip
        with st.expander(say("write.more")):
            top_k = st.number_input(
                say("write.top_k"), 0, 256, usual.top_k, key="top_k", bind="query-params", persist_state="session",
                help=say("write.top_k.help"),
            )  # fmt: skip
            top_p = st.number_input(
                say("write.top_p"), 0.05, 1.0, usual.top_p, 0.05, key="top_p", bind="query-params", persist_state="session",
                help=say("write.top_p.help"),
            )  # fmt: skip
            seed = st.number_input(
                say("write.seed"), 0, 2**31 - 1, key="seed", bind="query-params", persist_state="session", help=say("write.seed.help")
            )
        left, right = st.columns(2)
        # The first of a form's buttons is what Ctrl+Enter presses.
        pressed = left.form_submit_button(say("write.write"), type="primary", width="stretch", key="write now")
        again = right.form_submit_button(say("write.another"), on_click=_next_seed, width="stretch", key="another")
    if len(prompt) > LONGEST_PROMPT:
        st.caption(say("write.cut", kept=LONGEST_PROMPT, given=len(prompt)))
        prompt = prompt[-LONGEST_PROMPT:]
    if not _LATIN.fullmatch(prompt):
        st.caption(say("write.english only"))
    return Settings(prompt, float(temperature), int(top_k), float(top_p), int(length), int(seed)), pressed or again


def _next_seed() -> None:
    st.session_state["seed"] = (int(st.session_state.get("seed") or 0) + 1) % 2**31


def _write(model: TextGenerator, settings: Settings, note: st.delta_generator.DeltaGenerator) -> None:
    """Streams onto the sheet. Stop, or any other change, ends this run at its next look; what is written by then stays."""
    written = Written(settings)
    st.session_state["written"] = written
    sheet, name = st.empty(), say("write.sheet")
    sheet.html(html.sheet(settings.prompt, "", writing=True, name=name))
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
        if written.seconds - shown >= _SHOWN_EVERY + _SHOWN_EVERY_LETTER * len(written.text):
            shown = written.seconds
            sheet.html(html.sheet(settings.prompt, written.text, writing=True, name=name))
            note.caption(written.note(ended=False))
            time.sleep(_TO_SEND)
    written.finished = True
    if st.session_state.get("show") == "surprise":
        sheet.empty()
    else:
        sheet.html(html.sheet(settings.prompt, written.text, name=name))
    note.caption(written.note())


def _show(model: TextGenerator, written: Written, view: str, note: st.delta_generator.DeltaGenerator) -> None:
    note.caption(written.note())
    if view == "surprise":
        _surprise(model, written)
    else:
        st.html(html.sheet(written.settings.prompt, written.text, name=say("write.sheet")))


def _surprise(model: TextGenerator, written: Written) -> None:
    """The text's letters by how much they surprised the model, and what it weighed at the one that was chosen."""
    whole = written.settings.prompt + written.text
    letters = list(whole[:COLOURED])
    if not letters:
        return
    bits = surprise.bits(model, letters)
    index = coloured_letters("letters", letters, [min(each / 8, 1.0) for each in bits.tolist()], whole[COLOURED:])
    mean = float(bits.mean())
    verdict = "low" if mean < 2.4 else "middle" if mean < 3.2 else "high"
    st.html(html.sparkline(_smoothed(bits).tolist(), title=say("write.surprise.line")))
    st.caption(say("write.surprise.words", bits=f"{mean:.2f}", verdict=say(f"write.surprise.{verdict}")))
    if len(whole) > COLOURED:
        st.caption(say("write.surprise.first", count=COLOURED))
    if index < 0:
        return
    shares = surprise.weighed(model, "".join(letters[:index]))
    here = 100 * 2 ** -float(bits[index])
    st.markdown(say("write.surprise.weighed", letter=plain_markdown(_named(letters[index])), share=f"{here:.1f} %"))
    with st.container(horizontal=True):
        for letter, share in shares:
            st.button(
                f"{plain_markdown(_named(letter))} · {100 * share:.0f} %", key=f"branch {index} {ord(letter)}", on_click=_branch,
                args=("".join(letters[:index]) + letter,),
            )  # fmt: skip


def _named(letter: str) -> str:
    return {" ": say("write.surprise.space"), "\n": say("write.surprise.newline")}.get(letter, letter)


def _branch(prompt: str) -> None:
    """Another letter at that place: the model goes on from there."""
    st.session_state["prompt"] = prompt
    st.session_state["branch"] = prompt


def _smoothed(values: np.ndarray, width: int = 9) -> np.ndarray:
    """The running mean, so that words and not letters are seen; at most 300 points."""
    kernel = np.ones(min(width, len(values))) / min(width, len(values))
    smooth = np.convolve(values, kernel, mode="same")
    return smooth[:: max(1, len(smooth) // 300)]
