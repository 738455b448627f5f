"""Sizes in bytes as text, and documents as JSON can hold them."""

from __future__ import annotations

import math
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
    """The document with NaN and infinities, which JSON lacks, as None."""
    if isinstance(value, Mapping):
        return {str(key): json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
