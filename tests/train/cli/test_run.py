"""The lines of a training: whole where they fit, else broken between fields."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import pytest
from rich.console import Console

from onnxferry.train.cli.run import ProgressBar, data_progress

CNN = {
    "epoch": 1,
    "seconds": 23.4,
    "train": {"loss": 2.32711, "accuracy": 0.11667},
    "validation": {"loss": 2.3049, "accuracy": 0.125, "n": 200},
}
GAN = {
    "epoch": 12,
    "seconds": 1234.5,
    "train": {"loss": 5.8843, "generator": 1.0069, "discriminator": 4.8774},
    "validation": {"frechet": 21.556, "precision": 0.0, "recall": 0.0, "coverage": 0.0, "agreement": 0.1, "n": 100},
}


@pytest.mark.parametrize(
    ("record", "best", "width", "rows"),
    [
        (CNN, True, 120, ["epoch   1/40  train loss 2.3271  accuracy 11.67 %  validation loss 2.3049  accuracy 12.50 %  23 s best"]),
        (
            CNN,
            True,
            80,
            ["epoch   1/40  train loss 2.3271  accuracy 11.67 %", "              validation loss 2.3049  accuracy 12.50 %  23 s best"],
        ),
        ({**CNN, "validation": {}}, True, 80, ["epoch   1/40  train loss 2.3271  accuracy 11.67 %  23 s"]),
        (
            GAN,
            False,
            80,
            [
                "epoch  12/40  train loss 5.8843  generator's loss 1.0069",
                "              discriminator's loss 4.8774",
                "              validation Fréchet distance 21.5560  precision 0.00 %",
                "              recall 0.00 %  coverage 0.00 %  read as asked 10.00 %  1234 s",
            ],
        ),
    ],
)
def test_a_line_of_an_epoch_breaks_between_fields(record: Mapping[str, Any], best: bool, width: int, rows: list[str]) -> None:
    said = io.StringIO()
    ProgressBar(40, Console(file=said, width=width)).validated(record, best, "")
    assert said.getvalue().splitlines() == rows


@pytest.mark.parametrize(("terminal", "shown"), [(True, ["MNIST", "1.0/2.0 MB", "reading images", "3/7"]), (False, [])])
def test_data_progress_is_shown_on_a_terminal_only(terminal: bool, shown: list[str]) -> None:
    said = io.StringIO()
    with data_progress(Console(file=said, width=120, force_terminal=terminal, color_system=None)) as progress:
        progress("MNIST", 1_000_000, 2_000_000, "bytes")
        progress("reading images", 3, 7, "images")
    assert [word for word in shown if word not in said.getvalue()] == []
    assert bool(said.getvalue()) is terminal
