"""The crossing, by AppTest; and that what PyTorch answered is of the file that ships."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from onnxferry.demo.images.strokes import write_strokes
from onnxferry.demo.shipped import crossing
from onnxferry.runtime import load
from onnxferry.runtime.artifact.zoo import zoo_model

Show = Callable[..., AppTest]


def test_the_record_is_of_the_shipped_file() -> None:
    record = crossing.recorded()
    digest = hashlib.sha256(zoo_model("digits").path.read_bytes()).hexdigest()
    assert record.record["sha256"] == digest, "digits has changed: python tests/bench/record_crossing.py"
    with load("digits") as model:
        found = np.stack([each.probabilities for each in model.predict(list(record.images))])  # type: ignore[attr-defined]
    assert np.abs(found - record.probabilities).max() <= 1e-5
    assert len(record.images) == len(record.labels) == len(record.probabilities)


def test_the_record_is_what_pytorch_answers() -> None:
    if importlib.util.find_spec("torch") is None:
        pytest.skip("needs PyTorch, which answers anew")
    import torch

    from scoreboard.rebuilt import rebuild

    record = crossing.recorded()
    network = rebuild(zoo_model("digits").path).module.eval()
    with torch.inference_mode():
        for image, expected in list(zip(record.images, record.probabilities, strict=True))[::6]:
            np.testing.assert_allclose(network(torch.from_numpy(image[None].copy()))[0][0].numpy(), expected, atol=1e-6)


def test_a_recorded_drawing_is_answered_by_three_ways(show: Show, well, html) -> None:
    page = show("crossing", shown="7")
    well(page)
    body = html(page)
    assert "The same answer each way." in body
    assert body.count("<strong>7</strong>") == 3
    assert body.count("Self-test: 8 of 8 as in PyTorch") == 2


def test_a_drawing_of_ones_own_has_no_answer_of_pytorch(show: Show, well, html) -> None:
    strokes = crossing.recorded().strokes[4]
    page = show("crossing", crosses="Draw", drawing=strokes)
    well(page)
    body = html(page)
    assert body.count("<strong>4</strong>") == 2
    assert "It recorded its answers to the other drawings only." in body
    well(show("crossing", crosses="Draw", drawing=write_strokes([])))


def test_a_broken_file_fails_its_self_test_and_nothing_else_changes(show: Show, well, html) -> None:
    page = show("crossing", shown="7", broken="on")
    well(page)
    body = html(page)
    assert "The self-test has found the damage." in body
    assert "Self-test: 0 of 8 as in PyTorch" in body
    assert body.count("<strong>7</strong>") == 2
    page.toggle[0].set_value(False).run()
    well(page)
    assert "The same answer each way." in html(page)


@pytest.mark.parametrize("query", [{"shown": "999"}, {"shown": "x"}, {"broken": "maybe"}, {"crosses": "swims"}, {"drawing": "!"}])
def test_an_address_out_of_range_is_forgiven(show: Show, well, query: dict[str, str]) -> None:
    well(show("crossing", **query))
