"""Untrusted text for where Streamlit reads Markdown: labels, captions, errors."""

from __future__ import annotations

import re

_JOINER = "\u2060"  # word joiner: is not seen and not broken at, and what stands beside it is no address, emoji or icon any more


def plain_markdown(text: object) -> str:
    """One line of untrusted text for where Streamlit reads Markdown: nothing in it is markup, and it is at most 400 characters.

    Backslashes alone are not enough: Streamlit makes links of bare addresses, and icons and emoji of ``:names:``, after they are
    resolved (GitHub Flavored Markdown, "Autolinks").
    """
    line = next(iter(str(text).splitlines()), "")
    line = line if len(line) <= 400 else f"{line[:400]} …"
    line = re.sub(r"(:(?=\S)|@|www|--?(?=>)|<(?=-)|-(?=-)|[<>~](?==))", rf"\1{_JOINER}", line, flags=re.IGNORECASE)
    return re.sub(r"([\\`*_{}\[\]()#+\-.!|~$<>:&])", r"\\\1", line)
