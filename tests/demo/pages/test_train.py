"""Train it here, by AppTest: the recorded run, which every machine can show."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from streamlit.testing.v1 import AppTest

from onnxferry.demo.pages import train
from onnxferry.demo.shipped import crossing
from onnxferry.demo.training.frames import RECORDED

Show = Callable[..., AppTest]


def test_without_pytorch_the_record_is_played_and_its_file_can_be_drawn_on(show: Show, well, html, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "can_train", lambda: False)
    page = show("train", drawing=crossing.recorded().strokes[1])
    well(page)
    assert [button.label for button in page.button] == ["Play a recorded run"]
    assert "PyTorch, which is not installed" in page.info[0].value
    page.button[0].click().run()
    well(page)
    page.session_state["played"] = time.monotonic() - 2 * train._PLAYED_SECONDS  # as if it had been played to its end
    page.run()
    well(page)
    assert [header.value for header in page.header] == ["One file, compared with PyTorch", "Draw on it"]
    assert "<strong>1</strong>" in html(page)


def test_a_link_to_a_drawing_shows_it_read_by_the_recorded_network(show: Show, well, html) -> None:
    page = show("train", drawing=crossing.recorded().strokes[7])
    well(page)
    assert "<strong>7</strong>" in html(page)
    assert show("train").header == []


def test_with_pytorch_it_can_be_trained(show: Show, well, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []

    class Run:
        def __init__(self) -> None:
            begun.append(self)
            self.folder = RECORDED
            self.runs = True

        def is_running(self) -> bool:
            return self.runs

        def problem(self) -> str:
            return ""

        def stop(self) -> None:
            self.runs = False

    monkeypatch.setattr(train, "can_train", lambda: True)
    monkeypatch.setattr(train, "Run", Run)
    page = show("train")
    well(page)
    next(button for button in page.button if button.label == "Train").click().run()
    well(page)
    assert len(begun) == 1
    page.run()
    assert [button.label for button in page.button if not button.disabled] == ["Stop"]
    begun[0].stop()
    page.run()
    well(page)
    assert "One file, compared with PyTorch" in [header.value for header in page.header]
