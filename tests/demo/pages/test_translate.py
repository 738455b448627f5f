"""Translate, by AppTest: the answer is the model's, and attention between bytes is shown between characters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from streamlit.testing.v1 import AppTest

from onnxferry.demo.pages.translate import EXAMPLES, by_character
from onnxferry.runtime import Translation, load

Show = Callable[..., AppTest]


def shown(page: AppTest) -> str:
    return " ".join(each.value for each in page.get("html"))


def test_it_translates_what_the_address_says(show: Show, well, tiny_zoo: Path) -> None:
    page = show("translate", text="2019年3月3日")
    well(page)
    with load(tiny_zoo / "dates" / "dates.onnx") as model:
        best = model.explain("2019年3月3日", beam=3)[0]
    assert (best.text or "?") in shown(page)
    assert page.text_input[0].value == "2019年3月3日"


def test_an_example_is_one_press_away_and_nothing_is_no_text(show: Show, well) -> None:
    page = show("translate")
    assert page.text_input[0].value == EXAMPLES[0]
    next(button for button in page.button if button.label == EXAMPLES[2]).click().run()
    well(page)
    assert page.text_input[0].value == EXAMPLES[2]
    page.text_input[0].set_value(" ").run()
    well(page)
    assert page.info


def test_attention_is_added_up_for_a_character_s_bytes() -> None:
    text, made = "é日", "ñ1"
    weights = np.array([[2, 0, 1, 1, 1, 5], [4, 0, 1, 1, 2, 2], [0, 1, 0, 0, 0, 9], [0, 0, 0, 0, 0, 10]], np.float32) / 10
    columns, rows, joined = by_character(text, Translation(made, -1.0, weights, True))
    assert columns[:2] == ["é", "日"]
    assert rows[:2] == ["ñ", "1"]
    np.testing.assert_allclose(joined, np.array([[3, 3.5, 3.5], [1, 0, 9], [0, 0, 10]], np.float32) / 10, rtol=1e-6)
    _, cut, more = by_character(text, Translation(made, -1.0, weights[:3], False))
    assert cut == ["ñ", "1"]
    np.testing.assert_allclose(more, joined[:2])


def test_bytes_that_are_no_text_have_numbers_for_rows() -> None:
    _, rows, joined = by_character("a", Translation("\ufffd", -1.0, np.full((3, 2), 0.5, np.float32), True))
    assert rows == ["1", "2", "3"]
    assert joined.shape == (3, 2)
