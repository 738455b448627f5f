"""The crossing, by AppTest; and that what PyTorch answered is of the file that ships."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from onnxferry.demo.images.strokes import write_strokes
from onnxferry.demo.shipped import crossing, in_browser
from onnxferry.demo.shipped.examples import BROKEN, example_file
from onnxferry.runtime import load
from onnxferry.runtime.artifact.zoo import zoo_model
from onnxferry.runtime.embed.web_runtime import FILES

Show = Callable[..., AppTest]


@pytest.fixture(autouse=True)
def no_web_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is in this user's cache, whatever is."""
    monkeypatch.setattr(in_browser, "_found", {})
    monkeypatch.setattr(in_browser, "web_runtime_here", lambda: None)


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


def to_browser(page: AppTest) -> dict[str, Any]:
    """What the page gives the visitor's browser to run."""
    (found,) = (each.proto for each in page.get("bidi_component") if "onnxferry_crossed" in str(each.proto))
    return json.loads(getattr(found, "bidi_component", found).json)["browser"]


def test_without_onnxruntime_web_the_page_says_how_to_get_it(show: Show, well) -> None:
    page = show("crossing")
    well(page)
    assert to_browser(page) is None
    assert any("`onnxferry demo --static site`" in each.value for each in page.caption)


def test_the_browser_is_given_the_file_the_image_and_what_to_compare_with(show: Show, well, html, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_browser, "web_runtime_here", lambda: dict.fromkeys(FILES, b"stand-in"))
    page = show("crossing", shown="7", lang="zh")
    well(page)
    given, record = to_browser(page), crossing.recorded()
    assert html(page).count('data-way="browser"') == 1
    assert "ONNX，这个浏览器" in html(page)
    assert base64.b64decode(given["image"]) == record.images[7].tobytes()
    assert given["shape"] == [1, *record.images[7].shape]
    np.testing.assert_array_equal(np.float32(given["expected"]), record.probabilities[7])
    found = in_browser.browser_files()
    assert found is not None
    assert (given["files"], given["model"]) == (found.address, "digits.onnx")
    assert found.files["digits.onnx"] == zoo_model("digits").path.read_bytes()
    for name in ("answer", "share", "milliseconds", "apart", "passed", "count"):
        assert all(f"{{{name}}}" in card for card in given["answered"]), name
    assert "of-bad" in given["answered"][0]
    assert "of-good" in given["answered"][1]
    broken = show("crossing", shown="7", broken="on")
    well(broken)
    assert to_browser(broken)["model"] == "broken.onnx"
    assert found.files["broken.onnx"] == example_file(BROKEN)
