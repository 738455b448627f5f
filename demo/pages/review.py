"""Review: a text goes in, and how it is meant comes out, with the words that decided."""

from __future__ import annotations

import re

import numpy as np
import streamlit as st

from onnxferry.demo.shipped import models
from onnxferry.demo.widgets import components, html
from onnxferry.demo.widgets.page import heading, show_errors
from onnxferry.demo.words.language import language, say
from onnxferry.runtime.tasks.text_classifier import ByteTextClassifier, Explanation, margin

MODELS = ("sentiment-en", "sentiment-zh")
"""For texts without Chinese characters, and with them."""


EXAMPLES = (
    "A wonderful film, though it starts slowly.",
    "The battery died after a week and no one answered my mail.",
    "房间很干净，服务员也热情，下次还住这里。",
    "看了一半就看不下去了，不值这个价钱。",
)
"""To press."""


FIRST = {"en": 0, "zh": 2}
"""Which of them is shown first, by the visitor's language."""


LONGEST = 2000  # characters: each word is an element of the page


STRONGEST = 6  # words that the table holds


_HAN = re.compile(r"[\u3400-\u9fff]")


def page() -> None:
    """The page."""
    heading(say("review.title"), say("review.lead"))
    with show_errors():
        st.session_state.setdefault("review", st.query_params.get("review", EXAMPLES[FIRST[language()]]))
        text = str(st.text_area(say("review.text"), key="review", height=110, bind="query-params", persist_state="session") or "")
        if len(text) > LONGEST:
            st.caption(say("review.cut", kept=LONGEST, given=len(text)))
            text = text[:LONGEST]
        with st.container(horizontal=True):
            for number, example in enumerate(EXAMPLES):
                st.button(example, key=f"example {number}", on_click=_take, args=(example,))
        name = model_for(text)
        if not models.shipped([name]):
            st.info(models.not_shipped(name))
            return
        if not text.strip():
            st.info(say("review.empty"))
        else:
            _show(models.opened(name, ByteTextClassifier).explain(text), text)
        components.share_button("share", {"review": text})  # what is shown first is not in the address


def _take(example: str) -> None:
    st.session_state["review"] = example


def model_for(text: str) -> str:
    """The name of the model that reads this text."""
    return MODELS[1] if _HAN.search(text) else MODELS[0]


def _show(found: Explanation, text: str) -> None:
    prediction = found.prediction
    sure = prediction.probability >= 0.75
    st.html(html.answer(say(f"review.{prediction.label}"), say("review.sure", share=html.percent(prediction.probability)), sure=sure))
    st.header(say("review.words"))
    st.caption(say("review.words.how"))
    leans = leaning(found)
    st.html(html.leaning_words(pieces(found, text), [0.0, *leans], name=say("review.words")))
    strongest = np.argsort(-np.abs(leans), kind="stable")[:STRONGEST].tolist()
    positive = prediction.labels.index("positive")
    rows = [
        (
            found.words[place].text,
            f"{margin(found.words[place].evidence, positive):+.2f}",
            html.percent(found.words[place].attention),
        )
        for place in strongest
    ]
    st.html(html.table([say("review.word"), say("review.evidence"), say("review.attention")], rows, name=say("review.words")))


def leaning(found: Explanation) -> list[float]:
    """How much each word speaks for the class ``positive``, -1 to 1: a share of what the strongest says."""
    positive = found.prediction.labels.index("positive")
    margins = np.array([margin(word.evidence, positive) for word in found.words] or [0.0])
    shares: list[float] = (margins / max(float(np.abs(margins).max()), 1e-6)).tolist()
    return shares[: len(found.words)]


def pieces(found: Explanation, text: str) -> list[str]:
    """The text before the first word, and each word with what follows it; joined, they are the text."""
    starts = [word.start for word in found.words]
    return [text[begin:end] for begin, end in zip([0, *starts], [*starts, len(text)], strict=True)]
