"""Which language a visitor reads, and its words: ``say("write.title")``.

The language is what was chosen on the page, else what the address says (``?lang=zh``), else the browser's.
"""

from __future__ import annotations

from typing import Any

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from onnxferry.demo.words.catalogue import LANGUAGES as LANGUAGES
from onnxferry.demo.words.catalogue import NAMES as NAMES
from onnxferry.demo.words.markdown import plain_markdown

KEY = "lang"
"""Of the session and of the address."""


def language() -> str:
    """``en`` or ``zh``; English where no page is shown."""
    if get_script_run_ctx(suppress_warning=True) is None:
        return "en"
    for asked in (st.session_state.get(KEY), st.query_params.get(KEY)):
        if asked in LANGUAGES:
            return str(asked)
    return "zh" if str(st.context.locale or "").lower().startswith("zh") else "en"


def say(key: str, /, **values: Any) -> str:
    """The words of ``key`` with ``values`` in their places, as plain text: for HTML, which is escaped where it is made."""
    words = LANGUAGES[language()][key]
    return words.format(**values) if values else words


def marked(key: str, /, **values: Any) -> str:
    """As :func:`say`, for where Streamlit reads Markdown: nothing in ``values`` is markup."""
    return LANGUAGES[language()][key].format(
        **{name: value if isinstance(value, int) else plain_markdown(value) for name, value in values.items()}
    )
