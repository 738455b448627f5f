"""The game, by AppTest and by its own functions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from onnxferry.demo.images.strokes import PAINTED
from onnxferry.demo.pages.game import Game, card

Show = Callable[..., AppTest]


def press(page: AppTest, label: str) -> None:
    next(button for button in page.button if button.label == label).click().run()


def test_all_passed_over_is_nothing_read(show: Show, well, html) -> None:
    page = show("game", order="0123456789")
    well(page)
    press(page, "Start the clock")
    assert page.session_state["game"].order == "0123456789"
    for digit in range(10):
        well(page)
        assert f"Draw a {digit}." in html(page)
        press(page, "Skip")
    well(page)
    assert "0 of 10 read" in html(page)
    press(page, "Once more")
    well(page)
    assert sorted(page.session_state["game"].order) == list("0123456789")


@pytest.mark.parametrize("order", ["", "12", "x" * 10, "0" * 11])
def test_an_order_that_is_none_is_forgiven(show: Show, well, order: str) -> None:
    page = show("game", order=order)
    press(page, "Start the clock")
    well(page)
    assert sorted(page.session_state["game"].order) == list("0123456789")


def test_the_card_holds_every_drawing() -> None:
    game = Game("0123456789", 0.0)
    for digit in range(10):
        game.done(np.full((PAINTED, PAINTED, 1), 20 * digit, np.uint8), str(digit) if digit % 2 else "")
    assert game.right == 5
    made = card(game)
    for digit in range(10):
        assert (made == 20 * digit).all(axis=2).sum() >= PAINTED * PAINTED - 4 * PAINTED
