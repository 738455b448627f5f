"""Cards side by side: the same answer by several ways, and a stamp over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Card:
    """One way across."""

    name: str
    how: str  # what it is, in a few words
    answer: str  # large; "" where there is none
    note: str  # under it
    rows: Sequence[tuple[str, str]] = ()  # name, value
    stamp: str = ""  # what the self-test said
    good: bool = True  # of the stamp
    other: bool = False  # True where the answer is not that of the others


def cards(all_cards: Sequence[Card], *, name: str) -> str:
    """HTML: they share the width, and stand under one another where it is narrow."""
    return f'<div class="of-cards" role="group" aria-label="{escape(name)}">{"".join(map(_card, all_cards))}</div>'


def stamp(words: str, *, good: bool) -> str:
    """One line that says how it went, with a mark for those who do not see its colour."""
    mark = "✓" if good else "✗"
    return f'<p class="of-stamp {"of-good" if good else "of-bad"}" role="status"><b aria-hidden="true">{mark}</b> {escape(words)}</p>'


def _card(card: Card) -> str:
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in card.rows)
    facts = f"<dl>{rows}</dl>" if rows else ""
    large = f"<strong{' class=of-other' if card.other else ''}>{escape(card.answer or '–')}</strong>"
    return (
        f'<section aria-label="{escape(card.name)}"><h3>{escape(card.name)}</h3><p>{escape(card.how)}</p>'
        f'<div class="of-crossed">{large}<span>{escape(card.note)}</span></div>{facts}{_stamped(card)}</section>'
    )


def _stamped(card: Card) -> str:
    return stamp(card.stamp, good=card.good) if card.stamp else ""
