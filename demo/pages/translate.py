"""Translate: a date in any of 27 languages goes in, the ISO date comes out, with what each of its characters was read from."""

from __future__ import annotations

import numpy as np
import streamlit as st

from onnxferry.demo.shipped import models
from onnxferry.demo.widgets import components, html
from onnxferry.demo.widgets.page import heading, show_errors
from onnxferry.demo.words.language import say
from onnxferry.runtime import Translation, Translator

MODEL = "dates"


EXAMPLES = ("le 3 mars 2019", "Mar 3, '19", "2019年3月3日", "令和元年5月1日", "٣ مارس ٢٠١٩", "3 มีนาคม 2562", "3. III. 2019")
"""The one that is shown first, and others to press."""


LONGEST = 60
"""Characters of a text: each is a column of the table."""


BEAM = 3


def page() -> None:
    """The page."""
    heading(say("translate.title"), say("translate.lead"))
    with show_errors():
        if not models.shipped([MODEL]):
            st.info(models.not_shipped(MODEL))
            return
        model = models.opened(MODEL, Translator)
        st.session_state.setdefault("text", st.query_params.get("text", EXAMPLES[0]))
        text = str(st.text_input(say("translate.text"), key="text", max_chars=LONGEST, bind="query-params", persist_state="session") or "")[
            :LONGEST
        ]
        with st.container(horizontal=True):
            for number, example in enumerate(EXAMPLES):
                st.button(example, key=f"example {number}", on_click=_take, args=(example,))
        if not text.strip():
            st.info(say("translate.empty"))
            components.share_button("share")
            return
        best, *others = model.explain(text, beam=BEAM)
        st.html(html.answer(best.text or "?", say("translate.sure", share=html.percent(best.probability)), sure=best.probability >= 0.5))
        st.caption(say("translate.others", others=", ".join(f"{each.text} ({html.percent(each.probability)})" for each in others)))
        st.header(say("translate.attention"))
        st.caption(say("translate.attention.words"))
        columns, rows, weights = by_character(text, best)
        st.html(html.heat_table(columns, rows, weights.tolist(), name=say("translate.attention")))
        components.share_button("share")


def _take(example: str) -> None:
    st.session_state["text"] = example


def by_character(text: str, translation: Translation) -> tuple[list[str], list[str], np.ndarray]:
    """The text's characters and its end, the translation's and its end, and the attention between them, float32 (rows, columns).

    The attention is between bytes: of a text's character its bytes are added up, of a translation's they are averaged.
    """
    end = say("translate.end")
    written = [*translation.text, *([end] if translation.finished else [])]
    weights = _joined(translation.attention, [*text, "\0"], axis=1)
    counts = np.array([len(character.encode()) for character in translation.text] + [1] * translation.finished, np.float32)
    if int(counts.sum()) != len(weights):  # bytes that are no UTF-8 were replaced: the rows cannot be assigned to its characters
        return [*text, end], [str(row + 1) for row in range(len(weights))], weights
    return [*text, end], written, _joined(weights, [*translation.text, *("\0" * translation.finished)], axis=0) / counts[:, None]


def _joined(weights: np.ndarray, characters: list[str], axis: int) -> np.ndarray:
    starts = np.cumsum([0, *(len(character.encode()) for character in characters[:-1])])
    joined: np.ndarray = np.add.reduceat(weights, starts, axis=axis)
    return joined
