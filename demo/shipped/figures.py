"""A card's figures and parity as rows to plot and to read. What has another shape than expected is left out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onnxferry.demo.widgets.html import percent
from onnxferry.demo.words.language import say


@dataclass(frozen=True)
class Figures:
    """Figures by how they are shown."""

    shares: tuple[tuple[str, float], ...]  # 0 to 1, near enough to 1 that what is missing says more
    others: Mapping[str, str]  # anything else, in words


_SHARE_FROM = 0.5


def read_figures(card: Mapping[str, Any]) -> Figures:
    """Shares (accuracy and the like) apart from the rest."""
    figures = card.get("figures")
    shares: list[tuple[str, float]] = []
    others: dict[str, str] = {}
    for name, value in figures.items() if isinstance(figures, Mapping) else ():
        words = name.replace("_", " ")
        if isinstance(value, bool) or not isinstance(value, int | float):
            others[words] = _words(value)
        elif isinstance(value, float) and _SHARE_FROM <= value <= 1 and not _has_unit(name):
            shares.append((words, value))
        else:
            others[words] = _number(value)
    return Figures(tuple(shares), others)


def error_rows(shares: tuple[tuple[str, float], ...]) -> list[tuple[str, float, str]]:
    """Rows for bars of what is *missing* from 100 %: 99.65 and 99.58 % look alike, 0.35 and 0.42 % do not.

    Each row is a name, a length 0 to 1 (the worst has 0.9), and the words.
    """
    worst = max((1 - share for _, share in shares), default=0.0) or 1.0
    return [
        (name, 0.9 * (1 - share) / worst, say("hood.share", right=percent(share), wrong=f"{100 * (1 - share):.2f} %"))
        for name, share in shares
    ]


def parity_rows(card: Mapping[str, Any]) -> list[tuple[str, float, str]]:
    """Rows for bars of the largest difference from the source, on a logarithmic scale from 1e-8 (0) to 1 (1).

    Each row is a name, a length, and the words, with the tolerance beside it.
    """
    parity = card.get("parity")
    outputs = parity.get("outputs") if isinstance(parity, Mapping) else None
    rows = []
    for name, found in outputs.items() if isinstance(outputs, Mapping) else ():
        if not isinstance(found, Mapping) or not isinstance(found.get("max_abs"), int | float):
            continue
        largest, elements = float(found["max_abs"]), found.get("elements", 0)
        allowed = _allowed(found)
        length = 0.0 if largest <= 0 else min(max((math.log10(largest) + 8) / 8, 0.02), 1.0)
        words = say("hood.proof.same" if largest == 0 else "hood.proof.apart", largest=f"{largest:.2g}", allowed=allowed)
        rows.append((say("hood.proof.row", name=name, count=f"{elements:,}"), length, words))
    return rows


def parity_sentence(card: Mapping[str, Any]) -> str:
    """What the comparison found, in one sentence; "" where the card has no parity."""
    parity = card.get("parity")
    if not isinstance(parity, Mapping):
        return ""
    outputs = parity.get("outputs")
    changed = sum(int(each.get("decisions_changed", 0)) for each in outputs.values()) if isinstance(outputs, Mapping) else 0
    key = "hood.proof.passed" if parity.get("passed") and not changed else "hood.proof.failed"
    return say(key, cases=parity.get("cases", "?"), untraced=parity.get("untraced_shapes", "?"), changed=changed)


def _allowed(found: Mapping[str, Any]) -> str:
    atol, rtol = found.get("atol", 0), found.get("rtol", 0)
    if not atol and not rtol:
        return say("yours.allowed none")
    return f"{atol:.2g}" + (f" + {rtol:.2g} |x|" if rtol else "")


def _has_unit(name: str) -> bool:
    return any(word in name.casefold() for word in ("second", "difference", "error", "nats", "bytes", "distance", "ratio"))


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _words(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_number(each) if isinstance(each, int | float) else str(each) for each in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_words(each) if not isinstance(each, int | float) else _number(each)}" for name, each in value.items())
    return str(value)
