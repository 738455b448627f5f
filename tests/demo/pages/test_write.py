"""Write, by AppTest: settings decide the text, and what is out of range never gets that far."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from onnxferry.demo.pages import write
from onnxferry.demo.pages.write import LONGEST_PROMPT, Settings, Written
from onnxferry.runtime import TextGenerator, load

Show = Callable[..., AppTest]


@pytest.fixture(scope="module")
def writer(tiny_zoo: Path) -> Iterator[TextGenerator]:
    with load(tiny_zoo / "shakespeare" / "shakespeare.onnx") as model:
        assert isinstance(model, TextGenerator)
        yield model


def test_it_writes_when_it_is_opened(show: Show, well, writer: TextGenerator) -> None:
    page = show("write", prompt="JULIET:\n", seed="7", length="100", temperature="0.5", top_k="20", top_p="0.9")
    well(page)
    written = page.session_state["written"]
    assert written.finished
    assert written.settings == Settings("JULIET:\n", 0.5, 20, 0.9, 100, 7)
    assert written.text == writer.generate("JULIET:\n", 100, 0.5, 20, 0.9, 7)


def write_button(page: AppTest):
    return next(button for button in page.button if button.label == "Write")


def test_a_change_waits_for_the_button(show: Show, well, writer: TextGenerator) -> None:
    page = show("write", length="50")
    before = page.session_state["written"].text
    page.text_area[0].set_value("To be")
    assert page.session_state["written"].text == before
    write_button(page).click().run()
    well(page)
    assert page.session_state["written"].text == writer.generate("To be", 50, seed=0)


def test_a_long_paste_is_cut_and_said_so(show: Show, well) -> None:
    page = show("write", length="10")
    page.text_area[0].set_value("word " * 2000)
    write_button(page).click().run()
    well(page)
    assert page.session_state["written"].settings.prompt == ("word " * 2000)[-LONGEST_PROMPT:]
    assert any("4,000 of 10,000" in each.value for each in page.caption)


def test_another_language_is_answered_in_english_and_said_so(show: Show, well) -> None:
    page = show("write", length="10", prompt="中文")
    well(page)
    assert any("only read English" in each.value for each in page.caption)


def test_letters_are_coloured_and_branch(show: Show, well, html, writer: TextGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, list] = {}

    def letters(key: str, shown: list[str], heat: list[float], rest: str = "") -> int:
        given.update(letters=shown, heat=heat)
        return 6

    monkeypatch.setattr(write, "coloured_letters", letters)
    page = show("write", length="30", show="surprise")
    well(page)
    whole = "ROMEO:\n" + page.session_state["written"].text
    assert "".join(given["letters"]) == whole
    assert all(0 <= heat <= 1 for heat in given["heat"])
    assert any("bits a letter" in each.value for each in page.caption)
    assert "of-spark" in html(page)
    branches = [button for button in page.button if " · " in button.label]
    assert len(branches) == 5
    branches[1].click().run()
    well(page)
    prompt = page.session_state["written"].settings.prompt
    assert prompt.startswith("ROMEO:")
    assert len(prompt) == 7
    assert page.session_state["written"].text == writer.generate(prompt, 30, seed=0)


def test_the_next_seed_writes_another_text(show: Show, well, writer: TextGenerator) -> None:
    page = show("write", length="50")
    next(button for button in page.button if button.label == "Another one").click().run()
    well(page)
    assert page.session_state["written"].text == writer.generate("ROMEO:\n", 50, seed=1)


def test_what_is_typed_is_no_markup(show: Show, well, html) -> None:
    page = show("write", prompt="<script>alert(1)</script>", length="50")
    well(page)
    assert "<script>" not in html(page)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html(page)


def test_an_empty_prompt(show: Show, well) -> None:
    page = show("write", length="50")
    page.text_area[0].set_value("")
    write_button(page).click().run()
    well(page)
    assert page.session_state["written"].text


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", "nan"), ("temperature", "-3"), ("top_p", "0"), ("seed", "-1"), ("length", "1e9"), ("top_k", "x")],
)
def test_an_address_out_of_range_is_forgiven(show: Show, well, name: str, value: str) -> None:
    page = show("write", **({"length": "50"} | {name: value}))
    well(page)
    assert page.session_state["written"].finished


def test_what_was_stopped_says_so() -> None:
    written = Written(Settings(), "abc", 0.5)
    assert written.note() == "3 letters in 0.5 s, stopped"
    written.finished = True
    assert written.note() == "3 letters in 0.5 s"


def test_stop_before_the_first_piece(show: Show, well, writer: TextGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that ends, as Stop ends it, before anything was written: the page goes on, and writes again when asked."""

    def stopped(*_: object) -> Iterator[str]:
        st.stop()
        yield ""

    with monkeypatch.context() as patch:
        patch.setattr(TextGenerator, "stream", stopped)
        page = show("write", length="50")
        well(page)
        assert not page.session_state["written"].finished
    page.run()
    well(page)
    assert page.session_state["written"].text == ""
    assert any(each.value == "0 letters in 0.0 s, stopped" for each in page.caption)
    write_button(page).click().run()
    well(page)
    assert page.session_state["written"].text == writer.generate("ROMEO:\n", 50, seed=0)


def test_a_model_that_is_not_there_is_one_line(show: Show, well, tmp_path: Path) -> None:
    page = show("write", zoo=tmp_path)
    well(page)
    assert "does not ship" in page.info[0].value
