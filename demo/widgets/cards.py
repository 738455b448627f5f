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
    way: str = ""  # by which a script finds it


def cards(all_cards: Sequence[Card], *, name: str) -> str:
    """HTML: they share the width, and stand under one another where it is narrow."""
    return f'<div class="of-cards" role="group" aria-label="{escape(name)}">{"".join(map(card, all_cards))}</div>'


def stamp(words: str, *, good: bool) -> str:
    """One line that says how it went, with a mark for those who do not see its colour."""
    mark = "✓" if good else "✗"
    return f'<p class="of-stamp {"of-good" if good else "of-bad"}" role="status"><b aria-hidden="true">{mark}</b> {escape(words)}</p>'


def card(one: Card) -> str:
    """HTML of one of them."""
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in one.rows)
    facts = f"<dl>{rows}</dl>" if rows else ""
    large = f"<strong{' class=of-other' if one.other else ''}>{escape(one.answer or '–')}</strong>"
    way = f' data-way="{escape(one.way)}"' if one.way else ""
    return (
        f'<section aria-label="{escape(one.name)}"{way}><h3>{escape(one.name)}</h3><p>{escape(one.how)}</p>'
        f'<div class="of-crossed">{large}<span>{escape(one.note)}</span></div>{facts}{_stamped(one)}</section>'
    )


def _stamped(one: Card) -> str:
    return stamp(one.stamp, good=one.good) if one.stamp else ""
