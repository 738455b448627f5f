"""Each letter's surprise adds up to the model's own score."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from onnxferry.demo.shipped import surprise
from onnxferry.runtime import TextGenerator, load

ZOO = Path(__file__).parents[3] / "runtime" / "zoo"


@pytest.fixture(scope="module")
def writer() -> Iterator[TextGenerator]:
    with load(ZOO / "shakespeare" / "shakespeare.onnx") as model:
        assert isinstance(model, TextGenerator)
        yield model


def test_bits_are_the_score_letter_by_letter(writer: TextGenerator) -> None:
    text = "To be, or not to be: é"
    bits = surprise.bits(writer, list(text))
    assert bits.shape == (len(text),)
    assert bits.sum() == pytest.approx(writer.score(text) / np.log(2) * len(text.encode()), rel=1e-4)
    assert bits[-1] > 5  # no play has such a letter


def test_what_was_weighed_is_sorted_and_agrees(writer: TextGenerator) -> None:
    shares = surprise.weighed(writer, "ROMEO")
    assert shares[0][0] == ":"
    assert [share for _, share in shares] == sorted((share for _, share in shares), reverse=True)
    assert len(shares) == 5
    assert 2 ** -surprise.bits(writer, list("ROMEO:"))[-1] == pytest.approx(shares[0][1], rel=1e-3)
    assert len(surprise.weighed(writer, "")) == 5
