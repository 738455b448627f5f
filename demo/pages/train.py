"""Train it here: a network learns before one's eyes, is exported and compared with PyTorch, and reads what one draws."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import streamlit as st

from onnxferry.demo.images.strokes import painted, read_strokes
from onnxferry.demo.shipped import models
from onnxferry.demo.shipped.figures import parity_sentence
from onnxferry.demo.training.frames import FILE, RECORDED, Frames, read_frames
from onnxferry.demo.training.run import SECONDS, Run, can_train
from onnxferry.demo.widgets import components, html, pad
from onnxferry.demo.widgets.network import signed
from onnxferry.demo.widgets.page import heading, show_errors
from onnxferry.demo.words.language import marked, say
from onnxferry.runtime import Classifier
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.formats import human_bytes

_EVERY = 1.0  # seconds between two looks of the page


_PLAYED_SECONDS = 20.0  # that playing a record takes, however long it was


_SURE = 0.6


def page() -> None:
    """The page."""
    heading(say("train.title"), say("train.lead", seconds=SECONDS))
    with show_errors():
        here = can_train()
        if not here:
            st.info(say("train.no torch"))
        with st.container(horizontal=True):
            if here and st.button(say("train.start"), type="primary", key="start training", disabled=_running() is not None):
                _forget()
                st.session_state["run"] = Run()
                st.rerun()  # the buttons before this one stand there already
            if st.button(say("train.play"), key="play training", disabled=_running() is not None):
                _forget()
                st.session_state["played"] = time.monotonic()
                st.rerun()
            if _running() is not None and st.button(say("yours.stop"), key="stop training"):
                st.session_state.pop("run").stop()
        moving = _running() is not None or "played" in st.session_state
        if not moving and "trained" not in st.session_state and st.query_params.get("drawing"):
            st.session_state["trained"] = RECORDED  # a link to a drawing on the recorded network
        st.fragment(_progress, run_every=_EVERY if moving else None)()
        folder = st.session_state.get("trained")
        if folder is not None and not moving:
            _finished(folder)
        if folder is None or moving:
            components.share_button("share")


def _running() -> Run | None:
    run: Run | None = st.session_state.get("run")
    return run if run is not None and run.is_running() else None


def _forget() -> None:
    """What was trained or played before."""
    for name in ("run", "played", "trained"):
        st.session_state.pop(name, None)


def _progress() -> None:
    """The newest look. Runs the whole page once more when what was moving has ended."""
    with show_errors():
        run: Run | None = st.session_state.get("run")
        if run is not None:
            frames = read_frames(run.folder)
            if frames is not None and len(frames):
                _look(frames, len(frames) - 1, seconds=SECONDS)
            elif run.is_running():
                st.progress(0.0, say("train.begins"))
            if not run.is_running():
                if run.problem():
                    raise InputError(run.problem())
                if st.session_state.get("trained") != run.folder:
                    st.session_state["trained"] = run.folder
                    st.rerun()
            return
        recorded = read_frames(RECORDED)
        if recorded is None:
            return
        begun = st.session_state.get("played")
        if begun is None:
            _look(recorded, len(recorded) - 1, seconds=float(recorded.seconds[-1]))
            return
        whole = float(recorded.seconds[-1])
        passed = whole * (time.monotonic() - begun) / _PLAYED_SECONDS
        position = int(np.searchsorted(recorded.seconds, passed, side="right")) - 1
        _look(recorded, max(0, position), seconds=whole)
        if passed > whole:
            st.session_state.pop("played")
            st.session_state["trained"] = RECORDED
            st.rerun()


def _look(frames: Frames, look: int, *, seconds: float) -> None:
    state = frames.state if look == len(frames) - 1 else "training"
    share = 1.0 if state != "training" else min(float(frames.seconds[look]) / max(seconds, 1.0), 1.0)
    words = say(f"train.state.{state}", seconds=f"{frames.seconds[look]:.0f}", updates=f"{int(frames.updates[look]):,}")
    st.progress(share, words)
    left, middle, right = st.columns([3, 2, 3], gap="medium")
    with left:
        st.html(html.curve(frames.loss[: look + 1].tolist(), title=say("train.loss"), words=f"{frames.loss[look]:.2f}", span=len(frames)))
        right_share = float(frames.accuracy[look])
        st.html(
            html.curve(
                frames.accuracy[: look + 1].tolist(), title=say("train.accuracy", count=frames.record["held_out"]),
                words=html.percent(right_share), span=len(frames), top=1.0,
            )
        )  # fmt: skip
    with middle:
        st.html(f"<p><b>{say('train.kernels')}</b></p>")
        tiles = [
            html.image(signed(kernel.astype(np.float64)), say("train.kernel", number=i + 1))
            for i, kernel in enumerate(frames.kernels[look])
        ]
        st.html(html.grid(tiles, 56, name=say("train.kernels")))
        st.caption(say("train.kernels.words"))
    with right:
        mistakes = frames.mistakes(look)
        st.html(f"<p><b>{say('train.mistakes')}</b></p>")
        figures = [
            html.image(image, say("compress.digit.alt", label=label), say("recognise.read as", truth=label, said=said))
            for image, label, said in mistakes
        ]
        st.html(html.grid(figures, 72, name=say("train.mistakes")))
        if not mistakes:
            st.caption(say("train.no mistakes"))


def _finished(folder: Path) -> None:
    """The file, the proof, and a pad to draw on it."""
    frames = read_frames(folder)
    file = folder / FILE
    if frames is None or frames.state != "done" or not file.is_file():
        return
    record = frames.record
    st.header(say("train.proof"))
    st.markdown(parity_sentence(record))
    accuracy, count = record["test"]["accuracy"], record["test"]["n"]
    st.markdown(say("train.test", share=html.percent(float(accuracy)), count=f"{count:,}", size=human_bytes(int(record["bytes"]))))
    if folder == RECORDED:
        st.caption(marked("train.recorded", processor=record["processor"], seconds=f"{record['trained_seconds']:.0f}"))
    st.download_button(say("train.download"), file.read_bytes(), FILE, "application/octet-stream", on_click="ignore", key="trained file")
    st.header(say("train.try"))
    with st.container(key="live"):
        _draw(str(file), linked=folder == RECORDED)


@st.fragment
def _draw(file: str, *, linked: bool) -> None:
    """``linked``: a link leads to this network too, as it does not to one that was trained in this session: that is said."""
    with show_errors():
        left, right = st.columns([2, 3], gap="medium")
        with left, st.container(key="pad"):
            text, _ = pad.drawing_pad("pad_train", st.query_params.get("drawing", ""))
            strokes = read_strokes(text)
            components.share_button("share", {"drawing": text if strokes else ""})
            if not linked:
                st.caption(say("train.not linked"))
        with right, st.container(key="answer"):
            if not strokes:
                components.patched("said", html.answer("?", say("recognise.invite.Draw"), sure=False, reading=say("recognise.reading")))
                return
            model = _opened(file)
            prediction = model.predict_one(painted(strokes))
            sure = prediction.probability >= _SURE
            words = say("recognise.sure" if sure else "recognise.guess", share=html.percent(prediction.probability))
            components.patched("said", html.answer(prediction.label, words, sure=sure, reading=say("recognise.reading")))
        with right:
            components.patched("bars", html.bars(model.labels, prediction.probabilities.tolist(), title=say("recognise.bars")))


def _opened(file: str) -> Classifier:
    """Once for each visitor's file."""
    kept = st.session_state.get("trained_model")
    if kept is None or kept[0] != file:
        kept = (file, models.loaded(Path(file), Classifier))
        st.session_state["trained_model"] = kept
    model: Classifier = kept[1]
    return model
