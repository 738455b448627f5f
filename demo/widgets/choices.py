"""Choices that the address carries: what is there is the choice's own name, whatever language its words are shown in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

Names = Mapping[str, str] | None


def choose(label: str, options: Sequence[str], key: str, *, default: str, names: Names = None, **style: Any) -> str:
    """A row of buttons, one of them pressed. The choice is kept for the session; it is in the address where it is not ``default``."""
    prepare(key, options, default)
    words = names or {}
    chosen = st.segmented_control(
        label, options, format_func=lambda each: words.get(each, each), required=True, key=key, persist_state="session", wrap=True, **style
    )
    return note(key, str(chosen) if chosen in options else default, default)


def pick(label: str, options: Sequence[str], key: str, *, default: str, names: Names = None, **style: Any) -> str:
    """As :func:`choose`, as a list that opens."""
    prepare(key, options, default)
    words = names or {}
    chosen = st.selectbox(label, options, format_func=lambda each: words.get(each, each), key=key, persist_state="session", **style)
    return note(key, str(chosen) if chosen in options else default, default)


def prepare(key: str, options: Sequence[str], default: str) -> None:
    """Puts into the session what the address asks for, where it asks for something new, and ``default`` where nothing fits."""
    asked, seen = st.query_params.get(key), st.session_state.get(f"{key} in the address")
    if asked in options and asked != seen:
        st.session_state[key] = asked
    elif st.session_state.get(key) not in options:
        st.session_state[key] = default
    st.session_state[f"{key} in the address"] = asked


def note(key: str, value: str, default: str) -> str:
    """Writes ``value`` into the address, or takes it out where it is what one sees anyway."""
    wanted = None if value == default else value
    if st.query_params.get(key) != wanted:
        if wanted is None:
            st.query_params.pop(key, None)
        else:
            st.query_params[key] = wanted
    st.session_state[f"{key} in the address"] = wanted
    return value


def whole_from_address(key: str, most: int, default: int = 0) -> int:
    """A whole number from 0 to ``most`` that is in the address under ``key``."""
    asked = st.query_params.get(key, "")
    return min(int(asked), most) if asked.isascii() and asked.isdigit() and len(asked) < 10 else default


def flag(label: str, key: str, **style: Any) -> bool:
    """A switch, off at first; it is kept for the session, and in the address while it is on."""
    prepare(key, ("on", "off"), "off")
    shown = f"{key} shown"
    st.session_state[shown] = st.session_state[key] == "on"

    def turned() -> None:
        st.session_state[key] = "on" if st.session_state[shown] else "off"

    st.toggle(label, key=shown, on_change=turned, **style)
    return note(key, str(st.session_state[key]), "off") == "on"
