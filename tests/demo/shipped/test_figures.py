"""Cards as rows to plot: ours, and cards of other shapes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from onnxferry.demo.shipped.figures import error_rows, parity_rows, parity_sentence, read_figures

CARDS = sorted((Path(__file__).parents[3] / "runtime" / "zoo").glob("*/card.json"))


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.parent.name)
def test_shipped_cards_show_everything_they_hold(path: Path) -> None:
    card = json.loads(path.read_text())
    figures = read_figures(card)
    assert len(figures.shares) + len(figures.others) == len(card["figures"])
    rows = parity_rows(card)
    assert len(rows) == len(card["parity"]["outputs"])
    assert all(0 <= length <= 1 for _, length, _ in rows)
    assert "gave the same answers" in parity_sentence(card)


def test_shares_apart_from_the_rest() -> None:
    figures = read_figures(
        {"figures": {"accuracy": 0.9965, "nats a byte": 0.9, "n": 10000, "list": [0.5, 1], "map": {"a": 0.25}, "flag": True}}
    )
    assert figures.shares == (("accuracy", 0.9965),)
    assert figures.others == {"nats a byte": "0.9", "n": "10,000", "list": "0.5, 1", "map": "a: 0.25", "flag": "True"}


def test_bars_show_what_is_missing() -> None:
    (a, b) = error_rows((("good", 0.99), ("bad", 0.9)))
    assert a[1] == pytest.approx(0.09)
    assert b == ("bad", pytest.approx(0.9), "90.0 % right (10.00 % wrong)")
    assert error_rows((("perfect", 1.0),))[0][1] == 0
    assert error_rows(()) == []


@pytest.mark.parametrize(
    "card", [{}, {"figures": None, "parity": None}, {"figures": [], "parity": {"outputs": 3}}, {"parity": {"outputs": {"x": {}}}}]
)
def test_other_shapes_are_left_out(card: dict) -> None:
    assert read_figures(card).shares == ()
    assert parity_rows(card) == []
