"""Under the hood, by AppTest: every model that is shipped, and one that is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

Show = Callable[..., AppTest]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("digits", "model.predict("),
        ("shakespeare", "model.stream("),
        ("fashion", "model.predict("),
        ("digits-gan", "model.sample("),
        ("digits-ae", "model.encode("),
    ],
)
def test_every_model_is_explained(show: Show, well, html, name: str, line: str) -> None:
    page = show("under_the_hood", about=name)
    well(page)
    assert len(page.latex) == 1
    code = [each.value for each in page.code]
    assert f'load("{name}")' in code[0]
    assert line in code[0]
    assert code[1].startswith("onnxferry train ")
    assert "gave the same answers" in " ".join(each.value for each in page.markdown)
    assert "allowed" in html(page)


@pytest.mark.parametrize("name", ["digits", "digit-scenes", "shakespeare", "digits-gan", "digits-ae"])
def test_the_python_to_copy_is_python(name: str) -> None:
    from onnxferry.demo.shipped.explanations import FAMILIES, snippet

    family = {"digits": "cnn", "digit-scenes": "detector", "shakespeare": "rnn", "digits-gan": "gan", "digits-ae": "ae"}[name]
    assert family in FAMILIES
    compile(snippet(family, name, "9"), name, "exec")
    assert snippet("unheard of", name) == ""


def test_a_model_that_is_not_there_is_one_line(show: Show, well) -> None:
    page = show("under_the_hood", about="fashion-gan")
    well(page)
    assert "does not ship" in page.info[0].value


def test_nothing_is_shipped(show: Show, well, tmp_path: Path) -> None:
    page = show("under_the_hood", zoo=tmp_path)
    well(page)
    assert "does not ship" in page.info[0].value
