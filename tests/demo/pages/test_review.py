"""Review, by AppTest: which model reads a text, the words that decided, and what is said where there is none."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from streamlit.testing.v1 import AppTest

from onnxferry.demo.pages.review import EXAMPLES, LONGEST, MODELS, leaning, model_for, pieces
from onnxferry.export import export_checkpoint
from onnxferry.runtime import load
from onnxferry.runtime.tasks.text_classifier import ByteTextClassifier
from onnxferry.train.families.text_classifier import TextClassifierConfig, TextNetwork
from onnxferry.train.loop.checkpoint import Checkpoint

Show = Callable[..., AppTest]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both models, which have learned nothing."""
    folder = tmp_path_factory.mktemp("reviews")
    config = TextClassifierConfig(labels=("negative", "positive"), width=4, embedding=4, buckets=64, linear_buckets=256)
    torch.manual_seed(0)
    network = TextNetwork(config)
    network.linear.normal_()
    examples = {"text": torch.frombuffer(bytearray("a text\n好".encode()), dtype=torch.uint8)}
    Checkpoint("text-classifier", dataclasses.asdict(config), network.state_dict(), examples=examples).save(folder / "best.pt")
    for name in MODELS:
        (folder / name).mkdir()
        export_checkpoint(folder / "best.pt", folder / name / f"{name}.onnx", name=name)
        card = {"name": name, "description": "", "family": "text-classifier", "command": "", "figures": {}, "parity": {}}
        (folder / name / "card.json").write_text(json.dumps(card))
    return folder


def test_a_text_is_answered_with_the_words_that_decided(show: Show, well, html, zoo: Path) -> None:
    page = show("review", zoo=zoo, review="so good <b> & bad")
    well(page)
    shown = html(page)
    assert "of-leaning" in shown
    assert "&lt;b" not in shown.split("of-leaning")[0]
    assert ">so </span>" in shown
    with load(zoo / "sentiment-en" / "sentiment-en.onnx") as model:
        assert isinstance(model, ByteTextClassifier)
        assert f'<strong style="font-size:1.50rem">{model.classify("so good <b> & bad").label}</strong>' in shown
    assert len(page.get("bidi_component")) == 1  # Copy link
    page.button[0].click().run()
    well(page)


def test_a_visitor_sees_a_review_in_their_language_first(show: Show, well, zoo: Path) -> None:
    for lang, first in (("en", EXAMPLES[0]), ("zh", EXAMPLES[2])):
        page = show("review", zoo=zoo, lang=lang)
        well(page)
        assert page.text_area[0].value == first


def test_chinese_is_read_by_the_other_model() -> None:
    assert [model_for(text) for text in ("good", "好", "ok 好", "")] == ["sentiment-en", "sentiment-zh", "sentiment-zh", "sentiment-en"]


def test_an_empty_text_a_long_one_and_no_model(show: Show, well, zoo: Path, tmp_path: Path) -> None:
    page = show("review", zoo=zoo, review=" ")
    well(page)
    assert any("at least one word" in each.value for each in page.info)
    page = show("review", zoo=zoo, review="word " * LONGEST)
    well(page)
    assert any(f"the first {LONGEST:,}" in each.value for each in page.caption)
    page = show("review", zoo=tmp_path, review="good")
    well(page)
    assert "not shipped" in page.info[0].value or "sentiment" in page.info[0].value


def test_pieces_are_the_text_and_leanings_are_shares(zoo: Path) -> None:
    text = "  a 好, text\n"
    with load(zoo / "sentiment-en" / "sentiment-en.onnx") as model:
        assert isinstance(model, ByteTextClassifier)
        found = model.explain(text)
    assert "".join(pieces(found, text)) == text
    leans = leaning(found)
    assert len(leans) == len(found.words)
    assert max(map(abs, leans)) == 1.0
