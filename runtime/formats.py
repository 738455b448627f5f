"""Sizes in bytes, in words."""

from __future__ import annotations


def human_bytes(size: int) -> str:
    """1536 → ``1.5 kB``; decimal units, as file managers and disks count."""
    if size < 1000:
        return f"{size} B"
    for unit in ("kB", "MB", "GB"):
        if size < 999_950 or unit == "GB":
            return f"{size / 1000:.1f} {unit}"
        size //= 1000
    raise AssertionError("the last unit takes every size")
