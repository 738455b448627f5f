"""The catalogue: every key in both languages with the same places, every key that is used is there, and none is left over."""

from __future__ import annotations

import ast
import re
import string
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from onnxferry.demo.words.language import LANGUAGES, say

ROOT = Path(__file__).parents[3] / "demo"
SOURCES = {path: path.read_text(encoding="utf-8") for path in sorted(ROOT.rglob("*.py")) if path.parent.name != "words"}


def places(text: str) -> set[str]:
    """The names in braces; formulas are no places."""
    return set() if "$" in text else {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_both_languages_have_the_same_keys_and_places() -> None:
    english, chinese = LANGUAGES["en"], LANGUAGES["zh"]
    assert set(english) == set(chinese)
    assert {key for key in english if places(english[key]) != places(chinese[key])} == set()
    assert {key for key in english if english[key].count("|") != chinese[key].count("|")} == set()
    assert {key for key in english if not english[key].strip() or not chinese[key].strip()} == set()


def test_chinese_is_chinese() -> None:
    same = {key for key, text in LANGUAGES["zh"].items() if not re.search(r"[\u4e00-\u9fff]", text)}
    assert same == {"write.top_k", "write.top_p", "yours.text.default", "hood.about.size.words", "crossing.pytorch", "crossing.float32"}


def used() -> tuple[set[str], list[re.Pattern[str]]]:
    """Keys that the sources name, and patterns of those that they put together."""
    whole: set[str] = set()
    parts: list[re.Pattern[str]] = []
    for source in SOURCES.values():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                whole.add(node.value)
            elif isinstance(node, ast.JoinedStr):
                pattern = "".join(re.escape(part.value) if isinstance(part, ast.Constant) else ".*" for part in node.values)  # type: ignore[arg-type]
                if re.match(r"[a-z]+\\\.", pattern):
                    parts.append(re.compile(pattern))
    for path in (ROOT / "static" / "site").rglob("*.mjs"):
        script = path.read_text(encoding="utf-8")
        whole |= set(re.findall(r'"([^"\n]*)"', script))
        parts += [
            re.compile(".*".join(map(re.escape, re.split(r"\$\{[^}]*\}", text)))) for text in re.findall(r"`([a-z]+\.[^`\n]*)`", script)
        ]
    return whole, parts


def test_every_key_is_used() -> None:
    whole, parts = used()
    assert {key for key in LANGUAGES["en"] if key not in whole and not any(part.fullmatch(key) for part in parts)} == set()


def test_no_page_has_words_of_its_own() -> None:
    """What a Streamlit element shows comes from the catalogue, or from functions that make it untrusted text."""
    shows = {"caption", "info", "error", "success", "warning", "header", "markdown", "button", "selectbox", "slider", "toggle", "metric"}
    found = []
    for path, source in SOURCES.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in shows and node.args:
                first = node.args[0]
                constants = [each.value for each in ast.walk(first) if isinstance(each, ast.Constant) and isinstance(each.value, str)]
                named = "say(" in ast.unparse(first) or "marked(" in ast.unparse(first)
                if not named and any(re.search(r"[A-Za-z]{3}.* ", each) for each in constants):
                    found.append(f"{path.name}: {ast.unparse(first)}")
    assert found == []


PAGES = ("recognise", "write", "imagine", "compress", "your_model", "under_the_hood")


@pytest.mark.parametrize("page", PAGES)
def test_every_page_speaks_chinese(show: Callable[..., AppTest], well, html, page: str) -> None:
    shown = show(page, lang="zh", **({"length": "20"} if page == "write" else {}))
    well(shown)
    titles = {"your_model": "your-model", "under_the_hood": "under-the-hood"}
    assert LANGUAGES["zh"][f"menu.{titles.get(page, page)}"] in html(shown)
    labels = [
        str(getattr(each, "label", "")) for each in (*shown.button, *shown.selectbox, *shown.number_input, *shown.slider, *shown.toggle)
    ]
    latin = {label for label in labels if label and not re.search(r"[\u4e00-\u9fff]", label)}
    assert latin <= {"Top-k", "Top-p", "English", "digits", "shakespeare"}


def test_outside_a_page_words_are_english() -> None:
    assert say("menu.write") == "Write"
    assert say("recognise.several", count=2) == "I read one digit at a time. I see 2 figures."
