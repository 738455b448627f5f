"""Checks of arguments, and how they are named in errors."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from onnxferry.runtime.errors import InputError


def instead(name: object, known: Sequence[str]) -> str:
    """The end of an error for an unknown name: ``; did you mean 'image'?``, or all known names."""
    import difflib  # only here: few starts end in an error

    folded = {each.casefold(): each for each in known}
    close = difflib.get_close_matches(str(name).casefold(), folded, n=1)
    return f"; did you mean {folded[close[0]]!r}?" if close else f"; it has {listed(known)}"


def listed(names: Iterable[object], most: int = 12) -> str:
    """Names for an error: ``'a', 'b'``, ``none``, or of many the first ones and how many there are."""
    words = [repr(str(name)) for name in names]
    more = f", … ({len(words)} in all)" if len(words) > most else ""
    return (", ".join(words[:most]) or "none") + more


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """An integer argument, of any integer type. Raises InputError for anything else and for one below ``least``."""
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least:
        raise InputError(f"{name} must be a whole number >= {least}, got {value!r}")
    return number


def kind(value: object) -> str:
    """The name of a value's type, for errors."""
    of = type(value)
    return of.__qualname__ if of.__module__ == "builtins" else f"{of.__module__}.{of.__qualname__}"


def is_text(array: np.ndarray) -> bool:
    """Whether it holds strings, numpy's own or objects."""
    return array.dtype.kind == "U" or (array.dtype == object and all(isinstance(item, str) for item in array.flat))


def given(value: object) -> str:
    """An input for errors: ``float32 (2, 3)``."""
    if not isinstance(value, np.ndarray):
        return kind(value)
    return f"{value.dtype.name} {value.shape}{'' if value.size else ' (empty)'}"
