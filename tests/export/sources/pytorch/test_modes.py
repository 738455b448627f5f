"""What an export leaves behind: nothing in the caller's model, nothing on the screen."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from onnxferry.export import export_model


class Counting(torch.nn.Module):
    """Writes into one buffer and replaces another; the answer depends on neither. Two constants are outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("last", torch.full((2,), float("nan")))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        self.calls += 1
        self.last = x.detach().sum(0)
        return 2 * x, torch.ones(3), torch.ones(3)


def test_buffers_are_put_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = Counting()
    before = model.last
    with caplog.at_level(logging.WARNING):
        report = export_model(model, (torch.randn(3, 2),), tmp_path / "model.onnx")
    assert report.passed
    assert model.calls.item() == 0
    assert model.last is before
    assert before.isnan().all()
    assert not [record.message for record in caplog.records if record.name.startswith(("onnx", "torch.onnx"))]
