"""Sizes in bytes as text, and documents as JSON can hold them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any


def human_bytes(size: int) -> str:
    """1536 → ``1.5 kB``; decimal units, as file managers and disks count."""
    if size < 1000:
        return f"{size} B"
    for unit in ("kB", "MB", "GB"):
        if size < 999_950 or unit == "GB":
            return f"{size / 1000:.1f} {unit}"
        size //= 1000
    raise AssertionError("the last unit takes every size")


def json_safe(value: Any) -> Any:
    """The document with NaN and infinities, which JSON lacks, as None, and sets as sorted lists."""
    if isinstance(value, Mapping):
        return {str(key): json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(map(json_safe, value))
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_text(document: Any, indent: int | None = None, encoding: str = "utf-8") -> str:
    """Strict JSON, see :func:`json_safe`, with letters of all scripts as they are.

    What a terminal would act on is escaped, and all that is not ASCII where ``encoding`` lacks one of the characters, as it does for file
    names that are no UTF-8.
    """
    safe = json_safe(document)
    text = json.dumps(safe, indent=indent, allow_nan=False, ensure_ascii=False)
    text = re.sub(r"[^\x00-\x7e]", _printable, text)
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return json.dumps(safe, indent=indent, allow_nan=False)
    return text


def _printable(found: re.Match[str]) -> str:
    return found[0] if found[0].isprintable() else json.dumps(found[0])[1:-1] if ord(found[0]) > 0x7F else "\\u007f"
